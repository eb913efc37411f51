"""Chat bodies: what is taken, what is refused, and that every mistake is named at once."""

import asyncio
import gzip
import json
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adapters.edge.body import strict_json
from adapters.edge.callers import Caller
from adapters.edge.failures import InvalidRequest
from adapters.edge.fields import chat_from
from gateway.config.settings import Settings
from gateway.errors import Code, GatewayError
from tests.edge.conftest import Client, Serve, talk

GOOD = {"userId": "u", "message": "hi", "botId": "b"}
EARLIER = {"role": "user", "content": "x"}
SETTINGS = Settings()
JSON_POST = b"POST /chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
CHUNKED = JSON_POST + b"Transfer-Encoding: chunked\r\n\r\n"


async def post(client: Client, body: Any, **headers: str) -> tuple[int, dict[str, Any]]:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = await client.post("/chat", data=raw, headers={"Content-Type": "application/json"} | headers)
    return answer.status, await answer.json(content_type=None)


def fields_of(problem: dict[str, Any]) -> set[str]:
    return {error["field"] for error in problem["errors"]}


async def test_a_body_with_every_field_is_taken_as_it_is(serve: Serve) -> None:
    body = GOOD | {
        "shopId": "s" * 128,
        "message": "你" * 16_000,
        "attachments": [{"type": "image", "url": "https://a.example/x.png"}, {"type": "file", "fileId": "7"}],
        "context": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答" * 16_000}],
        "shortcutCommand": {"commandId": "7", "parameters": {"a": '[{"type":"text","text":"b"}]'}},
        "enableCard": False,
        "autoSaveHistory": False,
        "customVariables": {"a": "b"},
        "metaData": {"k" * 64: "v" * 512},
        "onBusy": "queue",
        "onDisconnect": "cancel",
        "conversationId": "conv_00000000-0000-4000-8000-000000000000",
    }
    status, taken = await post(await serve(), body)
    assert (status, taken) == (200, body)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"userId": ""}, "userId"),
        ({"userId": "u" * 129}, "userId"),
        ({"userId": 7}, "userId"),
        ({"userId": None}, "userId"),
        ({"message": ""}, "message"),
        ({"message": "x" * 16_001}, "message"),
        ({"message": ["hi"]}, "message"),
        ({"botId": ""}, "botId"),
        ({"botId": "b" * 65}, "botId"),
        ({"shopId": ""}, "shopId"),
        ({"shopId": "s" * 129}, "shopId"),
        ({"conversationId": 3}, "conversationId"),
        ({"attachments": [{"type": "image", "url": "https://a.example"}] * 11}, "attachments"),
        ({"attachments": {}}, "attachments"),
        ({"attachments": [{"type": "film", "fileId": "1"}]}, "attachments[0].type"),
        ({"attachments": [{"type": "file"}]}, "attachments[0]"),
        ({"attachments": [{"type": "file", "fileId": "1", "url": "https://a.example"}]}, "attachments[0]"),
        ({"attachments": [{"type": "file", "fileId": "1", "size": 3}]}, "attachments[0]"),
        ({"attachments": [{"type": "file", "url": "file:///etc/passwd"}]}, "attachments[0]"),
        ({"attachments": [{"type": "file", "url": "javascript:alert(1)"}]}, "attachments[0]"),
        ({"attachments": [{"type": "file", "url": "https://"}]}, "attachments[0]"),
        ({"attachments": [{"type": "file", "url": "ftp://a.example/x"}]}, "attachments[0]"),
        ({"attachments": [{"type": "file", "url": "gopher://127.0.0.1:6379/_x"}]}, "attachments[0]"),
        ({"attachments": [{"type": "file", "url": "https://a.example/\r\nx"}]}, "attachments[0]"),
        ({"customVariables": {"a": 1}}, "customVariables[...]"),
        ({"metaData": {"k": None}}, "metaData[...]"),
        ({"metaData": {str(i): "v" for i in range(17)}}, "metaData"),
        ({"metaData": {"k" * 65: "v"}}, "metaData"),
        ({"metaData": {"k": "v" * 513}}, "metaData[...]"),
        ({"metaData": {"": "v"}}, "metaData"),
        ({"metaData": {"k": ""}}, "metaData[...]"),
        ({"context": {}}, "context"),
        ({"context": [{"role": "user", "content": "x"}] * 100}, "context"),
        ({"context": [{"role": "system", "content": "x"}]}, "context[0].role"),
        ({"context": [{"role": "user", "content": ""}]}, "context[0].content"),
        ({"context": [{"role": "user"}]}, "context[0]"),
        ({"context": [{"role": "user", "content": "x", "type": "answer"}]}, "context[0]"),
        ({"context": [EARLIER] * 60 + [EARLIER | {"content": "x" * 16_001}]}, "context[60].content"),
        ({"shortcutCommand": "7"}, "shortcutCommand"),
        ({"shortcutCommand": {}}, "shortcutCommand"),
        ({"shortcutCommand": {"commandId": ""}}, "shortcutCommand.commandId"),
        ({"shortcutCommand": {"commandId": "7", "parameters": {"a": 1}}}, "shortcutCommand.parameters[...]"),
        ({"enableCard": "yes"}, "enableCard"),
        ({"autoSaveHistory": None}, "autoSaveHistory"),
        ({"autoSaveHistory": 0}, "autoSaveHistory"),
        ({"appId": "a"}, "appId"),
        ({"appId": "a", "workflowId": "w"}, "appId"),
        ({"workflowId": ""}, "workflowId"),
        ({"workflowId": "w" * 65}, "workflowId"),
        ({"workflowId": "w", "customVariables": {"a": "b"}}, "customVariables"),
        ({"workflowId": "w", "metaData": {"a": "b"}}, "metaData"),
        ({"parameters": ["a"]}, "parameters"),
        ({"parameters": {"a": 2**64}}, "parameters"),
        ({"parameters": {"a": [-(2**63) - 1]}}, "parameters"),
        ({"parameters": {"a": json.loads("[" * 80 + "]" * 80)}}, "parameters"),
        ({"onBusy": "wait"}, "onBusy"),
        ({"onDisconnect": None}, "onDisconnect"),
        ({"stream": True}, "stream"),
        ({"user_id": "u"}, "user_id"),
    ],
    ids=lambda value: json.dumps(value)[:40] if isinstance(value, dict) else value,
)
async def test_a_wrong_field_is_named(serve: Serve, change: dict[str, Any], field: str) -> None:
    status, problem = await post(await serve(), GOOD | change)
    assert (status, problem["code"]) == (422, "invalid_request")
    assert {name.removesuffix("key") for name in fields_of(problem)} == {field}


async def test_all_mistakes_are_named_at_once(serve: Serve) -> None:
    status, problem = await post(
        await serve(), {"message": "x" * 16_001, "botId": 5, "onBusy": "x", "attachments": [{}], "extra": 1}
    )
    assert status == 422
    assert fields_of(problem) == {"userId", "message", "botId", "onBusy", "attachments[0]", "extra"}
    assert all(error["message"] for error in problem["errors"])


async def test_ten_thousand_unknown_fields_get_a_short_answer(serve: Serve) -> None:
    status, problem = await post(await serve(), {f"{'x' * 5}{i}": 1 for i in range(10_000)})
    assert status == 422
    assert len(problem["errors"]) == 20
    assert len(json.dumps(problem)) < 4096


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"{'userId': 'u'}",
        b'{"message": NaN}',
        b'{"message": Infinity}',
        b'{"a": 01}',
        b'{"a": 1,}',
        b"{} {}",
        b"// no\n{}",
        b"\xef\xbb\xbf{}",
        b'{"message": "\xff"}',
        b'{"message": "\xed\xa0\x80"}',
        b'{"message": "a\nb"}',
        "{}".encode("utf-16"),
        b"[" * 100_000,
        b"[" * 100_000 + b"]" * 100_000,
        b'{"a":' * 40_000,
    ],
    ids=lambda raw: repr(raw[:20]),
)
async def test_what_is_not_strict_json_is_400(serve: Serve, raw: bytes) -> None:
    status, problem = await post(await serve(), raw)
    assert (status, problem["code"], len(problem["errors"])) == (400, "invalid_request", 1)


@pytest.mark.parametrize("raw", [b"[]", b'"x"', b"null", b"7", b"true"])
async def test_json_that_is_no_object_is_422(serve: Serve, raw: bytes) -> None:
    status, problem = await post(await serve(), raw)
    assert (status, fields_of(problem)) == (422, {""})


async def test_a_number_beyond_all_bounds_is_a_wrong_field_and_no_crash(serve: Serve) -> None:
    status, _ = await post(await serve(), b'{"userId":"u","message":"m","botId":' + b"1" * 5000 + b"}")
    assert status == 422


@pytest.mark.parametrize(
    ("sent", "kept"),
    [
        ("\\ud800", "\ufffd"),
        ("\\udc00x", "\ufffdx"),
        ("\\ud800\\u0041", "\ufffdA"),
        ("\\ud83d\\ude00", "😀"),
        ("\\ud83d\\ud83d\\ude00", "\ufffd😀"),
        ("a\\u0000b", "a\ufffdb"),
        ("\\\\ud800", "\\ud800"),
        ("\\\\u0000", "\\u0000"),
        ("\\\\\\ud800", "\\\ufffd"),
        ("\\u2028\\u0085\\r\\n", "\u2028\u0085\r\n"),
    ],
)
async def test_what_no_text_can_hold_becomes_the_replacement_character(serve: Serve, sent: str, kept: str) -> None:
    raw = f'{{"userId":"u","botId":"b","message":"{sent}"}}'.encode()
    status, taken = await post(await serve(), raw)
    assert (status, taken["message"]) == (200, kept)


@settings(deadline=None)  # a busy machine is no fault of what is tested
@given(st.text(alphabet=st.characters(codec=None, exclude_categories=()), max_size=40))
def test_any_text_of_a_lenient_encoder_is_mended_to_strict_text(text: str) -> None:
    raw = json.dumps({"message": text}).encode()
    kept = strict_json(raw)
    expected = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace").replace("\0", "\ufffd")
    assert kept == {"message": expected}


@settings(deadline=None)  # a busy machine is no fault of what is tested
@given(st.binary(max_size=200))
def test_any_bytes_are_parsed_or_refused(raw: bytes) -> None:
    try:
        value = strict_json(raw)
    except InvalidRequest:
        return
    json.dumps(value, allow_nan=False).encode()


@pytest.mark.parametrize(
    "content_type",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "application/json-seq", "",
     "application/json; charset=utf-16", "application/json; charset=latin-1", "text/plain; application/json"],
)  # fmt: skip
async def test_only_json_in_utf8_is_taken_so_that_no_foreign_form_can_post(serve: Serve, content_type: str) -> None:
    status, problem = await post(await serve(), GOOD, **{"Content-Type": content_type})
    assert (status, problem["code"]) == (415, "unsupported_media_type")


@pytest.mark.parametrize("content_type", ["application/json; charset=utf-8", 'Application/JSON;Charset="UTF-8"'])
async def test_the_content_type_may_name_utf8(serve: Serve, content_type: str) -> None:
    assert (await post(await serve(), GOOD, **{"Content-Type": content_type}))[0] == 200


async def test_two_content_types_are_refused(serve: Serve) -> None:
    raw = json.dumps(GOOD).encode()
    head = JSON_POST + b"Content-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(raw)
    answer = await talk(await serve(), head + raw)
    assert answer.startswith(b"HTTP/1.0 400")  # by the parser


async def test_a_body_over_the_bound_is_413(serve: Serve) -> None:
    client = await serve(max_body_bytes=1000)
    fill = len(json.dumps(GOOD | {"message": ""}))
    assert (await post(client, GOOD | {"message": "x" * (1000 - fill)}))[0] == 200
    status, problem = await post(client, GOOD | {"message": "x" * (1001 - fill)})
    assert (status, problem["code"]) == (413, "too_large")


async def test_a_body_without_a_length_is_bounded_too(serve: Serve) -> None:
    client = await serve(max_body_bytes=1000)

    async def endless() -> Any:
        while True:
            yield b"x" * 500

    try:
        answer = await client.post("/chat", data=endless(), headers={"Content-Type": "application/json"})
        assert answer.status == 413
    except ConnectionError:
        pass  # the connection was closed while the client still wrote: as good
    raw = await talk(client, CHUNKED + b"7d0\r\n" + b" " * 2000 + b"\r\n0\r\n\r\n")
    assert raw.startswith(b"HTTP/1.1 413")


async def test_a_length_over_the_bound_is_refused_before_any_of_the_body_comes(serve: Serve) -> None:
    answer = await talk(await serve(max_body_bytes=1000), JSON_POST + b"Content-Length: 1001\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd"])
async def test_a_compressed_body_is_refused_unopened(serve: Serve, encoding: str) -> None:
    bomb = (gzip.compress if encoding == "gzip" else zlib.compress)(b" " * 20_000_000)
    status, _ = await post(await serve(), bomb, **{"Content-Encoding": encoding})
    assert status == 415


async def test_a_dripping_body_is_cut_at_its_deadline(serve: Serve) -> None:
    client = await serve(body_deadline=0.3)
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(JSON_POST + b"Content-Length: 999\r\n\r\n")
    began = asyncio.get_running_loop().time()

    async def drip() -> None:
        while True:
            writer.write(b" ")
            await asyncio.sleep(0.05)  # the client drips

    dripping = asyncio.create_task(drip())
    try:
        async with asyncio.timeout(3):
            head = await reader.readuntil(b"\r\n\r\n")
    finally:
        dripping.cancel()
        writer.close()
    assert head.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in head.lower()
    assert 0.25 < asyncio.get_running_loop().time() - began < 1.5


async def test_a_body_that_breaks_the_framing_is_400_and_no_crash(serve: Serve) -> None:
    answer = await talk(await serve(), CHUNKED + b'5\r\n{"a":\r\nzz\r\nboo\r\n')
    assert answer.startswith(b"HTTP/1.0 400")  # by the parser


async def test_a_conversation_that_cannot_exist_is_not_found(serve: Serve) -> None:
    client = await serve()
    for wrong in ("conv_1", "turn_00000000-0000-4000-8000-000000000000", "../../x", "conv_" + "0" * 5000):
        status, problem = await post(client, GOOD | {"conversationId": wrong})
        assert (status, problem["code"]) == (404, "not_found")


def test_a_chatflow_needs_no_bot_and_may_have_one_or_an_app() -> None:
    message = {"userId": "u", "message": "hi", "workflowId": "w", "parameters": {"a": [1, {"b": 2**63 - 1}]}}
    for more in ({}, {"botId": "b"}, {"appId": "a"}):
        body = chat_from(message | more, SETTINGS)
        assert (body.workflow_id, body.parameters) == ("w", message["parameters"])
    for wrong in ({"message": "hi", "userId": "u"}, {"message": 5, "userId": "u"}):
        with pytest.raises(InvalidRequest) as caught:
            chat_from(wrong, SETTINGS)
        assert "botId" in {mistake.field for mistake in caught.value.errors}


@pytest.mark.parametrize(
    ("more", "field"),
    [
        ({"shortcutCommand": {"commandId": "7"}}, "shortcutCommand"),
        ({"enableCard": False}, "enableCard"),
        ({"autoSaveHistory": False}, "autoSaveHistory"),
        ({"context": [{"role": "user", "content": "x"}] * 50}, "context"),
    ],
)
def test_what_a_chatflow_has_no_place_for_is_refused(more: dict[str, Any], field: str) -> None:
    message = {"userId": "u", "message": "hi", "workflowId": "w"}
    with pytest.raises(InvalidRequest) as caught:
        chat_from(message | more, SETTINGS)
    assert [mistake.field for mistake in caught.value.errors] == [field]
    assert chat_from(message | {"context": [{"role": "user", "content": "x"}] * 49}, SETTINGS).context
    assert chat_from(GOOD | more, SETTINGS)


async def test_a_message_before_that_is_too_long_is_named_beside_other_mistakes(serve: Serve) -> None:
    context = [{"role": "user", "content": "x" * 16_001}]
    _, problem = await post(await serve(), GOOD | {"context": context, "onBusy": "x"})
    assert fields_of(problem) == {"context[0].content", "onBusy"}


def test_absent_and_null_are_the_same_for_what_is_optional() -> None:
    nothing = dict.fromkeys(("shopId", "conversationId", "attachments", "customVariables", "metaData"))
    nothing |= dict.fromkeys(("context", "shortcutCommand", "enableCard"))
    assert chat_from(GOOD | nothing, SETTINGS) == chat_from(GOOD, SETTINGS)


def test_a_jwt_user_need_not_be_named_and_no_other_can_be() -> None:
    caller = Caller(kind="jwt", user_id="u")
    assert chat_from({"message": "m", "botId": "b"}, SETTINGS, caller).user_id == "u"
    assert chat_from(GOOD, SETTINGS, caller).user_id == "u"
    with pytest.raises(InvalidRequest) as caught:
        chat_from(GOOD | {"userId": "v", "botId": 1}, SETTINGS, caller)
    assert {mistake.field for mistake in caught.value.errors} == {"userId", "botId"}


def test_a_caller_of_one_shop_starts_in_that_shop_only() -> None:
    caller = Caller(kind="api-key", shops=frozenset({"mine"}), key_name="backend")
    assert chat_from(GOOD, SETTINGS, caller).shop_id == "mine"
    assert chat_from(GOOD | {"shopId": "mine"}, SETTINGS, caller).shop_id == "mine"
    with pytest.raises(GatewayError) as caught:
        chat_from(GOOD | {"shopId": "theirs"}, SETTINGS, caller)
    assert caught.value.code is Code.NOT_FOUND


def test_a_caller_of_several_shops_must_name_one() -> None:
    caller = Caller(kind="jwt", user_id="u", shops=frozenset({"a", "b"}))
    with pytest.raises(InvalidRequest) as caught:
        chat_from(GOOD, SETTINGS, caller)
    assert [mistake.field for mistake in caught.value.errors] == ["shopId"]


async def test_a_field_is_named_once_however_much_is_wrong_with_it(serve: Serve) -> None:
    status, problem = await post(await serve(), {"userId": "", "message": "m", "botId": "b"})
    assert status == 422
    assert [error["field"] for error in problem["errors"]] == ["userId"]
