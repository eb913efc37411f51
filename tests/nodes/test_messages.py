"""What nodes send each other over Redis: who is believed, and in which order batches are read."""

from hypothesis import given
from hypothesis import strategies as st

from gateway.nodes.feed import Inbox
from gateway.nodes.message import BatchMessage, channel, read, signed

KEY, ANOTHERS = b"k" * 64, b"l" * 64
SENT = BatchMessage(7, 3, 0.001, b"a batch")


def test_a_message_is_read_by_whoever_has_its_nodes_key() -> None:
    assert read(signed(SENT, KEY), 7, KEY) == SENT


@given(st.binary(max_size=80))
def test_what_was_made_without_the_key_is_no_message(data: bytes) -> None:
    assert read(data, 7, KEY) is None


def test_no_byte_of_a_message_can_be_changed() -> None:
    sent = signed(SENT, KEY)
    for at in range(len(sent)):
        assert read(sent[:at] + bytes([sent[at] ^ 1]) + sent[at + 1 :], 7, KEY) is None
    assert read(signed(SENT, ANOTHERS), 7, KEY) is None
    assert read(signed(SENT, KEY), 8, KEY) is None


def test_channels_of_two_deployments_differ_whatever_their_nodes_numbers() -> None:
    assert channel(7, KEY) != channel(7, ANOTHERS)


@given(st.lists(st.integers(1, 12), max_size=40))
def test_batches_are_taken_in_their_order_and_once_however_they_come(numbers: list[int]) -> None:
    inbox, last, taken = Inbox(), 0, list[int]()
    for number in numbers:
        inbox.put(BatchMessage(7, number, 0.0, b"x"))
        while (found := inbox.next(last)) is not None:
            last = found[0].number
            taken.append(last)
    came = set(numbers)
    assert taken == [number for number in range(1, 13) if set(range(1, number + 1)) <= came]
    assert (inbox.told > last) == bool(came and max(came) > last)


def test_a_gap_is_seen_though_nothing_came_of_it() -> None:
    inbox = Inbox()
    inbox.put(BatchMessage(7, 5, 0.0))
    assert inbox.next(4) is None
    assert inbox.told == 5


def test_an_inbox_that_nobody_can_read_stays_small() -> None:
    inbox = Inbox()
    for number in range(2, 5000):
        inbox.put(BatchMessage(7, number, 0.0, b"x" * 10_000))
    held = [number for number in range(5000) if number in inbox]
    assert 0 < len(held) <= 1000
    assert held[-1] == 4999
    inbox.read(4999)
    assert not any(number in inbox for number in held)
