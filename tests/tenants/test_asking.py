"""Tenants: each shop asks Coze with its own credentials, and only the bots that are its own."""

from pathlib import Path
from typing import Any

from aiohttp import WSMsgType
from structlog.testing import capture_logs

from tests.edge.whole import key, person, with_tokens
from tests.tenants.shops import TWO, shops


def fields(answer: Any) -> list[str]:
    return [error["field"] for error in answer["errors"]]


async def test_each_shop_asks_with_its_own_token_and_whoever_names_none_with_the_gateways(tmp_path: Path) -> None:
    async with shops(tmp_path, coze_api_token="token-of-the-gateway") as asked:
        for shop in ("a", "b", None):
            status, answer = await asked.ask(shop)
            assert (status, answer["content"]) == (200, "to hello")
        assert asked.coze.tokens == ["token-of-a", "token-of-b", "token-of-the-gateway"]


async def test_where_the_gateway_has_no_credentials_a_message_has_to_name_a_shop(tmp_path: Path) -> None:
    async with shops(tmp_path) as asked:
        status, answer = await asked.ask(None)
        assert (status, answer["code"], fields(answer)) == (422, "invalid_request", ["shopId"])
        async with asked.gateway.session.get(f"{asked.gateway.url}/api/coze/config") as config:
            assert (await config.json())["simulated"] is False
        assert asked.coze.tokens == []


async def test_an_unknown_shop_is_404_and_a_bot_of_another_shop_422_over_every_route(tmp_path: Path) -> None:
    async with shops(tmp_path) as asked:
        gateway = asked.gateway
        for shop, bot, status, code, named in (
            ("c", "bot-a", 404, "not_found", []),
            ("a", "bot-b", 422, "invalid_request", ["botId"]),
            ("a", None, 422, "invalid_request", ["botId"]),
        ):
            body = {"userId": "u", "message": "hello", "shopId": shop}
            body |= {"botId": bot} if bot else {"workflowId": "7"}
            for route in ("chat", "chat/stream"):
                async with gateway.session.post(f"{gateway.url}/api/coze/{route}", json=body) as answer:
                    problem = await answer.json(content_type=None)
                    assert (answer.status, problem["code"]) == (status, code)
                    assert [error["field"] for error in problem.get("errors", [])] == named
            async with gateway.session.ws_connect(f"{gateway.url}/api/coze/ws") as socket:
                await socket.send_json({"type": "chat", **body})
                message = await socket.receive(timeout=10)
                assert message.type is WSMsgType.TEXT
                told = message.json()
                assert (told["type"], told["code"]) == ("problem", code)
        assert asked.coze.tokens == []
        assert gateway.services.turns._runner.turns == {}


async def test_a_refused_message_does_not_use_up_its_key(tmp_path: Path) -> None:
    async with shops(tmp_path) as asked:
        once = {"Idempotency-Key": "once"}
        assert (await asked.ask("a", bot="bot-b", headers=once))[0] == 422
        assert (await asked.ask("a", headers=once))[0] == 200


async def test_a_known_conversation_keeps_its_shop_and_its_credentials(tmp_path: Path) -> None:
    async with shops(tmp_path, coze_api_token="token-of-the-gateway") as asked:
        _, first = await asked.ask("a")
        for shop in (None, "a"):
            status, _ = await asked.ask(shop, conversationId=first["conversationId"])
            assert status == 200
        assert asked.coze.tokens == ["token-of-a"] * 3
        assert (await asked.ask("b", conversationId=first["conversationId"]))[0] == 404
        assert (await asked.ask(None, bot="bot-b", conversationId=first["conversationId"]))[0] == 422


async def test_with_auth_the_shop_is_the_tokens_and_no_caller_reaches_anothers_bot_or_credentials(
    tmp_path: Path,
) -> None:
    async with shops(tmp_path, **with_tokens(tmp_path), coze_api_token="token-of-the-gateway") as asked:
        for of_a in (person("u", shop="a"), key("key-a")):
            assert (await asked.ask(None, headers=of_a))[0] == 200
            assert (await asked.ask("b", headers=of_a))[0] == 404
            assert (await asked.ask("c", headers=of_a))[0] == 404
            assert (await asked.ask(None, bot="bot-b", headers=of_a))[0] == 422
        assert asked.coze.tokens == ["token-of-a", "token-of-a"]
        assert (await asked.ask(None, headers=person("u", shop=["a", "b"])))[0] == 422
        assert (await asked.ask(None, headers=person("u", shop="c")))[0] == 404
        assert asked.coze.tokens == ["token-of-a", "token-of-a"]


async def test_a_shops_own_limit_holds_for_each_of_its_users_and_counts_by_itself(tmp_path: Path) -> None:
    text = f"{TWO}turns_per_minute = 2\n"
    async with shops(tmp_path, text, coze_api_token="token-of-the-gateway", turns_per_minute=3) as asked:
        assert [(await asked.ask("b"))[0] for _ in range(3)] == [200, 200, 429]
        assert (await asked.ask("b", userId="another"))[0] == 200
        assert [(await asked.ask("a"))[0] for _ in range(2)] == [200, 200]
        assert [(await asked.ask(None))[0] for _ in range(2)] == [200, 429]  # with the turns in a, which has none


async def test_a_dead_address_keeps_nobody_else_from_asking_and_is_what_the_log_names(tmp_path: Path) -> None:
    dead = '[dead]\ncoze_api_token = "x"\ncoze_api_base = "http://127.0.0.1:9"\n'
    text = f"{TWO}{dead}{dead.replace('[dead]', '[dead-too]')}"
    async with shops(tmp_path, text, upstream_retries=0) as asked:
        with capture_logs() as lines:
            for _ in range(5):
                assert (await asked.ask("dead"))[0] == 502
            status, answer = await asked.ask("dead-too")
            assert (status, (await asked.ask("a"))[0]) == (502, 200)
        ends = [line for line in lines if line["event"] == "Chat ended"]
        assert [line.get("address") for line in ends] == ["http://127.0.0.1:9"] * 6 + [None]
        assert "failed too often" in ends[5]["reason"]  # the two share what is known of their address
        assert answer["code"] == "upstream_unavailable"


async def test_a_shop_with_an_empty_list_of_bots_may_ask_none_and_one_without_a_list_any(tmp_path: Path) -> None:
    async with shops(tmp_path, '[a]\ncoze_api_token = "x"\nbots = []\n[b]\ncoze_api_token = "y"\n') as asked:
        assert (await asked.ask("a"))[0] == 422
        assert (await asked.ask("b", bot="any"))[0] == 200


async def test_no_token_is_in_a_log_line(tmp_path: Path) -> None:
    with capture_logs() as lines:
        async with shops(tmp_path, coze_api_token="token-of-the-gateway", log_upstream_bytes=True) as asked:
            for shop in ("a", "b", None):
                await asked.ask(shop)
            await asked.write("[a]\ncoze_api_token = 7\n")
            await asked.write('[b]\ncoze_api_token = "token-of-a"\n')
    assert "token-of-" not in repr(lines)
