"""A node's newest batches, which readers who join take from memory."""

from gateway.nodes.feed import Batch, Recent


def batch(number: int, size: int = 1) -> Batch:
    return Batch(number, [], size)


def numbers(found: list[Batch] | None) -> list[int] | None:
    return None if found is None else [one.number for one in found]


def test_what_is_not_there_any_more_is_not_given_in_part() -> None:
    recent = Recent()
    assert recent.after(0) is None
    for number in range(5, 600):
        recent.put(batch(number))
    assert numbers(recent.after(98)) is None
    assert numbers(recent.after(99)) == list(range(100, 600))
    assert numbers(recent.after(597)) == [598, 599]
    assert numbers(recent.after(599)) == []


def test_after_a_gap_only_what_follows_counts() -> None:
    recent = Recent()
    for number in (1, 2, 5, 6):
        recent.put(batch(number))
    assert numbers(recent.after(2)) is None
    assert numbers(recent.after(4)) == [5, 6]


def test_large_batches_leave_early() -> None:
    recent = Recent()
    for number in range(1, 10):
        recent.put(batch(number, 3 * 1024 * 1024))
    assert numbers(recent.after(6)) is None
    assert numbers(recent.after(7)) == [8, 9]
