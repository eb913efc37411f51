"""The log's calls cancelled at every await: it stays usable, and what was appended is there after a restart."""

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from gateway.events import Completed, Started, Text
from gateway.ids import LogKey
from gateway.log.log import EventLog
from gateway.log.sqlite import SqliteJournal
from gateway.log.tail import Span, Tail
from gateway.telemetry.ledger import Ledger
from tests.cancellation.steps import cut
from tests.contracts.journals import BenchOwner


def _log(path: Path, ledger: Ledger) -> EventLog:
    journal = SqliteJournal(path / "log.db", ledger=ledger)
    return EventLog(journal, ledger=ledger, retention=3600, clock=lambda: 1000.0)


def _write(log: EventLog, turn: str, *, end: bool = True) -> Tail:
    tail = log.shelf.create(LogKey(f"conv_{turn}"))
    writer = log.begin(tail, turn, b"note", owner=BenchOwner(), mark=f"mark-{turn}")
    writer.append(Started("c", turn, "hello"))
    for piece in "abc":
        writer.append(Text("message", piece))
    if end:
        writer.append(Completed("c", turn, "abc", None, False))
        writer.end()
    return tail


async def _text(log: EventLog, turn: str) -> bytes:
    tail = await log.shelf.find(turn)
    assert tail is not None
    stretch = await log.shelf.load(next(span for span in tail.spans if span.turn == turn))
    assert stretch is not None
    return b"".join(entry.body for entry in stretch.read(after=0))


def _span(log: EventLog) -> Coroutine[Any, Any, Any]:
    async def load() -> None:
        tail = await log.shelf.tail(LogKey("conv_kept"))
        span: Span = tail.spans[0]
        await log.shelf.load(span)

    return load()


CALLS: dict[str, Callable[[EventLog], Coroutine[Any, Any, Any]]] = {
    "committed": lambda log: log.committed(),
    "probe": lambda log: log.probe(),
    "fold": lambda log: log.keeper.fold(also_running=True),
    "trim": lambda log: log.keeper.trim(),
    "tail": lambda log: log.shelf.tail(LogKey("conv_kept")),
    "find": lambda log: log.shelf.find("kept"),
    "marked": lambda log: log.shelf.marked("mark-kept"),
    "load": _span,
}


@pytest.mark.parametrize("name", CALLS)
async def test_a_call_cancelled_at_any_await_leaves_the_log_usable(tmp_path: Path, ledger: Ledger, name: str) -> None:
    log = _log(tmp_path, ledger)
    await log.open()
    _write(log, "kept")
    await log.committed()
    await log.keeper.fold()
    at, reached = 0, True
    turns: list[str] = []
    while reached:
        at += 1
        _write(log, turn := f"turn{at}", end=at % 2 == 0)
        turns.append(turn)
        reached = await cut(CALLS[name](log), at)
        await log.committed()
        assert await _text(log, turn)
        assert log.trouble is None
    assert at > 1 or name == "committed"  # a quick disk has it already
    await log.keeper.fold(also_running=True)
    before = {turn: await _text(log, turn) for turn in [*turns, "kept"]}
    await log.close()
    log = _log(tmp_path, ledger)
    running = await log.open()
    assert {stretch.turn for stretch in running} == {turn for turn in turns if int(turn[4:]) % 2}
    assert {turn: await _text(log, turn) for turn in before} == before
    await log.close()


async def test_a_close_cancelled_at_any_await_can_be_done_again_and_loses_nothing(
    tmp_path: Path, ledger: Ledger
) -> None:
    at, reached = 0, True
    turns: list[str] = []
    while reached:
        at += 1
        log = _log(tmp_path, ledger)
        await log.open()
        for turn in turns:
            assert await _text(log, turn)
        _write(log, turn := f"turn{at}")
        turns.append(turn)
        reached = await cut(log.close(), at)
        await log.close()
    assert at > 3
