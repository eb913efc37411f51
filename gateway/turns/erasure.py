"""Erasure: deletes a conversation, with everything that the log and the store hold of it."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal, Protocol

from gateway.ids import ConversationId, LogKey, TurnId
from gateway.log.journal import JournalError
from gateway.log.log import EventLog
from gateway.store.store import Store
from gateway.turns.asking import EraseAsked, GoneAsked, ask, ask_all, until_taken_over
from gateway.turns.others import Others
from gateway.turns.readers import Readers
from gateway.waiting import outlived

_ANSWERS_WITHIN = 0.5


class LiveTurns(Protocol):
    """The turns that run or wait in this process, as `Runner` has them."""

    def track(self, work: Any) -> "asyncio.Task[Any]":
        """Runs work that doesn't end with its caller."""

    def gate(self, conversation_id: str) -> asyncio.Lock:
        """A lock: while it is held, no turn starts in the conversation."""

    def end_all(self, conversation_id: str) -> Sequence[TurnId]:
        """Cancels a conversation's turns, and names them."""

    def disown(self, turn_id: TurnId) -> None:
        """Forgets an ended turn."""


class Erasure:
    """Deletes conversations while turns run and readers listen.

    Two things remain: the first characters of its turns in a shop's notifications, until their retention is over, and
    whatever Coze itself keeps.
    """

    def __init__(self, runner: LiveTurns, *, log: EventLog, store: Store, readers: Readers, others: Others) -> None:
        self._others = others
        self._runner = runner
        self._log = log
        self._store = store
        self._readers = readers

    async def erase(self, conversation_id: ConversationId) -> None:
        """Cancels running turns, deletes everything, and sends the readers away. All of that is durable on return.

        Raises `storage_unavailable`. A part may then be deleted, and another call deletes the rest. If the caller is
        cancelled, the erasure goes on by itself.
        """
        await outlived(self._runner.track(self._erase(conversation_id)))

    async def _erase(self, conversation_id: ConversationId) -> None:
        """Claims the conversation, so that no node starts a turn in it, and erases it; or asks its node to erase it."""
        key = LogKey(conversation_id)

        async def attempt() -> Literal["here", "there"] | None:
            if (node := await self._others.claim(key)) is None:
                return "here"
            return None if await ask(self._others, node, EraseAsked(conversation_id)) is None else "there"

        async with self._runner.gate(conversation_id):
            if await until_taken_over(attempt) == "here":
                try:
                    await self._erase_here(conversation_id)
                finally:
                    self._others.release(key)

    async def _erase_here(self, conversation_id: ConversationId) -> None:
        """Erases the log first: the next start would write turns that are still in the log into the store again."""
        ours = self._runner.end_all(conversation_id)
        await self._log.committed()
        await self._store.settled()
        keys = [LogKey(conversation_id), *map(LogKey, await self._store.inventory.turns_of(conversation_id))]
        self._send_away(keys)
        try:
            all_know = await self._told(keys)  # while other nodes can still read how the turns ended
            await self._log.keeper.erase(keys)
        except BaseException:
            self._log.shelf.gone.give_up(keys)
            raise
        for turn_id in ours:
            self._runner.disown(turn_id)
        await self._store.erase(conversation_id)
        if not all_know:

            async def tell() -> bool | None:
                """A node that does not hear of it might write it again; one that is silent for long is buried."""
                return await self._told(keys) or None

            await until_taken_over(tell)
        await self._log.keeper.purge()

    async def _told(self, keys: list[LogKey]) -> bool:
        """Tells the other nodes that these logs are deleted. Returns whether all of them have heard of it."""
        return not self._others.any or None not in await ask_all(self._others, GoneAsked(keys))

    async def erased_elsewhere(self, keys: list[LogKey]) -> None:
        """Another node erases these logs. Readers here get the ends of the turns that it has cancelled."""
        for key in keys:
            if (tail := self._log.shelf.loaded(key)) is not None:
                with suppress(JournalError):
                    await self._log.shelf.freshen(tail)
        self._send_away(keys)
        self._log.keeper.drop(keys)
        self._store.erased_elsewhere(ConversationId(keys[0]))
        purging = self._runner.track(self._log.keeper.purge())
        await asyncio.wait([purging], timeout=_ANSWERS_WITHIN)  # a busy node purges on, and the other one does not wait

    def _send_away(self, keys: Sequence[LogKey]) -> None:
        """Gives the readers of these logs what is left. Whoever comes from now on is sent away, too."""
        self._log.shelf.gone.begin(keys)
        for key in keys:
            if (tail := self._log.shelf.loaded(key)) is not None:
                self._readers.dismiss(tail)
