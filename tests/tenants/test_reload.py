"""The table of shops follows its file: what that means for turns that run meanwhile."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from structlog.testing import capture_logs

from tests.processes import GatewayProcess
from tests.tenants.shops import TWO, Shops, shops
from tests.transports.coze import told_coze
from tests.waiting import until

OTHER = TWO.replace("token-of-a", "new-token-of-a")
ONLY_B = '[b]\ncoze_api_token = "token-of-b"\n'


async def ended(asked: Shops, turn: str) -> Any:
    """A turn's state, once it is over."""

    async def end() -> Any:
        state = await asked.state(turn)
        return state if state["status"] in ("completed", "failed") else None

    return await until(end, within=10)


async def test_a_new_token_holds_for_what_is_asked_from_then_on_and_running_streams_go_on(tmp_path: Path) -> None:
    async with shops(tmp_path) as asked:
        turn = await asked.begin("a", "slow")
        chat = await asked.coze.came(1)
        await asked.write(OTHER)
        assert (await asked.ask("a"))[0] == 200
        assert (await asked.ask("b"))[0] == 200
        chat.finish.set()
        assert (await ended(asked, turn))["content"] == "to slow"
        assert asked.coze.tokens == ["token-of-a", "new-token-of-a", "token-of-b"]


async def test_a_broken_answer_is_finished_with_the_credentials_that_hold_now(tmp_path: Path) -> None:
    async with shops(tmp_path) as asked:
        turn = await asked.begin("a", "cut")
        chat = await asked.coze.came(1)
        await asked.write(OTHER)
        chat.status = "completed"
        chat.finish.set()
        assert (await ended(asked, turn))["content"] == "to cut"
        assert asked.coze.tokens == ["token-of-a", "new-token-of-a", "new-token-of-a"]


async def test_a_shop_that_leaves_keeps_its_running_answer_and_starts_no_other(tmp_path: Path) -> None:
    async with shops(tmp_path) as asked:
        turn = await asked.begin("a", "slow")
        chat = await asked.coze.came(1)
        await asked.write(ONLY_B)
        assert (await asked.ask("a"))[0] == 404
        chat.finish.set()
        assert (await ended(asked, turn))["content"] == "to slow"
        assert asked.coze.tokens == ["token-of-a"]


async def test_an_answer_that_breaks_after_its_shop_has_left_ends_with_an_error(tmp_path: Path) -> None:
    async with shops(tmp_path) as asked:
        turn = await asked.begin("a", "cut")
        chat = await asked.coze.came(1)
        await asked.write(ONLY_B)
        chat.status = "completed"
        chat.finish.set()
        state = await ended(asked, turn)
        assert state["error"]["code"] == "upstream_unauthorized"
        assert asked.coze.tokens == ["token-of-a"]


async def test_a_turn_that_waited_until_its_shop_had_left_ends_with_an_error(tmp_path: Path) -> None:
    async with shops(tmp_path) as asked:
        _, first = await asked.ask("a", "slow", headers={"Prefer": "wait=0"})
        chat = await asked.coze.came(1)
        waits = {"conversationId": first["conversationId"], "onBusy": "queue", "headers": {"Prefer": "wait=0"}}
        _, second = await asked.ask("a", "after that", **waits)
        await asked.write(ONLY_B)
        chat.finish.set()
        state = await ended(asked, second["turnId"])
        assert state["error"]["code"] == "upstream_unauthorized"
        assert len(asked.coze.chats) == 1


async def test_a_message_that_is_under_way_is_not_lost_when_its_credentials_change(tmp_path: Path) -> None:
    async with shops(tmp_path) as asked:
        turn = await asked.begin("a", "silent")  # Coze has the message, and has not said so yet
        chat = await asked.coze.came(1)
        for text in (OTHER, ONLY_B, TWO):
            await asked.write(text)
        chat.tell.set()
        assert (await ended(asked, turn))["content"] == "to silent"
        assert len(asked.coze.chats) == 1


async def test_what_is_the_same_stays_and_what_has_left_is_closed_once_it_is_quiet(tmp_path: Path) -> None:
    async with shops(tmp_path) as asked:
        tenants = asked.file.tenants
        a, b = (tenants.table[shop].account for shop in "ab")
        await asked.begin("a", "slow")
        chat = await asked.coze.came(1)
        await asked.write(OTHER.replace('["bot-a"]', '["bot-a", "bot-b"]'))
        assert tenants.table["b"].account is b
        assert tenants.table["a"].account is not a
        assert repr(tenants) == "Tenants(2 shops, 1 leaving)"
        chat.finish.set()
        await until(lambda: not a.busy)
        await asked.file.look()
        assert repr(tenants) == "Tenants(2 shops, 0 leaving)"


async def test_a_wrong_file_is_refused_with_every_mistake_and_the_shops_stay(tmp_path: Path) -> None:
    async with shops(tmp_path) as asked:
        with capture_logs() as lines:
            await asked.write("[a]\nbots = 7\n[b]\n")
        (line,) = [line for line in lines if line["event"] == "tenants.refused"]
        assert line["log_level"] == "error"
        assert [mistake.split(":")[0] for mistake in line["mistakes"]] == ["[a] bots", "[a]", "[b]"]
        assert [(await asked.ask(shop))[0] for shop in "ab"] == [200, 200]
        ready = f"{asked.gateway.url}/readyz"
        async with asked.gateway.session.get(ready) as answer:
            assert (await answer.json())["remarks"] == [
                "GATEWAY_TENANTS_FILE was refused: the shops that it had before stay in use"
            ]
        await asked.write(ONLY_B)
        async with asked.gateway.session.get(ready) as answer:
            assert "remarks" not in await answer.json()
        assert [(await asked.ask(shop))[0] for shop in "ab"] == [404, 200]


async def test_a_changed_file_is_read_once_it_stays_the_same_and_a_refused_one_is_told_once(tmp_path: Path) -> None:
    async with shops(tmp_path) as asked:
        file = tmp_path / "tenants.toml"
        with capture_logs() as lines:
            file.write_text("[a]\ncoze_api_token = ")  # it is being written
            await asked.file.look()
            file.write_text(ONLY_B)
            await asked.file.look()
            assert lines == []
            await asked.file.look()
            assert [line["event"] for line in lines] == ["tenants.read"]
            assert [lines[0][count] for count in ("shops", "came", "changed", "left")] == [1, 0, 0, 1]
            file.unlink()
            for _ in range(4):
                await asked.file.look()
            assert [line["event"] for line in lines[1:]] == ["tenants.refused"]
            os.replace(_written(tmp_path / "next", TWO), file)
            for _ in range(3):
                await asked.file.look()
            assert [line["event"] for line in lines[2:]] == ["tenants.read"]
            assert [lines[2][count] for count in ("shops", "came", "changed", "left")] == [2, 1, 0, 0]


def _written(file: Path, text: str) -> Path:
    file.write_text(text)
    return file


async def test_a_process_reads_its_file_on_sighup_and_when_it_changes(
    tmp_path: Path, start_gateway: Callable[..., Awaitable[GatewayProcess]]
) -> None:
    file = _written(tmp_path / "tenants.toml", TWO)
    async with told_coze() as coze:
        gateway = await start_gateway(GATEWAY_TENANTS_FILE=str(file), COZE_API_BASE=coze.url)
        seen = len(gateway.lines)
        gateway.send_signal(signal.SIGHUP)
        line = await gateway.logged("tenants.read", after=seen)
        assert (line["shops"], line["changed"]) == (2, 0)
        seen = len(gateway.lines)
        file.write_text(OTHER)
        line = await gateway.logged("tenants.read", after=seen)
        assert (line["shops"], line["changed"]) == (2, 1)
        seen = len(gateway.lines)
        file.write_text("[a]\ncoze_api_token = 'a secret'\n")
        line = await gateway.logged("tenants.refused", after=seen)
        assert (line["level"], len(line["mistakes"])) == ("error", 1)
        assert await gateway.terminate() == 0
        text = "\n".join(gateway.text)
        assert not any(secret in text for secret in ("token-of-a", "token-of-b", "a secret"))


async def test_a_wrong_file_stops_the_start(tmp_path: Path) -> None:
    file = _written(tmp_path / "tenants.toml", "[a]\n[b]\nbots = 1\n")
    for command in ("serve", "check-config"):
        process = await GatewayProcess.start(
            command,
            environment={"GATEWAY_TENANTS_FILE": str(file), "GATEWAY_DATA_DIR": str(tmp_path / "data")},
        )
        async with asyncio.timeout(20):
            assert await process.ended() == 2
        assert [line.split(": ")[1].split("]")[0] for line in process.text] == ["[a", "[b", "[b"]
