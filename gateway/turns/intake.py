"""The intake: the one stream that is open for a live turn, and the items that come over it."""

import asyncio

from gateway.errors import Code, GatewayError, UpstreamError
from gateway.turns.answer import real_id
from gateway.turns.context import Context
from gateway.turns.pen import Pen
from gateway.upstream.protocol import ChatStream, Created, Item, Skipped, StreamEnd

SETTLE = 0.7
"""Seconds for which late audio and suggestions are still accepted after Coze has completed the chat."""


class Intake:
    """Hands Coze's items to the turn as their bytes arrive, and the events that follow to the pen.

    `wanted` is False once the turn is over for its readers, although Coze may still tell the id of the chat.
    """

    def __init__(self, context: Context, pen: Pen) -> None:
        self._context = context
        self._turn = context.turn
        self._pen = pen
        self._loop = asyncio.get_running_loop()
        self._stream: ChatStream | None = None
        self._resuming: asyncio.Task[None] | None = None
        self._bug: Exception | None = None  # raised while Coze's bytes were handled; the turn's task raises it again
        self.wanted = True

    @property
    def is_open(self) -> bool:
        return self._stream is not None

    def open(self, stream: ChatStream) -> None:
        """Coze has answered with a stream, which calls `take`."""
        self._stream = stream

    def close(self) -> None:
        """Ends the stream, if one is open. Its message can then no longer bring the conversation's name."""
        self._context.naming.over(self._pen.question)
        if self._resuming is not None:
            self._resuming.cancel()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def take(self, items: list[Item]) -> None:
        """Takes items of Coze's stream. Called as their bytes arrive; never waits, never raises."""
        if self._bug is None:
            try:
                self._take_in(items)
            except Exception as error:
                self._bug = error
                self._context.waking.wake()

    def _take_in(self, items: list[Item]) -> None:
        turn, context = self._turn, self._context
        before = turn.phase
        if before == "ended":
            self._learn_from(items)
            return
        events = turn.take(items)
        if events:
            self._pen.append(events)
            if turn.phase != "ended" and self._pen.behind:
                self._wait_for_the_log()
        if len(events) != len(items):
            for item in items:
                if isinstance(item, Skipped):
                    context.means.observer.record_skipped(context.ids, item.reason)
                    context.course.skip(item)
        if turn.memory_changed:
            self._pen.remember()
        if turn.phase is not before:
            context.course.took(turn)
            context.waking.wake()

    def _wait_for_the_log(self) -> None:
        if self._stream is not None and self._resuming is None:
            self._stream.pause()
            self._resuming = self._loop.create_task(self._resume(self._stream))

    async def _resume(self, stream: ChatStream) -> None:
        try:
            await self._pen.catch_up()
        finally:
            self._resuming = None
            stream.resume()

    async def listen(self) -> None:
        """Waits until the stream ends, or until the turn's fate is decided before that.

        Raises `upstream_uncertain` if the message may be sent again although nobody knows whether Coze has it.
        """
        turn, stream = self._turn, self._stream
        if stream is None:  # a turn restored from text alone: no ids, so nothing to ask for
            self._context.course.add("Coze gave no ids, so there is no record to ask for")
            self._pen.append(turn.fail(GatewayError(Code.UPSTREAM_FAILED)))
            return
        ended = asyncio.ensure_future(stream.ended())
        try:
            await self._until_decided(ended)
            if self._bug is not None:
                raise self._bug
            if turn.phase in ("starting", "streaming", "settling"):
                self._take_end(ended.result())
        finally:
            if not ended.done():
                ended.cancel()
        if turn.ref is not None or (self.wanted and not turn.overfull):
            self.close()

    async def _until_decided(self, ended: "asyncio.Future[StreamEnd]") -> None:
        turn = self._turn
        settle: float | None = None
        while turn.phase in ("starting", "streaming", "settling") and not ended.done() and self._bug is None:
            if turn.phase == "settling" and settle is None:
                settle = self._loop.time() + SETTLE
            changed = self._context.waking.changed()
            left = None if settle is None else settle - self._loop.time()
            await asyncio.wait((ended, changed), timeout=left, return_when=asyncio.FIRST_COMPLETED)
            if settle is not None and self._loop.time() >= settle:
                self._pen.append(turn.settled())

    def _take_end(self, end: StreamEnd) -> None:
        turn = self._turn
        again = self._context.means.retry_uncertain
        if turn.phase == "starting" and again and end is not StreamEnd.FAILING:
            self.close()
            raise UpstreamError(Code.UPSTREAM_UNCERTAIN, retryable=True, taken="unknown")
        if turn.phase != "settling":
            self._context.course.ended(end)
        self._pen.append(turn.stream_ended(end))

    async def learn(self) -> None:
        """Reads on after the turn's end until Coze has given the chat's id, so that Coze can be told of the end."""
        if self._stream is None:
            return
        ended = asyncio.ensure_future(self._stream.ended())
        try:
            while self._turn.ref is None and not ended.done():
                await asyncio.wait((ended, self._context.waking.changed()), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()

    def _learn_from(self, items: list[Item]) -> None:
        turn = self._turn
        for item in items:
            if isinstance(item, Created) and turn.ref is None:
                turn.memory.chat_id = item.chat_id
                turn.memory.coze_conversation_id = item.conversation_id
                self._context.naming.told(self._pen.question, real_id(item.conversation_id))
                self._context.waking.wake()

    def __repr__(self) -> str:
        return f"Intake({'open' if self._stream is not None else 'closed'}, wanted={self.wanted})"
