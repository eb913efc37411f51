"""Headers, queries and paths into values."""

import re
from typing import Any
from urllib.parse import quote

import pytest
from aiohttp.test_utils import make_mocked_request
from hypothesis import given, settings
from hypothesis import strategies as st
from multidict import CIMultiDict

from adapters.edge.failures import InvalidRequest
from adapters.edge.query import (
    Page,
    Poll,
    checked_key,
    conversation_id,
    idempotency_key,
    page_query,
    poll_query,
    position_asked,
    prefer_wait,
    shop_id,
    turn_id,
)
from gateway.errors import Code, GatewayError

UUID = "00000000-0000-4000-8000-000000000000"


def asked(path: str = "/", *headers: tuple[str, str]) -> Any:
    return make_mocked_request("GET", path, headers=CIMultiDict(headers))


@pytest.mark.parametrize(
    ("query", "poll"),
    [
        ("", Poll(25, 200)),
        ("wait=0&limit=1", Poll(0, 1)),
        ("wait=1.5", Poll(1.5, 200)),
        ("wait=61&limit=1001", Poll(60, 1000)),
        ("wait=-7&limit=-7", Poll(0, 1)),
        ("limit=0", Poll(25, 1)),
        ("wait=99999999999999999999&limit=99999999999999999999", Poll(60, 1000)),
        ("limit=7.9", Poll(25, 7)),
    ],
)
def test_a_polls_numbers_are_clamped(query: str, poll: Poll) -> None:
    assert poll_query(asked(f"/poll?{query}")) == poll


@pytest.mark.parametrize(
    "junk",
    ["", "x", "nan", "inf", "-inf", "1e3", "1_0", " 7", "+7", "１２", "٣", "0x10", "7s", "1.", ".5", "--1", "9" * 400],
)
@pytest.mark.parametrize("name", ["wait", "limit"])
def test_what_is_no_number_is_a_mistake_in_that_field(name: str, junk: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        poll_query(asked(f"/poll?{name}={quote(junk)}"))
    assert [mistake.field for mistake in caught.value.errors] == [name]
    assert caught.value.status == 422


def test_both_wrong_numbers_are_named() -> None:
    with pytest.raises(InvalidRequest) as caught:
        poll_query(asked("/poll?wait=x&limit=y"))
    assert [mistake.field for mistake in caught.value.errors] == ["wait", "limit"]


@pytest.mark.parametrize(
    ("query", "position"),
    [
        ("after=a&after=b", "b"),
        ("lastEventId=a&lastEventId=b", "b"),
        ("lastEventId=a&after=b&lastEventId=c", "c"),
        ("after=a&after=", None),
        ("lastEventId=&after=b", "b"),
        ("lastEventId=a&lastEventId=&after=b", "b"),
        ("", None),
    ],
)
def test_of_a_position_given_twice_the_last_one_counts(query: str, position: str | None) -> None:
    assert position_asked(asked(f"/events?{query}")) == position
    assert position_asked(asked(f"/events?{query}", ("Last-Event-ID", "h"))) == "h"


def test_a_page_of_messages_is_bounded() -> None:
    assert page_query(asked("/m")) == Page(None, 50)
    assert page_query(asked("/m?before=abc&limit=900")) == Page("abc", 200)
    assert page_query(asked("/m?before=&limit=-1")) == Page(None, 1)
    for wrong in ("limit=x", "before=" + "x" * 129):
        with pytest.raises(InvalidRequest):
            page_query(asked(f"/m?{wrong}"))


@pytest.mark.parametrize(
    ("values", "wait"),
    [
        (["wait=10"], 10.0),
        (["wait=0"], 0.0),
        (["respond-async, wait=3"], 3.0),
        (["respond-async", "Wait = 5"], 5.0),
        (['wait="7"'], 7.0),
        (["wait=7; x=y"], 7.0),
        (["wait=4, wait=9"], 4.0),
        ([], None),
        ([""], None),
        (["wait"], None),
        (["wait="], None),
        (["wait=-1"], None),
        (["wait=1.5"], None),
        (["wait=x"], None),
        (["wait=１"], None),
        (["wait=99999999999"], None),
        (["await=5"], None),
        (["," * 100_000 + "wait=1"], None),
    ],
    ids=lambda value: str(value)[:30],
)
def test_prefer_wait_is_read_and_junk_ignored(values: list[str], wait: float | None) -> None:
    assert prefer_wait(asked("/", *(("Prefer", value) for value in values))) == wait


@pytest.mark.parametrize(
    ("path", "header", "position"),
    [
        ("/", None, None),
        ("/", "a-1", "a-1"),
        ("/?lastEventId=b-2", None, "b-2"),
        ("/?after=0", None, "0"),
        ("/?after=c-3&lastEventId=b-2", "a-1", "a-1"),
        ("/?after=c-3&lastEventId=b-2", None, "b-2"),
        ("/?after=c-3", "", "c-3"),
        ("/?after=", None, None),
        ("/?after=%00%ff%0a", None, "\x00%ff\n"),
    ],
)
def test_the_position_is_the_headers_else_the_querys(path: str, header: str | None, position: str | None) -> None:
    request = asked(path) if header is None else asked(path, ("Last-Event-ID", header))
    got = position_asked(request)
    assert got == position or (position and "\n" in position and got and got.startswith("\x00"))


def test_an_idempotency_key_is_visible_ascii() -> None:
    assert idempotency_key(asked("/")) is None
    for good in ("k", "!~", "x" * 255, '"quoted"'):
        assert idempotency_key(asked("/", ("Idempotency-Key", good))) == good
        assert checked_key(good) == good
    for wrong in ("", "x" * 256, "a b", "é", "a\tb", "\x7f"):
        with pytest.raises(InvalidRequest) as caught:
            idempotency_key(asked("/", ("Idempotency-Key", wrong)))
        assert caught.value.errors[0].field == "Idempotency-Key"
    for no_text in (7, None, ["k"], b"k"):
        with pytest.raises(InvalidRequest) as caught:
            checked_key(no_text)
        assert caught.value.errors[0].field == "idempotencyKey"


def test_two_idempotency_keys_are_refused() -> None:
    with pytest.raises(InvalidRequest):
        idempotency_key(asked("/", ("Idempotency-Key", "a"), ("Idempotency-Key", "b")))


def test_ids_in_paths_have_one_shape_and_one_kind() -> None:
    assert turn_id(f"turn_{UUID}") == f"turn_{UUID}"
    assert conversation_id(f"conv_{UUID}") == f"conv_{UUID}"
    assert shop_id("商店/1") == "商店/1"
    for read, wrong in [
        (turn_id, f"conv_{UUID}"),
        (conversation_id, f"turn_{UUID}"),
        (turn_id, f"turn_{UUID}\n"),
        (turn_id, f"turn_{UUID.upper()}x"),
        (turn_id, ""),
        (shop_id, ""),
        (shop_id, "s" * 129),
    ]:
        with pytest.raises(GatewayError) as caught:
            read(wrong)
        assert caught.value.code is Code.NOT_FOUND


@settings(deadline=None)  # a busy machine is no fault of what is tested
@given(st.text(max_size=80), st.text(max_size=80))
def test_no_header_and_no_query_raises_anything_but_a_named_mistake(header: str, query: str) -> None:
    text = re.sub(r"[\r\n\0\ud800-\udfff]", "", header)
    path = "/?" + "&".join(f"{n}={quote(query, errors='replace')}" for n in ("wait", "limit", "after", "before"))
    request = asked(path, *((name, text) for name in ("Prefer", "Last-Event-ID", "Idempotency-Key")))
    assert prefer_wait(request) is None or "wait" in text.lower()
    assert position_asked(request) == (text or request.query.get("after") or None)
    for read in (poll_query, page_query, idempotency_key):
        try:
            read(request)
        except InvalidRequest as error:
            assert error.errors  # noqa: PT017
