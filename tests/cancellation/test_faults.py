"""Bugs of our own, planted in the whole core: the turn that they meet ends with `internal`, all else goes on."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from adapters.native import operations
from adapters.services import SERVICES, Services
from gateway.events import Text
from gateway.log.writer import Writer
from gateway.simulator import whole_text
from gateway.store.changes import Changes
from gateway.store.statements import Statements
from gateway.telemetry.scrape import render
from gateway.turns import telling
from gateway.turns.turn import Turn
from tests.cancellation.conftest import OpenCore, balanced
from tests.cancellation.test_runner import _ending, _order, _start
from tests.waiting import until


class Bug(Exception):
    pass


PLAIN = "/fault plain pieces:12 rate:60"


def count(services: Services, part: str) -> float:
    text = render(services.metrics)[0].decode()
    (line,) = [line for line in text.splitlines() if line.startswith(f'gateway_faults_total{{part="{part}"}}')]
    return float(line.rpartition(" ")[2])


async def goes_on(services: Services) -> None:
    """Checks that the next turn is answered, also in the store."""
    accepted = await _start(services, _order(PLAIN))
    assert (await _ending(services, accepted))["content"] == whole_text(PLAIN)

    async def stored() -> bool:
        row = await services.store.turn(accepted.turn_id)
        return row is not None and row.status == "completed"

    await balanced(services, "turn")
    assert await stored()
    await services.store.settled()
    assert not operations.not_ready(services)


def planted(original: Any, when: Any) -> Any:
    """`original`, but it fails for the first turn that `when` selects."""

    def buggy(self: Any, *args: Any, **named: Any) -> Any:
        if when(self, *args):
            raise Bug
        return original(self, *args, **named)

    return buggy


@pytest.mark.parametrize("where", ["take", "append"])
async def test_a_turn_that_breaks_ends_with_internal(
    open_core: OpenCore, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    async with open_core() as services:
        first: list[str] = []

        def mine(turn: Turn, *_: object) -> bool:
            first.append(turn.turn_id)
            return turn.turn_id == first[0] and bool(turn.content)

        if where == "append":
            append = Writer.append

            def buggy(writer: Writer, event: Any) -> None:
                first.append(writer.stretch.turn)
                if writer.stretch.turn == first[0] and type(event).__name__ == "Text":
                    raise Bug
                append(writer, event)

            monkeypatch.setattr(Writer, "append", buggy)
        else:
            monkeypatch.setattr(Turn, "take", planted(Turn.take, mine))
        accepted = await _start(services, _order(PLAIN))
        ending = await _ending(services, accepted)
        assert (ending["event"], ending["code"]) == ("error", "internal")
        await balanced(services, "turn")
        row = await services.store.turn(accepted.turn_id)
        assert row is not None
        assert (row.status, row.content) == ("failed", ending["content"])
        assert count(services, "turn") >= 1
        await goes_on(services)


async def test_what_breaks_the_journal_ends_its_turn_with_internal(
    open_core: OpenCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_core() as services:
        take, first = Turn.take, []

        def buggy(turn: Turn, items: Any) -> Any:
            first.append(turn.turn_id)
            events = take(turn, items)
            if turn.turn_id == first[0] and turn.content:
                return [*events, Text("message", "\ud83d")]
            return events

        monkeypatch.setattr(Turn, "take", buggy)
        accepted = await _start(services, _order(PLAIN))
        ending = await _ending(services, accepted)
        assert (ending["event"], ending["code"]) == ("error", "internal")
        await goes_on(services)
        row = await services.store.turn(accepted.turn_id)
        assert row is not None
        assert row.status == "failed"
    async with open_core() as services:
        again = await _ending(services, accepted)
        assert again == ending
        await goes_on(services)


async def test_a_turn_that_cant_be_looked_at_keeps_the_keeper_from_no_other(
    open_core: OpenCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked = asyncio.Event()

    def buggy(*_: object) -> Any:
        looked.set()
        raise Bug

    monkeypatch.setattr(telling, "_EVERY", 0.05)
    monkeypatch.setattr(telling, "_STEP", 0.01)
    monkeypatch.setattr(telling, "glance", buggy)
    async with open_core() as services:
        accepted = await _start(services, _order("/fault plain pieces:30 rate:100"))
        await asyncio.wait_for(looked.wait(), 5)
        assert (await _ending(services, accepted))["event"] == "completed"
        assert count(services, "keep") >= 1
        assert services.turns._keeping is not None
        assert not services.turns._keeping.done()
        await goes_on(services)


async def test_the_stores_writer_survives_what_it_cant_write_and_what_nobody_thought_of(
    open_core: OpenCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_core() as services:
        writing, first = Statements.writing, list[str]()

        def buggy(self: Statements, changes: Changes) -> Any:
            first.extend(changes.turns)
            if first and first[0] in changes.turns:
                raise Bug
            return writing(self, changes)

        monkeypatch.setattr(Statements, "writing", buggy)
        await _ending(services, await _start(services, _order(PLAIN)))
        await balanced(services, "turn")
        await services.store.settled()
        assert count(services, "store") >= 1
        await goes_on(services)

        def fails(*_: object) -> Any:
            monkeypatch.undo()
            raise Bug

        monkeypatch.setattr(Changes, "then", fails)
        monkeypatch.setattr(services.store._writer, "_write", fails)
        accepted = await _start(services, _order(PLAIN))
        await until(lambda: services.store.trouble is not None)
        await until(lambda: services.store.trouble is None)
        assert (await _ending(services, accepted))["event"] == "completed"
        await balanced(services, "turn")
        await goes_on(services)


async def test_a_loop_that_cant_go_on_is_said_by_health_and_readiness(
    open_core: OpenCore, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fatal(BaseException):
        pass

    async def fatal(*_: object) -> Any:
        raise Fatal

    async with open_core() as services, aiohttp.ClientSession() as session:
        app = web.Application()
        app[SERVICES] = services
        operations.add_routes(app)
        serving = web.AppRunner(app)
        await serving.setup()
        site = web.TCPSite(serving, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{serving.addresses[0][1]}"

        async def said(path: str) -> tuple[int, Any]:
            async with session.get(url + path) as response:
                return response.status, json.loads(await response.text())

        assert (await said("/healthz"))[0] == (await said("/readyz"))[0] == 200
        monkeypatch.setattr(services.log.keeper, "fold", fatal)
        await until(lambda: services.faults.stopped)
        for path in ("/healthz", "/readyz"):
            status, answer = await said(path)
            assert status == 503
            assert "'fold'" in answer["reasons"][0]
        monkeypatch.undo()
        await serving.cleanup()
