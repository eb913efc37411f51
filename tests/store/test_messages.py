"""A conversation's messages, a page at a time."""

import pytest

from gateway.errors import Code, GatewayError
from gateway.ids import TurnId
from gateway.store import MessageRow, Store
from tests.store.writes import begun, update


async def talk(store: Store, turns: int) -> list[str]:
    """A conversation whose clock stands still and goes back; gives the ids of its messages."""
    ids = []
    for number in range(turns):
        store.begin(begun(number, created_at=100.0 - number // 3))
        store.update(update(number, "completed", content=f"answer {number}", updated_at=100.0))
        ids += [f"turn_{number}.user", f"turn_{number}.assistant"]
        if number % 2:
            await store.settled()
    store.begin(begun(1000, "conv_2"))
    return ids


@pytest.mark.parametrize("limit", [1, 2, 3, 20, 200])
async def test_pages_joined_are_the_whole_conversation_in_order(store: Store, limit: int) -> None:
    ids = await talk(store, 10)
    found: list[str] = []
    more, before, pages = True, None, 0
    while more:
        page, more = await store.messages("conv_1", before=before, limit=limit)
        found = [message.id for message in page] + found
        before, pages = found[0], pages + 1
    assert found == ids
    assert pages == -(-len(ids) // limit)


async def test_a_turn_that_began_stands_after_those_that_ended_before_though_written_together(store: Store) -> None:
    store.begin(begun(1))
    store.update(update(1, "completed", content="quick"))
    store.begin(begun(2))
    await store.settled()
    page, _ = await store.messages("conv_1", before=None, limit=50)
    assert [message.id for message in page] == ["turn_1.user", "turn_1.assistant", "turn_2.user"]


async def test_a_message_has_its_turns_text_status_and_time(store: Store) -> None:
    store.begin(begun(1))
    store.update(update(1, content="Half", updated_at=102.0))
    store.update(update(1, "failed", content="Half of it", updated_at=109.0))
    assert await store.messages("conv_1", before=None, limit=50) == (
        [
            MessageRow("turn_1.user", TurnId("turn_1"), "user", "question 1", "completed", 100.0),
            MessageRow("turn_1.assistant", TurnId("turn_1"), "assistant", "Half of it", "failed", 102.0),
        ],
        False,
    )


@pytest.mark.parametrize("write_between", [False, True])
async def test_an_answers_time_is_that_of_its_first_piece_and_not_before_its_question(
    store: Store, write_between: bool
) -> None:
    store.begin(begun(1))
    for second in (50.0, 150.0):
        store.update(update(1, content="…", updated_at=second))
        if write_between:
            await store.settled()
    page, _ = await store.messages("conv_1", before=None, limit=50)
    assert page[1].created_at == 100.0
    store.begin(begun(2))
    for second in (150.0, 160.0):
        store.update(update(2, content="…", updated_at=second))
        if write_between:
            await store.settled()
    page, _ = await store.messages("conv_1", before=None, limit=50)
    assert page[3].created_at == 150.0


async def test_an_answer_is_there_with_its_first_piece_or_its_turns_end(store: Store) -> None:
    async def roles() -> list[str]:
        return [message.role for message in (await store.messages("conv_1", before=None, limit=50))[0]]

    store.begin(begun(1))
    store.update(update(1, "running"))
    assert await roles() == ["user"]
    store.update(update(1, "running", content="A"))
    assert await roles() == ["user", "assistant"]
    store.begin(begun(2))
    store.update(update(2, "failed"))
    assert await roles() == ["user", "assistant"] * 2


@pytest.mark.parametrize(
    "before", ["turn_99.user", "turn_0", "turn_0.system", "", ".", "turn_1000.user", "' OR 1=1 --", "x" * 500]
)
async def test_an_unknown_message_is_named_in_the_problem(store: Store, before: str) -> None:
    await talk(store, 1)
    with pytest.raises(GatewayError, match="before: no message") as caught:
        await store.messages("conv_1", before=before, limit=5)
    assert caught.value.code is Code.INVALID_REQUEST
    assert repr(before[:80]) in caught.value.detail
    assert len(caught.value.detail) < 150
