"""What is passed on to Coze for a shop: with its own credentials, and not past its list of bots."""

import asyncio
from pathlib import Path

from tests.edge.whole import key, whole, with_tokens
from tests.tenants.shops import TWO
from tests.upstream.servers import LAST_CHUNK, Peer, chunk, serving

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"


async def test_a_shop_with_a_list_of_bots_has_nothing_passed_on_and_another_only_with_its_own_token(
    tmp_path: Path,
) -> None:
    (tmp_path / "tenants.toml").write_text(TWO)
    settings = with_tokens(tmp_path) | {"tenants_file": tmp_path / "tenants.toml", "coze_api_token": "the-gateways"}
    async with (
        serving(HEAD + chunk(b"{}") + LAST_CHUNK) as coze,
        whole(tmp_path, coze_api_base=coze.url, **settings) as gateway,
    ):
        for name, refused in (("key-a", True), ("key-b", False), ("key-all", False)):
            async with gateway.session.get(f"{gateway.url}/v1/bots", headers=key(name)) as answer:
                assert ("code" in await answer.json()) is refused  # in Coze's form, under 200
        tokens = [request.headers["authorization"] for request in coze.requests]
        assert tokens == ["Bearer token-of-b", "Bearer the-gateways"]


async def test_an_answer_that_flows_goes_on_when_its_shops_credentials_change(tmp_path: Path) -> None:
    on = asyncio.Event()

    async def play(peer: Peer) -> None:
        await peer.send(HEAD + chunk(b"[1,"))
        await on.wait()
        await peer.send(chunk(b"2]") + LAST_CHUNK)

    file = tmp_path / "tenants.toml"
    file.write_text(TWO)
    async with (
        serving(play) as coze,
        whole(tmp_path, coze_api_base=coze.url, tenants_file=file, **with_tokens(tmp_path)) as gateway,
        gateway.session.get(f"{gateway.url}/v1/bots", headers=key("key-b")) as answer,
    ):
        assert await answer.content.readexactly(3) == b"[1,"
        file.write_text(TWO.replace("token-of-b", "another-token"))
        shops = gateway.services.shops
        assert shops is not None
        await shops.look(asked=True)
        assert repr(shops.tenants) == "Tenants(2 shops, 1 leaving)"
        on.set()
        assert await answer.content.read() == b"2]"
        await shops.look()
        assert repr(shops.tenants) == "Tenants(2 shops, 0 leaving)"
