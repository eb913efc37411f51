"""A JWT app against the simulated Coze: its tokens are renewed ahead of their end, one renewal at a time."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from gateway.config.keys import private_key
from gateway.errors import Code, UpstreamError
from gateway.simulator import Simulator, start_simulator
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.observer import UNHEARD
from gateway.upstream.coze import CozeUpstream
from gateway.upstream.exchange import Exchanges
from gateway.upstream.jwt_app import JwtApp
from gateway.upstream.protocol import ChatCompleted, ChatRequest, Item
from tests.faults.coze import gateway
from tests.faults.reading import Reader, client

KEY = generate_private_key(65537, 2048)
PUBLIC = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@asynccontextmanager
async def simulated(life: float | None = None, **options: Any) -> AsyncIterator[Simulator]:
    simulator = await start_simulator(first_ms=1, rate=0, app_keys={"kid-1": PUBLIC}, token_life=life, **options)
    try:
        yield simulator
    finally:
        await simulator.close()


@asynccontextmanager
async def connected(
    simulator: Simulator, ledger: Ledger, *, key: RSAPrivateKey = KEY, **more: Any
) -> AsyncIterator[CozeUpstream]:
    exchanges = Exchanges(simulator.url, connect_timeout=5, idle_timeout=5)
    app = JwtApp(exchanges, app_id="app-1", key_id="kid-1", key=key, observer=UNHEARD, **more)
    coze = CozeUpstream(simulator.url, app, ledger=ledger, connect_timeout=5, idle_timeout=5)
    try:
        yield coze
    finally:
        await coze.close()


async def ask(coze: CozeUpstream, user: str = "u") -> None:
    items: list[Item] = []
    stream = await coze.on_behalf_of(user, None).chat(
        ChatRequest("b", user, "/fault plain pieces:2 -- hi"), items.extend
    )
    await stream.ended()
    stream.close()
    assert any(isinstance(item, ChatCompleted) for item in items)


async def test_one_token_serves_all_users_and_many_at_once_ask_for_it_once(ledger: Ledger) -> None:
    async with simulated() as simulator, connected(simulator, ledger) as coze:
        await asyncio.gather(*(ask(coze, f"user-{number}") for number in range(20)))
        assert simulator.requests["token"] == 1
        assert list(simulator.tokens.sessions.values()) == [""]


async def test_each_user_may_have_a_token_of_their_own(ledger: Ledger) -> None:
    async with simulated() as simulator, connected(simulator, ledger, per_user=True) as coze:
        for _ in range(2):
            await asyncio.gather(*(ask(coze, f"user-{number}") for number in range(3)))
        assert sorted(simulator.tokens.sessions.values()) == ["user-0", "user-1", "user-2"]


async def test_tokens_that_live_four_seconds_are_renewed_ahead_and_not_for_every_turn(ledger: Ledger) -> None:
    async with simulated(life=4) as simulator, connected(simulator, ledger) as coze:
        began = time.monotonic()
        for number in range(30):
            await ask(coze)
            await asyncio.sleep(max(0.0, began + number * 0.3 - time.monotonic()))  # nine seconds of turns
        assert 3 <= simulator.requests["token"] <= 5
        assert simulator.requests["chat"] == 30  # none of them was refused for its token


async def test_a_token_that_is_revoked_in_the_middle_is_renewed_once(ledger: Ledger) -> None:
    async with simulated() as simulator, connected(simulator, ledger) as coze:
        await ask(coze)
        simulator.tokens.revoke()
        await ask(coze)
        assert (simulator.requests["token"], simulator.requests["chat"]) == (2, 3)


async def test_a_renewal_that_fails_leaves_the_token_that_still_serves(ledger: Ledger) -> None:
    async with simulated(life=3600) as simulator, connected(simulator, ledger) as coze:
        await ask(coze)
        app = coze._tokens
        assert isinstance(app, JwtApp)
        token = app._sessions[""].token
        assert token is not None
        token.renew = 0.0
        app._key_id = "another"
        for _ in range(3):
            await ask(coze)
        assert simulator.requests["token"] == 2  # the next try waits


async def test_an_app_that_coze_does_not_know_is_refused_with_a_reason(ledger: Ledger) -> None:
    stranger = generate_private_key(65537, 2048)
    async with simulated() as simulator, connected(simulator, ledger, key=stranger) as coze:
        with pytest.raises(UpstreamError, match="invalid_client") as caught:
            await ask(coze)
        assert caught.value.code is Code.UPSTREAM_UNAUTHORIZED
        assert "clock" not in str(caught.value)


@pytest.mark.parametrize(("off", "said"), [(600, "600 s ahead of"), (-3600, "3600 s behind")])
async def test_a_clock_that_is_off_is_said(ledger: Ledger, off: float, said: str) -> None:
    def wrong() -> float:
        return int(time.time()) + off

    async with simulated() as simulator, connected(simulator, ledger, wall=wrong) as coze:
        with pytest.raises(UpstreamError) as caught:
            await ask(coze)
        assert said[-9:] in str(caught.value)
        assert abs(int(str(caught.value).split("clock is ")[1].split()[0]) - abs(off)) <= 2


def test_a_file_without_a_key_that_can_sign_is_named(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    assert isinstance(private_key(file), RSAPrivateKey)
    file.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")))
    with pytest.raises(ValueError, match="password"):
        private_key(file)
    file.write_bytes(Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    with pytest.raises(ValueError, match="RSA"):
        private_key(file)
    file.write_bytes(b"nothing")
    with pytest.raises(ValueError, match=r".+"):
        private_key(file)


async def test_a_gateway_with_a_jwt_app_asks_for_a_token_and_answers(tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    file.chmod(0o600)
    settings = {
        "COZE_API_TOKEN": "",
        "COZE_JWT_APP_ID": "app-1",
        "COZE_JWT_KEY_ID": "kid-1",
        "COZE_JWT_PRIVATE_KEY_FILE": str(file),
        "COZE_JWT_SESSIONS": "user",
    }
    async with simulated() as simulator, gateway(tmp_path, simulator.url, **settings) as node, client() as session:
        reader = Reader()
        await reader.ask(session, node.url, "/fault drop-after:3 pieces:8 -- hello", userId="ann")
        await reader.finish(session, lambda: node.url)
        assert reader.last["event"] == "completed"
        assert list(simulator.tokens.sessions.values()) == ["ann"]  # the recovery asks on ann's behalf, too
