"""Nobody's words and nobody's keys: what a real gateway logs and shows while it is used and abused."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp

from tests.edge.whole import key, person, with_tokens
from tests.processes import GatewayProcess

SAID = "my-card-is-4929-and-my-mail-is-ann@example.org"
Start = Callable[..., Awaitable[GatewayProcess]]


async def test_no_log_line_metric_or_debug_page_holds_a_token_or_what_was_said(
    start_gateway: Start, tmp_path: Path
) -> None:
    files = {f"GATEWAY_{name.upper()}": value for name, value in with_tokens(tmp_path).items()}
    gateway = await start_gateway(
        **files, GATEWAY_LOG_LEVEL="debug", GATEWAY_SIMULATOR_RATE="10000", COZE_API_TOKEN="", GATEWAY_SEND_TIMEOUT="5"
    )
    token = person("ann", shop="a")["Authorization"].removeprefix("Bearer ")
    secrets = [token, token.rpartition(".")[2], "key-a", SAID, "4929", "ann@example.org"]
    body = {"message": SAID, "botId": "b"}
    pages = []
    async with aiohttp.ClientSession() as session:

        async def ask(method: str, path: str, **request: object) -> str:
            async with session.request(method, gateway.url + path, **request) as answer:  # type: ignore[arg-type]
                return await answer.text()

        await ask("POST", f"/api/coze/chat/stream?access_token={token}", json=body)
        await ask("POST", "/api/coze/chat", json=body, cookies={"gateway_token": token})
        await ask("POST", "/api/coze/chat", json={**body, "userId": "u"}, headers=key("key-a"))
        await ask("GET", f"/api/coze/ws?access_token={token}")
        async with session.ws_connect(f"{gateway.url}/api/coze/ws?access_token={token}") as socket:
            await socket.send_str(json.dumps({"type": "chat", **body}))
            await socket.receive(timeout=5)
            await socket.send_str(SAID)
            await socket.receive(timeout=5)
        pages.append(await ask("POST", "/api/coze/chat", data=SAID, headers=key("wrong-key-a")))
        pages.append(await ask("POST", "/api/coze/chat", json={**body, "onBusy": 1}, headers=key("key-a")))
        pages.append(await ask("POST", "/api/coze/chat", data=f'{{"message": "{SAID}"', headers=key("key-a")))
        pages.append(await ask("GET", f"/api/coze/turns/{SAID}?access_token={token}"))
        for page in ("/metrics", "/debug/ledger", "/debug/ledger?list=connection", "/readyz", "/api/coze/config"):
            pages.append(await ask("GET", page))
    reader, writer = await asyncio.open_connection("127.0.0.1", int(gateway.url.rpartition(":")[2]))
    writer.write(
        f"GET /{token} HTTP/1.1\r\nHost: a\r\nHost: b\r\nX: {SAID}\r\nAuthorization: Bearer {token}\r\n\r\n".encode()
    )
    await reader.read()
    writer.close()
    await gateway.terminate()
    logged = "\n".join(gateway.text)
    assert "Starting SSE chat stream" in logged  # the lines that matter were looked at
    for secret in secrets:
        assert secret not in logged, [line for line in gateway.text if secret in line][:1]
        for page in pages:
            assert secret not in page
    assert "Traceback" not in logged
