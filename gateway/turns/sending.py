"""Sending: hands the message, or tool outputs, to Coze, and tries again only while that is safe."""

import asyncio

from gateway.errors import Code, UpstreamError
from gateway.ids import new_token
from gateway.turns.context import Context
from gateway.turns.intake import Intake
from gateway.turns.pen import Pen
from gateway.upstream.backoff import delay
from gateway.upstream.protocol import ChatStream, StreamEnd
from gateway.upstream.runs import Resumption

CONVERSATION_GONE = 4002
"""Coze's code for: there is no such conversation, or not for this token."""


class Sending:
    """Opens the intake, by sending the turn's message or the outputs of its tools."""

    def __init__(self, context: Context, pen: Pen, intake: Intake) -> None:
        self._context = context
        self._turn = context.turn
        self._note = context.note
        self._pen = pen
        self._intake = intake
        self.asked: bool | None = None
        """Whether Coze may have the message by this process's newest attempt to send it; None before the first one."""

    async def send(self) -> None:
        """Sends the message, as often as is safe, until Coze accepts or refuses it, and listens to Coze's answer."""
        means, turn, note, naming = self._context.means, self._turn, self._note, self._context.naming
        attempt = 0
        while turn.phase == "starting":
            try:
                await self._try_to_send()
                if self._intake.is_open:
                    await self._intake.listen()
                return
            except UpstreamError as error:
                naming.over(self._pen.question)
                if turn.outcome is not None:
                    return
                ours = note.order.coze is None and note.order.kind == "chat"
                gone = error.coze_code == CONVERSATION_GONE and error.taken == "no" and ours
                if gone and naming.gone(note.coze_conversation_id):
                    means.observer.turn_troubled(self._context.ids, "conversation_gone_at_coze", error)
                    continue
                attempt += 1
                safe = error.taken == "no" or (error.taken == "unknown" and means.retry_uncertain)
                wait = self._wait(attempt, error)
                if not (error.retryable and safe) or wait is None:
                    raise
                self._context.course.failed(error)
                note.stage = "accepted"
                if error.taken == "no":
                    self.asked = False
                self._say_again(attempt, wait, error)
                self._pen.remember()
                await self._context.waking.pause(wait, turn)

    async def _try_to_send(self) -> None:
        """Makes one attempt. Before it sends the message, it makes durable that it is about to."""
        means, naming, note = self._context.means, self._context.naming, self._note
        if note.order.kind == "chat":
            await self._await_name()
        if self._turn.outcome is not None:
            return
        self._context.course.attempts += 1
        upstream = self._context.upstream
        self._context.course.address, breaker = upstream.address, upstream.breaker
        if not breaker.allow():
            detail = f"Coze is not asked, because it failed too often. Its last failure: {breaker.why}"
            raise UpstreamError(Code.UPSTREAM_UNAVAILABLE, detail, retryable=True)
        try:
            self.asked = False
            note.stage, note.attempt = "sending", new_token()
            note.coze_conversation_id, note.naming = naming.name, naming.version
            self._pen.remember()
            await means.log.committed()
            if self._turn.phase == "ended":
                breaker.released()
                return
            self.asked = True
            self._intake.open(await self._ask())
        except UpstreamError as error:
            if error.code is Code.UPSTREAM_UNAVAILABLE:
                breaker.failed(error.detail)
            else:
                breaker.succeeded()
            raise
        except BaseException:
            breaker.released()
            raise
        breaker.succeeded()

    async def _ask(self) -> ChatStream:
        order, upstream = self._note.order, self._context.upstream
        if order.kind == "run":
            return await upstream.run_workflow(order.run(), self._intake.take)
        self._pen.question = self._context.naming.ask()
        return await upstream.chat(order.request(self._note.coze_conversation_id), self._intake.take)

    async def _await_name(self) -> None:
        """Waits while an earlier turn, which was cancelled, may still learn the conversation's name at Coze.

        A message that is sent without that name would start a new conversation at Coze. An earlier turn listens for a
        few seconds at most after its end.
        """
        waking = self._context.waking
        while self._turn.phase != "ended" and (news := self._context.naming.awaited()) is not None:
            await asyncio.wait((news, waking.changed()), return_when=asyncio.FIRST_COMPLETED)

    async def submit(self) -> None:
        """Sends the tool outputs; the same chat, or run, continues in a new stream. Retried in the same way as a
        message."""
        turn, course = self._turn, self._context.course
        attempt = 0
        recovering = turn.phase == "recovering"  # after a crash, or a break: Coze still waits for them
        turn.outputs_given()
        while turn.phase == "streaming":
            try:
                self._intake.open(await self._hand_over())
                self._note.outputs = []
                self._pen.remember()
                return
            except UpstreamError as error:
                attempt += 1
                course.failed(error, "handing over the tool outputs")
                if error.taken == "unknown":  # the chat's record tells whether Coze has them
                    self._pen.append(turn.stream_ended(StreamEnd.BROKEN))
                    return
                wait = self._wait(attempt, error)
                if not error.retryable or error.taken != "no" or wait is None:
                    if recovering:
                        self._pen.append(turn.stream_ended(StreamEnd.BROKEN))
                    raise
                self._say_again(attempt, wait, error)
                await self._context.waking.pause(wait, turn)

    async def _hand_over(self) -> ChatStream:
        turn, order, outputs = self._turn, self._note.order, self._note.outputs
        upstream = self._context.upstream
        if order.kind == "run":
            [(event_id, output)] = outputs
            answer = Resumption(order.workflow_id, event_id, turn.tool_calls[0]["interruptType"], output)
            return await upstream.resume_workflow(answer, self._intake.take)
        assert turn.ref is not None, turn
        return await upstream.submit_tool_outputs(turn.ref, outputs, self._intake.take)

    def _wait(self, attempt: int, error: UpstreamError) -> float | None:
        """Seconds until the next attempt; None if there will be none."""
        means = self._context.means
        return delay(attempt, error.retry_after, means.rng) if attempt <= means.retries else None

    def _say_again(self, attempt: int, seconds: float, error: UpstreamError) -> None:
        """Tells readers that the next attempt comes in `seconds`."""
        context = self._context
        context.means.observer.upstream_retried(context.ids, error.code, attempt, seconds)
        self._pen.append(self._turn.retrying(attempt, round(seconds * 1000)))
