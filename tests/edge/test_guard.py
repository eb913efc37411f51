"""The gate: Host, Origin, and the headers of every answer, over real HTTP."""

import asyncio
import contextlib
from typing import Any

import pytest
from aiohttp import WSServerHandshakeError

from adapters.edge.guard import PAGE_POLICY, Guard, is_same_origin
from gateway.config.settings import Settings
from tests.edge.conftest import Serve, talk

BODY = {"userId": "u", "message": "m", "botId": "b"}
FOREIGN = [
    "null",
    "",
    "https://evil.example",
    "http://localhost",
    "http://localhost:1",
    "http://localhost:{port}.evil.example",
    "http://localhost.evil.example:{port}",
    "http://evil.example/localhost:{port}",
    "http://localhost:{port}@evil.example",
    "http://evil.example#localhost:{port}",
    "http://localhost:{port}/",
    "http://localhost:{port} ",
    "http://evil.example http://localhost:{port}",
    "http://127.0.0.1:{port}",
    "http://127.1:{port}",
    "ftp://localhost:{port}",
    "localhost:{port}",
    "//localhost:{port}",
    "http://LOCALHOST\u212a:{port}",
    "*",
    "https://shop.example.evil.example",
    "https://shop.example:444",
    "http://shop.example",
    "https://notshop.example",
    "https://shop.exampl\u0435",
]


@pytest.mark.parametrize("origin", FOREIGN)
async def test_a_changing_request_from_a_foreign_page_is_refused(serve: Serve, origin: str) -> None:
    client = await serve(allowed_origins="https://shop.example")
    given = origin.format(port=client.port)
    raw = b"POST /chat HTTP/1.1\r\nHost: localhost:%d\r\nOrigin: %s\r\nContent-Length: 0\r\n\r\n"
    answer = await talk(client, raw % (client.port, given.encode()))
    if origin.endswith(" "):  # blanks around a value belong to HTTP, not to the value
        assert b" 415 " in answer
        return
    assert answer.startswith(b"HTTP/1.1 403")
    assert b"forbidden_origin" in answer
    assert b"access-control-allow" not in answer.lower()


@pytest.mark.parametrize("origin", [o for o in FOREIGN if o.isascii() and o.strip() == o])
async def test_a_websocket_from_a_foreign_page_is_refused(serve: Serve, origin: str) -> None:
    client = await serve(allowed_origins="https://shop.example")
    with pytest.raises(WSServerHandshakeError) as caught:
        await client.ws_connect(
            "/ws", headers={"Host": f"localhost:{client.port}", "Origin": origin.format(port=client.port)}
        )
    assert caught.value.status == 403


@pytest.mark.parametrize(
    "origin",
    ["https://shop.example", "HTTPS://Shop.EXAMPLE", "http://localhost:{port}", "https://LocalHost:{port}", None],
)
async def test_our_own_and_listed_pages_and_other_programs_pass(serve: Serve, origin: str | None) -> None:
    client = await serve(allowed_origins="https://shop.example")
    headers = {"Host": f"localhost:{client.port}"}
    if origin is not None:
        headers["Origin"] = origin.format(port=client.port)
    assert (await client.post("/chat", json=BODY, headers=headers)).status == 200
    async with client.ws_connect("/ws", headers=headers) as socket:
        await socket.send_str("x")
        assert await socket.receive_str() == "x"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://127.0.0.1:{port}"])
async def test_a_foreign_page_may_read_of_the_configuration_only_that_it_is_refused(serve: Serve, origin: str) -> None:
    """Without it a page could not tell a setting that is missing from a gateway that is down."""
    client = await serve(allowed_origins="https://shop.example")
    host = f"localhost:{client.port}"
    foreign = {"Host": host, "Origin": origin.format(port=client.port)}
    refused = await client.get("/api/coze/config", headers=foreign)
    assert refused.status == 403
    assert refused.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in refused.headers
    assert (await refused.json())["code"] == "forbidden_origin"
    for ours in (
        {"Host": host},
        {"Host": host, "Origin": f"http://{host}"},
        {"Host": host, "Origin": "https://shop.example"},
    ):
        answer = await client.get("/api/coze/config", headers=ours)
        assert answer.status != 403
        assert answer.headers.get("Access-Control-Allow-Origin") in (None, "https://shop.example")


TWO_ORIGINS = [
    b"Origin: http://localhost\r\nOrigin: http://evil.example\r\n",
    b"Origin: http://evil.example\r\nOrigin: http://localhost\r\n",
    b"Origin: https://shop.example\r\nOrigin: https://shop.example\r\n",
]
UPGRADE = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
)


@pytest.mark.parametrize("origins", TWO_ORIGINS)
@pytest.mark.parametrize(
    "request_line", [b"POST /chat", b"GET /ws", b"OPTIONS /chat"], ids=["changing", "websocket", "preflight"]
)
async def test_two_origins_are_foreign(serve: Serve, request_line: bytes, origins: bytes) -> None:
    client = await serve(allowed_origins="https://shop.example")
    more = {b"GET": UPGRADE, b"OPTIONS": b"Access-Control-Request-Method: POST\r\n"}
    head = request_line + b" HTTP/1.1\r\nHost: localhost\r\n" + more.get(request_line.split()[0], b"")
    answer = await talk(client, head + origins + b"\r\n")
    assert b" 403 " in answer.splitlines()[0]
    assert b"access-control-allow" not in answer.lower()
    alone = await talk(client, head + b"Origin: https://shop.example\r\n\r\n")
    assert b" 403 " not in alone.splitlines()[0]


@pytest.mark.parametrize("origins", TWO_ORIGINS)
async def test_a_page_of_two_origins_may_read_nothing(serve: Serve, origins: bytes) -> None:
    client = await serve(allowed_origins="https://shop.example,http://localhost,http://evil.example")
    for path in (b"/named", b"/nowhere"):
        answer = await talk(client, b"GET " + path + b" HTTP/1.1\r\nHost: localhost\r\n" + origins + b"\r\n")
        assert b"access-control-" not in answer.lower()


@pytest.mark.parametrize(
    ("target", "host", "origin", "status"),
    [
        (b"http://localhost/chat", b"localhost", b"http://localhost", 415),
        (b"http://localhost/chat", b"evil.example", b"http://localhost", 415),
        (b"http://localhost/chat", b"127.0.0.1", b"http://127.0.0.1", 403),
        (b"http://evil.example/chat", b"localhost", b"http://localhost", 421),
        (b"http://evil.example", b"localhost", b"http://localhost", 421),
        (b"http://localhost@evil.example/chat", b"localhost", b"http://localhost", 421),
        (b"http://localhost?x=/chat", b"localhost", b"http://localhost", 404),
    ],
)
async def test_a_target_that_names_a_host_is_what_host_and_origin_are_held_against(
    serve: Serve, target: bytes, host: bytes, origin: bytes, status: int
) -> None:
    raw = b"POST %s HTTP/1.1\r\nHost: %s\r\nOrigin: %s\r\nContent-Length: 0\r\n\r\n" % (target, host, origin)
    assert int((await talk(await serve(), raw)).split(b" ")[1]) == status


@pytest.mark.parametrize(
    ("origin", "host", "same"),
    [
        ("https://a.example", "a.example", True),
        ("https://a.example", "a.example:443", True),
        ("https://a.example:443", "a.example", True),
        ("http://a.example", "a.example:443", False),
        ("https://a.example", "a.example:80", False),
        ("https://a.example:8443", "a.example", False),
        ("http://[::1]:3000", "[::1]:3000", True),
        ("http://[::1]:3000", "[::2]:3000", False),
        ("http://a.example", "", False),
        ("http://a.example", "A.EXAMPLE", True),
    ],
)
def test_same_origin_is_host_and_port_of_the_host_header(origin: str, host: str, same: bool) -> None:
    assert is_same_origin(origin, host) is same


async def test_reading_from_a_foreign_page_gets_no_permission(serve: Serve) -> None:
    client = await serve(allowed_origins="https://shop.example")
    answer = await client.get("/stream", headers={"Origin": "https://evil.example"})
    assert answer.status == 200
    assert not [name for name in answer.headers if name.lower().startswith("access-control")]
    assert answer.headers["Vary"] == "Origin"


@pytest.mark.parametrize("path", ["/stream", "/broken", "/nowhere", "/named"])
async def test_a_listed_page_may_read_answers_streams_and_problems(serve: Serve, path: str) -> None:
    client = await serve(allowed_origins="https://shop.example,https://b.example")
    answer = await client.get(path, headers={"Origin": "https://shop.example"})
    assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    assert answer.headers["Access-Control-Allow-Credentials"] == "true"
    exposed = {name.strip() for name in answer.headers["Access-Control-Expose-Headers"].split(",")}
    assert exposed == {
        *("X-Turn-Id", "X-Conversation-Id", "X-Request-Id", "Retry-After", "Location"),
        *("X-Tt-Logid", "X-Gateway-Turn"),
    }
    assert "Origin" in answer.headers["Vary"]


async def test_a_preflight_of_a_listed_page_is_answered_for_the_headers_that_clients_send(serve: Serve) -> None:
    client = await serve(allowed_origins="https://shop.example")
    answer = await client.options(
        "/chat",
        headers={
            "Origin": "https://shop.example",
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        },
    )
    assert answer.status == 204
    assert answer.headers["Access-Control-Allow-Origin"] == "https://shop.example"
    assert "POST" in answer.headers["Access-Control-Allow-Methods"]
    allowed = {name.strip().lower() for name in answer.headers["Access-Control-Allow-Headers"].split(",")}
    assert allowed >= {"last-event-id", "authorization", "idempotency-key", "content-type", "prefer"}
    assert allowed >= {"traceparent", "tracestate", "baggage"}


async def test_a_preflight_of_a_foreign_page_is_refused(serve: Serve) -> None:
    client = await serve()
    answer = await client.options(
        "/chat", headers={"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    )
    assert answer.status == 403
    assert "Access-Control-Allow-Origin" not in answer.headers


async def test_options_that_is_no_preflight_is_an_unknown_method(serve: Serve) -> None:
    answer = await (await serve()).options("/chat")
    assert (answer.status, answer.headers["Allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("host", "ok"),
    [
        ("localhost", True),
        ("LOCALHOST:3000", True),
        ("127.0.0.1:3000", True),
        ("127.9.9.9", True),
        ("[::1]:3000", True),
        ("app.localhost", True),
        ("localhost.", True),
        ("LocalHost.:3000", True),
        ("app.localhost.", True),
        ("127.0.0.1.", True),
        ("localhost..", False),
        (".", False),
        ("evil.example.", False),
        ("evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1.evil.example", False),
        ("evil.example:3000", False),
        ("0.0.0.0", False),
        ("10.0.0.1", False),
        ("", False),
        ("localhost:", False),
        ("localhost:3000:1", False),
        ("evil@localhost", False),
        ("localhost/evil", False),
        ("notlocalhost", False),
    ],
)
async def test_a_name_that_is_not_this_machines_is_misdirected(serve: Serve, host: str, ok: bool) -> None:
    answer = await talk(await serve(), b"GET /named HTTP/1.1\r\nHost: %s\r\n\r\n" % host.encode())
    status = int(answer.split(b" ")[1])
    assert status == 200 if ok else status in (400, 421)


async def test_the_operator_names_the_hosts(serve: Serve) -> None:
    client = await serve(allowed_hosts="chat.example, 10.0.0.7, rooted.example.")
    known = ("chat.example", "Chat.Example:8443", "chat.example.", "10.0.0.7", "rooted.example", "rooted.example.:80")
    for host, status in {**dict.fromkeys(known, 200), "localhost": 421}.items():
        answer = await client.get("/named", headers={"Host": host})
        assert answer.status == status
    problem = await (await client.get("/named", headers={"Host": "host.docker.internal"})).json()
    assert (problem["code"], problem["status"]) == ("misdirected", 421)
    assert "GATEWAY_ALLOWED_HOSTS" in problem["detail"]


def test_beyond_loopback_any_host_is_taken_unless_the_operator_names_them() -> None:
    assert Guard(Settings(host="0.0.0.0"))._any_host
    assert not Guard(Settings(host="0.0.0.0", allowed_hosts="a.example")).knows_host("b.example")


@pytest.mark.parametrize(
    ("host", "ok"),
    [("10.1.2.3:9100", True), ("[fd00::7]:9100", True), ("a.example", True), ("b.example", False), ("10.1.2", False)],
)
def test_operators_come_to_an_address_whatever_names_there_are(host: str, ok: bool) -> None:
    settings = Settings(host="0.0.0.0", allowed_hosts="a.example")
    assert Guard(settings, host="0.0.0.0", operators=True).knows_host(host) is ok
    assert Guard(settings).knows_host("10.1.2.3:3000") is False


async def test_http_1_0_needs_no_host(serve: Serve) -> None:
    assert b" 200 " in (await talk(await serve(), b"GET /named HTTP/1.0\r\n\r\n")).splitlines()[0]


@pytest.mark.parametrize(
    ("target", "statuses"),
    [(b"http://evil.example/named", {421}), (b"*", {404, 405}), (b"//evil.example/named", {404}), (b"/%00%ff%", {404})],
)
async def test_strange_targets_reach_nothing(serve: Serve, target: bytes, statuses: set[int]) -> None:
    method = b"OPTIONS" if target == b"*" else b"GET"
    answer = await talk(await serve(), method + b" " + target + b" HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert int(answer.split(b" ")[1]) in statuses | {400}


@pytest.mark.parametrize("header", ["Forwarded", "X-Forwarded-For", "X-Forwarded-Proto", "x-forwarded-host", "Via"])
@pytest.mark.parametrize("path", ["/metrics", "/debug/ledger"])
async def test_operators_pages_are_not_for_whoever_comes_through_a_proxy(serve: Serve, path: str, header: str) -> None:
    client = await serve()
    assert (await client.get(path)).status == 200
    through = await client.get(path, headers={header: "x"})
    nowhere = await client.get("/nowhere", headers={header: "x"})
    assert through.status == 404
    assert (await through.json()).keys() == (await nowhere.json()).keys()
    assert (await client.get("/named", headers={header: "x"})).status == 200


@pytest.mark.parametrize(("options", "there"), [({}, False), ({"operators": True}, True)])
async def test_operators_pages_are_nowhere_on_an_open_listener_but_their_own(
    options: dict[str, Any], there: bool
) -> None:
    assert Guard(Settings(host="0.0.0.0"), **options)._for_operators([]) is there


@pytest.mark.parametrize("path", ["/stream", "/broken", "/nowhere", "/named", "/sse-stream-test.html"])
async def test_every_answer_has_the_security_headers(serve: Serve, path: str) -> None:
    headers = (await (await serve()).get(path)).headers
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "no-referrer"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert "unsafe" not in headers["Content-Security-Policy"]
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert len(headers["X-Request-Id"]) == 32
    assert "aiohttp" not in headers["Server"]
    assert "Python" not in headers["Server"]
    assert "Set-Cookie" not in headers
    assert headers["Cache-Control"] == ("no-cache" if path == "/stream" else "no-store")


async def test_a_websocket_handshake_has_them_too(serve: Serve) -> None:
    async with (await serve()).ws_connect("/ws") as socket:
        assert socket._response.headers["X-Content-Type-Options"] == "nosniff"
        assert "aiohttp" not in socket._response.headers["Server"]


async def test_the_parsers_own_refusal_tells_no_version_and_no_trace(serve: Serve) -> None:
    answer = await talk(await serve(), b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
    assert answer.startswith(b"HTTP/1.0 400")
    assert b"aiohttp" not in answer
    assert b"Python" not in answer
    assert b"Traceback" not in answer


async def test_the_id_in_a_problem_is_the_one_in_the_header_and_never_the_clients(serve: Serve) -> None:
    client = await serve()
    answer = await client.get("/nowhere", headers={"X-Request-Id": "mine"})
    assert (await answer.json())["requestId"] == answer.headers["X-Request-Id"] != "mine"
    assert (await client.get("/nowhere")).headers["X-Request-Id"] != answer.headers["X-Request-Id"]


def test_the_pages_policy_lets_nothing_inline_and_nothing_foreign_run() -> None:
    policy = dict(part.split(" ", 1) for part in PAGE_POLICY.split("; "))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == policy["font-src"] == "'self'"
    assert policy["require-trusted-types-for"] == "'script'"
    for name in ("frame-ancestors", "base-uri", "form-action"):
        assert policy[name] == "'none'"
    assert "unsafe" not in PAGE_POLICY


@pytest.mark.parametrize("sent", [b"GET /named HTTP/1.1\r\nHost: localhost\r\nX-A: ", b"", b"POST /chat HTT"])
async def test_a_head_that_never_ends_is_cut(serve: Serve, sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("adapters.edge.server.HEAD_SECONDS", 0.3)
    client = await serve()
    reader, writer = await asyncio.open_connection("127.0.0.1", client.port)
    writer.write(sent)
    async with asyncio.timeout(3):
        with contextlib.suppress(ConnectionResetError):  # a reset is a cut, too
            assert await reader.read() == b""
    writer.close()
