"""Post: questions from one node to another, and their answers."""

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from gateway.errors import Code, GatewayError
from gateway.log.journal import JournalError
from gateway.log.licence import Licence
from gateway.nodes.database import Database
from gateway.nodes.rings import Rings

logger = structlog.get_logger()

ANSWER_WITHIN = 2.0
"""Seconds within which a living node answers."""

_LOOK_AGAIN = 0.25
_ASK = "INSERT INTO log_post (node, body) VALUES (%s, %s) RETURNING id"
_ANSWER = "UPDATE log_post SET answer = %s WHERE id = %s"
_OPEN = "DELETE FROM log_post WHERE id = %s AND answer IS NOT NULL RETURNING answer"
_TAKE_BACK = "DELETE FROM log_post WHERE id = %s RETURNING answer"
_MINE = "SELECT id, body FROM log_post WHERE node = %s AND answer IS NULL ORDER BY id"

Answering = Callable[[bytes], Awaitable[bytes]]


class Post:
    """Questions lie in the database until they are answered, for a few seconds at most. A ring tells of new ones."""

    def __init__(self, database: Database, licence: Licence, rings: Rings) -> None:
        self._database = database
        self._licence = licence
        self._rings = rings
        self._at_work: dict[int, asyncio.Task[None]] = {}
        self._came = asyncio.Event()

    async def ask(self, node: int, question: bytes) -> bytes | None:
        """Another node's answer; None if it gives none in time: it may be dead. Raises `storage_unavailable`."""
        try:
            ((letter,),) = await self._database.ask(_ASK, node, question)
            self._rings.post(node)
            loop = asyncio.get_running_loop()
            deadline = loop.time() + ANSWER_WITHIN
            while loop.time() < deadline:
                try:
                    async with asyncio.timeout(_LOOK_AGAIN):
                        await self._came.wait()
                except TimeoutError:
                    pass
                self._came.clear()
                if rows := await self._database.ask(_OPEN, letter):
                    return bytes(rows[0][0])
            rows = await self._database.ask(_TAKE_BACK, letter)
            if rows and rows[0][0] is not None:
                return bytes(rows[0][0])
        except JournalError as error:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error)) from error
        return None

    def came(self) -> None:
        """A ring told of questions or answers."""
        self._came.set()

    async def look(self, answer: Answering) -> None:
        """Begins to answer the questions to this node. Raises `JournalError`."""
        for letter, question in await self._database.ask(_MINE, self._licence.node):
            if letter not in self._at_work:
                task = self._at_work[letter] = asyncio.create_task(self._reply(letter, answer(bytes(question))))
                task.add_done_callback(lambda _, letter=letter: self._at_work.pop(letter, None))  # type: ignore[misc]

    async def _reply(self, letter: int, answer: Awaitable[bytes]) -> None:
        try:
            await self._database.ask(_ANSWER, await answer, letter)
        except JournalError as error:
            logger.warning("nodes.answer_lost", reason=str(error))
        self._rings.post(0)

    async def close(self) -> None:
        for task in list(self._at_work.values()):
            task.cancel()
        await asyncio.gather(*self._at_work.values(), return_exceptions=True)
