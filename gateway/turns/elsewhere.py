"""Elsewhere: turns that wait at another node while their readers wait at this one."""

import asyncio

import structlog

from gateway.ids import LogKey
from gateway.log.journal import JournalError
from gateway.log.stretch import Stretch
from gateway.log.tail import Tail
from gateway.turns.context import Means
from gateway.turns.runner import Runner

logger = structlog.get_logger()

_LOOK_AGAIN = 1.0
_LOOKS_FOR_LATE_READERS = 10  # a reader may still be about to wait in the conversation's log


class Elsewhere:
    """Redirects readers at this node, which wait in the conversation's log. A queued turn that never starts ends in a
    log of its own, and the node that runs the turn redirects only its own readers there."""

    def __init__(self, runner: Runner, means: Means) -> None:
        self._runner = runner
        self._means = means
        self._watched: set[str] = set()

    def watch(self, turn: str, conversation: LogKey) -> None:
        """A reader is about to wait for the turn. Idempotent."""
        if turn not in self._watched:
            self._watched.add(turn)
            self._runner.track(self._watch(turn, conversation))

    async def _watch(self, turn: str, conversation: LogKey) -> None:
        try:
            while True:
                try:
                    return await self._lead(turn, conversation)
                except JournalError as error:
                    logger.warning("nodes.not_followed", turnId=turn, reason=str(error))
                    await asyncio.sleep(_LOOK_AGAIN)
        finally:
            self._watched.discard(turn)

    async def _lead(self, turn: str, conversation: LogKey) -> None:
        """Redirects readers until the turn has begun, or no reader has come for some time. Raises `JournalError`.

        A database that has lost its last moments may have lost the turn: then nobody begins it, and its readers leave.
        """
        shelf, me = self._means.log.shelf, object()
        home = await shelf.tail(conversation)
        home.users.add(me)
        try:
            own = await shelf.tail(LogKey(turn))
            own.users.add(me)
            try:
                quiet, known = 0, False
                while quiet < _LOOKS_FOR_LATE_READERS and turn not in self._runner.turns:
                    news = own.changed()
                    stretch = await self._kept(own)
                    if any(span.turn == turn for span in home.spans):
                        return
                    if known and not own.spans:
                        self._means.readers.redirect(turn, home, own)
                        return self._means.readers.dismiss(own)
                    known = bool(own.spans)
                    if stretch is not None and stretch.ended is not None and stretch.last >= stretch.first:
                        self._means.readers.redirect(turn, home, own)
                        quiet += 1
                    else:
                        quiet = quiet + 1 if home.users == {me} else 0
                    await asyncio.wait([news], timeout=_LOOK_AGAIN)
            finally:
                shelf.drop(own, me)
        finally:
            shelf.drop(home, me)

    async def _kept(self, own: Tail) -> Stretch | None:
        return await self._means.log.shelf.load(own.spans[-1]) if own.spans else None

    def __repr__(self) -> str:
        return f"Elsewhere({len(self._watched)} turns)"
