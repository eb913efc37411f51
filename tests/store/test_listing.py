"""A user's conversations, the newest first, with their titles; and what users think of answers."""

import sqlite3
from collections.abc import Collection
from pathlib import Path

import pytest
from sqlalchemy.dialects import sqlite as dialect

from gateway.errors import Code, GatewayError
from gateway.ids import ConversationId, TurnId
from gateway.store import Store
from gateway.store.listing import _ENTRY
from gateway.store.rows import Feedback
from gateway.store.schema import conversations, messages
from gateway.store.transcript import _MESSAGE
from gateway.telemetry.ledger import Ledger
from tests.databases import PostgresServer
from tests.store.conftest import OpenStore, in_a_file
from tests.store.writes import begun, contents, engine_of, update

ONE = ConversationId("conv_1")
TURN = TurnId("turn_1")


def talks(store: Store, count: int) -> list[str]:
    """Conversations of which each three began at the same time. Returns their ids, the newest first."""
    for number in range(count):
        store.begin(begun(number, f"conv_{number:02}", created_at=100.0 + number // 3))
    return [f"conv_{number:02}" for number in range(count)][::-1]


async def whole(store: Store, limit: int, user: str = "user", shops: Collection[str] | None = None) -> list[str]:
    found: list[str] = []
    after: tuple[float, str] | None = None
    while True:
        page, after = await store.listing.page(user, shops, after=after, limit=limit)
        found += [one.id for one in page]
        if after is None:
            return found
        assert after == (page[-1].created_at, page[-1].id)
        assert len(page) == limit


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 100])
async def test_pages_joined_are_all_conversations_the_newest_first(store: Store, limit: int) -> None:
    ids = talks(store, 10)
    store.begin(begun(1000, "conv_of_another", user_id="another"))
    assert await whole(store, limit) == ids


async def test_a_conversation_that_begins_meanwhile_neither_repeats_nor_hides_another(store: Store) -> None:
    ids = talks(store, 5)
    page, after = await store.listing.page("user", None, after=None, limit=2)
    store.begin(begun(1000, "conv_new", created_at=999.0))
    rest, _ = await store.listing.page("user", None, after=after, limit=10)
    assert [one.id for one in [*page, *rest]] == ids


async def test_a_list_may_be_of_some_shops(store: Store) -> None:
    for number, shop in enumerate(("a", "b", None, "a")):
        store.begin(begun(number, f"conv_{number}", shop_id=shop, created_at=100.0 + number))
    assert await whole(store, 10) == ["conv_3", "conv_2", "conv_1", "conv_0"]
    assert await whole(store, 1, shops=["a"]) == ["conv_3", "conv_0"]
    assert await whole(store, 10, shops={"a", "b"}) == ["conv_3", "conv_1", "conv_0"]
    assert await whole(store, 10, shops=[]) == []


async def test_a_page_of_which_all_is_being_erased_leads_to_the_next(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = talks(store, 5)
    monkeypatch.setattr(store.listing, "_is_erased", ids[1:3].__contains__)
    pages: list[list[str]] = []
    after: tuple[float, str] | None = None
    for limit in (1, 2, 2):
        page, after = await store.listing.page("user", None, after=after, limit=limit)
        pages.append([one.id for one in page])
    assert pages == [ids[:1], [], ids[3:]]
    assert after is None


async def test_any_text_may_be_looked_for(store: Store) -> None:
    store.begin(begun(1))
    store.update(update(1, "completed", coze_chat_id="76"))
    store.name(ONE, "75", 1)
    await store.settled()
    assert len(await store.coze.turns_of_chat("75", "76")) == 1
    strange = "a\0b"
    assert await store.coze.turns_of_chat("75", strange) == []
    assert await store.coze.conversations_named(strange) == []
    for user, shops in ((strange, None), ("user", [strange])):
        assert await store.listing.page(user, shops, after=None, limit=5) == ([], None)
    with pytest.raises(GatewayError) as raised:
        await store.messages(ONE, before=f"{strange}.user", limit=5)
    assert raised.value.code is Code.INVALID_REQUEST


async def test_the_first_message_is_the_title_until_it_gets_another(store: Store) -> None:
    store.begin(begun(1, message="😀" * 100))
    store.begin(begun(2, message="the second"))
    store.update(update(2, "completed", updated_at=150.0))
    ((one,), _) = await store.listing.page("user", None, after=None, limit=9)
    assert (one.title, one.updated_at, one.bot_id, one.shop_id) == ("😀" * 80, 150.0, "bot", "shop")
    await store.annotations.rename(ONE, "Shoes\n与鞋")
    assert [one.title for one in (await store.listing.page("user", None, after=None, limit=9))[0]] == ["Shoes\n与鞋"]
    row = await store.conversation(ONE)
    assert row is not None
    assert row.title == "Shoes\n与鞋"
    await store.annotations.rename(ONE, None)
    assert [one.title for one in (await store.listing.page("user", None, after=None, limit=9))[0]] == ["😀" * 80]


async def test_a_title_is_what_was_written_also_where_the_database_stores_another_form(store: Store) -> None:
    for number, message in enumerate(("a\ufdd0b" + "d" * 90, "\ufdd0" * 90)):
        store.begin(begun(number, f"conv_{number}", message=message, created_at=float(-number)))
    titles = [one.title for one in (await store.listing.page("user", None, after=None, limit=9))[0]]
    assert titles == ["a\ufdd0b" + "d" * 77, "\ufdd0" * 80]


async def test_an_opinion_of_an_answer_is_on_its_message_until_it_is_taken_back(store: Store) -> None:
    store.begin(begun(1))
    store.update(update(1, "completed", content="answer"))
    for given, kept in (
        (Feedback("like"), Feedback("like")),
        (Feedback("unlike", "too long 太长"), Feedback("unlike", "too long 太长")),
        (Feedback("none", "whatever"), None),
    ):
        await store.annotations.rate(TURN, given)
        page, _ = await store.messages(ONE, before=None, limit=9)
        assert [message.feedback for message in page] == [None, kept]


async def test_titles_and_opinions_are_erased_with_their_conversation_and_nothing_brings_it_back(
    store: Store, url: str
) -> None:
    store.begin(begun(1))
    await store.annotations.rename(ONE, "a title")
    await store.annotations.rate(TURN, Feedback("like", "a comment"))
    await store.erase(ONE)
    assert contents(url) == []
    await store.annotations.rename(ONE, "another")
    await store.annotations.rate(TURN, Feedback("like"))
    assert contents(url) == []


async def test_they_are_written_in_one_go_with_what_began(store: Store) -> None:
    store.begin(begun(1))
    store.update(update(1, "completed", content="answer"))
    store._writer.queued.rename(ONE, "a title")
    store._writer.queued.rate(TURN, Feedback("like"))
    await store.settled()
    assert [one.title for one in (await store.listing.page("user", None, after=None, limit=9))[0]] == ["a title"]
    assert (await store.messages(ONE, before=None, limit=9))[0][1].feedback == Feedback("like")


async def test_beside_a_turn_that_no_database_accepts_they_are_written(store: Store) -> None:
    store.begin(begun(1))
    store.begin(begun(2, "conv_2", message="\ud800"))
    store._writer.queued.rename(ONE, "a title")
    store._writer.queued.rate(TURN, Feedback("like"))
    await store.settled()
    assert [(one.id, one.title) for one in (await store.listing.page("user", None, after=None, limit=9))[0]] == [
        (ONE, "a title")
    ]


@in_a_file
async def test_what_could_not_be_written_is_written_later_with_the_newest_title(
    open_store: OpenStore, path: Path
) -> None:
    store = await open_store()
    first, later = store._writer.queued, type(store._writer.queued)()
    for changes, title, opinion in ((first, "old", "like"), (later, "new", "unlike")):
        changes.begin(begun(1))
        changes.rename(ONE, title)
        changes.rate(TURN, Feedback(opinion))  # type: ignore[arg-type]
    joined = first.then(later)
    assert joined.conversations[ONE].title == "new"
    assert joined.turns[TURN].feedback == Feedback("unlike")


@in_a_file
async def test_a_list_is_read_by_its_index_and_a_page_of_messages_does_not_make_the_whole_view(
    open_store: OpenStore, path: Path
) -> None:
    store = await open_store()
    talks(store, 3)
    listed = _ENTRY.where(conversations.c.user_id == "user", conversations.c.created_at <= 1.0)
    listed = listed.order_by(conversations.c.created_at.desc(), conversations.c.id.desc())
    page = _MESSAGE.where(messages.c.conversation_id == "conv_01", messages.c.ordinal >= 1)
    with sqlite3.connect(path) as connection:
        for statement, plan in ((listed, "conversations_of_user"), (page, "turns_of_conversation")):
            sql = str(statement.compile(dialect=dialect.dialect(), compile_kwargs={"literal_binds": True}))
            told = "\n".join(row[-1] for row in connection.execute(f"EXPLAIN QUERY PLAN {sql}"))
            assert plan in told
            assert "SCAN turns" not in told
            assert "SCAN conversations" not in told
            assert "TEMP B-TREE" not in told
    connection.close()


async def test_titles_and_opinions_that_a_failover_lost_are_written_again(
    postgres: PostgresServer, ledger: Ledger
) -> None:
    url = await postgres.make()
    store = await Store.open(url, ledger=ledger)
    store.begin(begun(1))
    store.update(update(1, "completed", content="answer"))
    await store.settled()
    await store.annotations.rename(ONE, "a title")
    await store.annotations.rate(TURN, Feedback("like"))
    engine = engine_of(url)
    with engine.begin() as connection:  # the standby lagged
        connection.exec_driver_sql("UPDATE conversations SET title = NULL, titled_at = NULL")
        connection.exec_driver_sql("UPDATE turns SET feedback = NULL, rated_at = NULL")
    engine.dispose()
    store.look_after_break()
    await store.probe()
    await store.settled()
    assert [one.title for one in (await store.listing.page("user", None, after=None, limit=9))[0]] == ["a title"]
    assert (await store.messages(ONE, before=None, limit=9))[0][1].feedback == Feedback("like")
    await store.close()
