"""Nobody's words and nobody's keys: what a real gateway logs and shows while it is used and abused."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from gateway.config.loading import ConfigError, Configuration, describe, load
from gateway.config.settings import Settings
from tests.edge.whole import key, person, with_tokens
from tests.processes import GatewayProcess

SAID = "my-card-is-4929-and-my-mail-is-ann@example.org"
Start = Callable[..., Awaitable[GatewayProcess]]


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("COZE_API_TOKEN", "s3cr3t token"),
        ("COZE_API_BASE", "https://u:s3cr3t@h"),
        ("COZE_API_BASE", "https://h/?access_token=s3cr3t"),
        ("GATEWAY_DATABASE_URL", "postgresql://u:p#a s3cr3t@h/d"),
        ("GATEWAY_BUS_URL", "redis://:s3cr3t@h"),
        ("GATEWAY_BUS_URL", "redis+sentinel://u:p/s3cr3t@h/name?sentinel_password=s3cr3t"),
        ("COZE_JWT_PRIVATE_KEY_FILE", "-----BEGIN PRIVATE KEY-----\nMIIEs3cr3t/.\n-----END PRIVATE KEY-----"),
        ("GATEWAY_JWT_SECRET_FILE", "a-s3cr3t-that-was-pasted"),
        ("GATEWAY_JWKS_FILE", '{"keys": [{"kty": "oct", "k": "s3cr3t./"}]}'),
        ("GATEWAY_API_KEYS_FILE", "backend s3cr3t./ *"),
        ("GATEWAY_LOG_LEVEL", "pat_s3cr3t"),
        ("GATEWAY_PORT", "Bearer s3cr3t"),
    ],
)
def test_a_secret_in_a_wrong_setting_is_not_said(monkeypatch: pytest.MonkeyPatch, setting: str, value: str) -> None:
    monkeypatch.setenv(setting, value)
    with pytest.raises(ConfigError) as caught:
        load()
    assert setting in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_a_file_that_is_missing_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_JWT_SECRET_FILE", "/etc/no such/secret.txt")
    with pytest.raises(ConfigError, match=r"'/etc/no such/secret\.txt'"):
        load()


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://u:p/s3cr3t@h/d?password=s3cr3t", "postgresql://***@h/d?password=***"),
        ("postgresql://u:p@s3cr3t@h/d", "postgresql://***@h/d"),
        ("postgresql://h/d?user=u&password=s3cr3t", "postgresql://h/d?user=u&password=***"),
    ],
)
def test_the_configuration_is_shown_without_a_urls_secrets(url: str, told: str) -> None:
    shown = describe(Configuration(Settings(database_url=url, coze_api_token="s3cr3t"), {}))
    assert f'database_url = "{told}"' in shown
    assert "s3cr3t" not in shown


def test_the_configuration_is_shown_without_the_secrets_of_redis() -> None:
    url = "rediss+sentinel://u:s3cr3t@h,i/name/0?sentinel_password=s3cr3t&ssl_password=s3cr3t"
    assert "s3cr3t" not in describe(Configuration(Settings(database_url="postgresql://h/d", bus_url=url), {}))


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
