"""What is written is what is read, however often and in whatever groups it is written."""

from functools import partial
from itertools import permutations

import pytest

from gateway.errors import Code, GatewayError
from gateway.ids import ConversationId, ShopId, TurnId, UserId
from gateway.store import ConversationRow, Store, TurnRow
from tests.store.conftest import OpenStore
from tests.store.writes import begun, contents, update

CONVERSATION, USER, SHOP = ConversationId("conv_1"), UserId("user"), ShopId("shop")
ANSWERED = update(
    1,
    "completed",
    content="An answer,\u2028 回答",
    reasoning="Thought",
    suggestions=["And then?", "Why?"],
    usage={"token_count": 7},
    coze_chat_id="chat",
    coze_conversation_id="coze",
    updated_at=105.5,
    position="abc-12",
    tool_calls=[{"id": "call"}],
)
ROW = TurnRow(
    turn_id=TurnId("turn_1"),
    conversation_id=CONVERSATION,
    user_id=USER,
    shop_id=SHOP,
    bot_id="bot",
    message="question 1",
    created_at=100.0,
    updated_at=105.5,
    status="completed",
    content="An answer,\u2028 回答",
    reasoning="Thought",
    suggestions=["And then?", "Why?"],
    usage={"token_count": 7},
    error=None,
    coze_chat_id="chat",
    coze_conversation_id="coze",
    position="abc-12",
    tool_calls=[{"id": "call"}],
)


@pytest.mark.parametrize("write_between", [False, True])
async def test_a_turn_is_read_as_it_was_written_before_and_after_it_is_committed(
    store: Store, write_between: bool
) -> None:
    store.begin(begun(1))
    if write_between:
        await store.settled()
    store.update(ANSWERED)
    store.name(CONVERSATION, "coze", 1)
    assert await store.turn("turn_1") == ROW
    await store.settled()
    assert await store.turn("turn_1") == ROW
    assert await store.conversation("conv_1") == ConversationRow(CONVERSATION, USER, SHOP, "bot", "coze", 100.0, 1)


async def test_a_turn_without_an_update_is_queued(store: Store) -> None:
    store.begin(begun(1, shop_id=None))
    queued = await store.turn("turn_1")
    await store.settled()
    assert await store.turn("turn_1") == queued
    assert queued is not None
    assert (queued.status, queued.shop_id, queued.updated_at, queued.content) == ("queued", None, 100.0, "")


async def test_a_failed_turn_keeps_its_error_and_what_there_was(store: Store) -> None:
    store.begin(begun(1))
    store.update(update(1, "failed", content="Half", error={"code": "upstream_failed", "retryable": True}))
    await store.settled()
    row = await store.turn("turn_1")
    assert row is not None
    assert (row.status, row.content, row.error) == ("failed", "Half", {"code": "upstream_failed", "retryable": True})


async def test_a_turn_or_conversation_that_never_began_is_not_found(store: Store) -> None:
    store.update(update(7))
    for _ in range(2):
        assert await store.turn("turn_7") is None
        assert await store.turn("turn_8") is None
        assert await store.conversation("conv_1") is None
        assert await store.messages("conv_1", before=None, limit=5) == ([], False)
        await store.settled()


@pytest.mark.parametrize("write_between", [False, True])
async def test_replaying_every_write_changes_nothing(url: str, open_store: OpenStore, write_between: bool) -> None:
    writes = [
        begun(1),
        update(1, content="A", coze_conversation_id="coze"),
        ANSWERED,
        begun(2, created_at=90.0),
        update(2, content="B", updated_at=91.0),
        begun(3, "conv_2"),
    ]
    dumps = []
    for _ in range(3):
        store = await open_store()
        for write in writes:
            (store.begin if type(write) is type(writes[0]) else store.update)(write)  # type: ignore[arg-type]
            if write_between:
                await store.settled()
        await store.close()
        dumps.append(contents(url))
    assert "An answer" in "".join(dumps[0])
    assert dumps[0] == dumps[1] == dumps[2]


@pytest.mark.parametrize("write_between", [False, True])
async def test_an_ended_turn_never_runs_again(store: Store, write_between: bool) -> None:
    store.begin(begun(1))
    store.update(ANSWERED)
    if write_between:
        await store.settled()
    store.update(update(1, "running", content="An"))
    assert await store.turn("turn_1") == ROW
    await store.settled()
    assert await store.turn("turn_1") == ROW
    store.begin(begun(1))
    store.update(update(1, "running", content="An"))
    await store.settled()
    assert await store.turn("turn_1") == ROW


@pytest.mark.parametrize("write_between", [False, True])
async def test_a_conversation_stays_its_first_users(store: Store, write_between: bool) -> None:
    store.begin(begun(1))
    if write_between:
        await store.settled()
    store.begin(begun(2, user_id="another", shop_id="other", bot_id="bot 2", created_at=200.0))
    expected = ConversationRow(CONVERSATION, USER, SHOP, "bot", "", 100.0)
    assert await store.conversation("conv_1") == expected
    await store.settled()
    assert await store.conversation("conv_1") == expected
    turn = await store.turn("turn_2")
    assert turn is not None
    assert turn.bot_id == "bot 2"


@pytest.mark.parametrize("write_between", [False, True])
@pytest.mark.parametrize("order", list(permutations((1, 2, 3))))
async def test_a_conversation_has_cozes_newest_id_in_whatever_order_the_ids_come(
    open_store: OpenStore, order: tuple[int, ...], write_between: bool
) -> None:
    store = await open_store()
    store.begin(begun(1))
    newest = 0
    for naming in order:
        if write_between:
            await store.settled()
        store.name(CONVERSATION, f"coze {naming}", naming)
        newest = max(newest, naming)
        row = await store.conversation("conv_1")
        assert row is not None
        assert (row.coze_conversation_id, row.naming) == (f"coze {newest}", newest)
    await store.close()
    store = await open_store()
    store.begin(begun(1))  # told again, as a start after a kill does
    store.name(CONVERSATION, "coze 2", 2)
    await store.settled()
    row = await store.conversation("conv_1")
    assert row is not None
    assert row.coze_conversation_id == "coze 3"
    store.name(CONVERSATION, "", 4)  # Coze has it no longer
    await store.settled()
    row = await store.conversation("conv_1")
    assert row is not None
    assert (row.coze_conversation_id, row.naming) == ("", 4)


async def test_an_id_whose_turn_no_database_takes_is_written_all_the_same(store: Store) -> None:
    store.begin(begun(1))
    await store.settled()
    store.begin(begun(2, message="\ud800"))
    store.name(CONVERSATION, "coze", 1)
    await store.settled()
    row = await store.conversation("conv_1")
    assert row is not None
    assert row.coze_conversation_id == "coze"
    assert await store.turn("turn_2") is None


async def test_a_closed_store_says_so(store: Store) -> None:
    await store.close()
    for call in (partial(store.begin, begun(1)), partial(store.update, update(1))):
        with pytest.raises(GatewayError, match="closed"):
            call()
    with pytest.raises(GatewayError, match="closed") as caught:
        await store.turn("turn_1")
    assert caught.value.code is Code.STORAGE_UNAVAILABLE


async def test_closing_writes_what_is_queued(store: Store, open_store: OpenStore) -> None:
    store.begin(begun(1))
    store.update(ANSWERED)
    await store.close()
    assert await (await open_store()).turn("turn_1") == ROW


@pytest.mark.parametrize("text", ["a\0b", "\0\0", "\ufdd0", "\0\ufdd0\ufdd0\0\ufdd1\ufdd0", "\ufdd1\ufdd0\ufdd1"])
async def test_an_answer_is_given_back_as_it_was_with_null_characters_too(store: Store, text: str) -> None:
    """PostgreSQL has no NUL."""
    store.begin(begun(1))
    store.update(update(1, "completed", content=text, reasoning=text, suggestions=[text]))
    await store.settled()
    row = await store.turn("turn_1")
    assert row is not None
    assert (row.content, row.reasoning, row.suggestions) == (text, text, [text])
    (_, answer), _ = await store.messages("conv_1", before=None, limit=10, most=10**6)
    assert answer.content == text
