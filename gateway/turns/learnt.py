"""Learnt: what this process knows of turns that others go on with, and could not write down in time."""

import asyncio
from contextlib import suppress

import msgspec

from gateway.errors import GatewayError
from gateway.turns.asking import LearntAsked, ask
from gateway.turns.others import Others

_REMEMBERED = 60.0  # seconds: by then the turn has been taken over
_ASKED_WITHIN = 1.0  # seconds in which a node that was only cut off may come back; readers wait for the end meanwhile
_ASK_AGAIN = 0.2


class Fate(msgspec.Struct, frozen=True, omit_defaults=True):
    """What became of a message that was to be sent: Coze gave the chat these ids, or, without them, it never left."""

    chat_id: str = ""
    coze_conversation_id: str = ""


class Learnt:
    """Whether Coze has a message is known only to the process that was about to send it, until that is durable. If the
    log stops taking anything from the process just then, it keeps the answer for whoever goes on with the turn."""

    def __init__(self, others: Others) -> None:
        self._others = others
        self._fates: dict[str, Fate] = {}

    def keep(self, attempt: str, fate: Fate) -> None:
        if self._others.any and attempt:
            self._fates[attempt] = fate
            asyncio.get_running_loop().call_later(_REMEMBERED, self._fates.pop, attempt, None)

    def here(self, attempt: str) -> Fate | None:
        """What this process knows of this attempt to send a message."""
        return self._fates.get(attempt)

    async def of(self, attempt: str) -> Fate | None:
        """What any node knows of it; None if no node has said anything within a second."""
        loop = asyncio.get_running_loop()
        until = loop.time() + _ASKED_WITHIN
        while (found := self._fates.get(attempt)) is None and attempt and loop.time() < until:
            with suppress(GatewayError, TimeoutError):
                async with asyncio.timeout_at(until):
                    if not (nodes := await self._others.all()):
                        return None
                    answers = [self._ask(node, attempt) for node in nodes]
                    if said := [answer for answer in await asyncio.gather(*answers) if answer is not None]:
                        return said[0]
            await asyncio.sleep(_ASK_AGAIN)
        return found

    async def _ask(self, node: int, attempt: str) -> Fate | None:
        with suppress(GatewayError):
            if (reply := await ask(self._others, node, LearntAsked(attempt))) is not None:
                return msgspec.convert(reply.value, Fate | None)
        return None

    def __repr__(self) -> str:
        return f"Learnt({len(self._fates)} attempts)"
