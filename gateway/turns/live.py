"""A live turn: the one task that reads Coze for a turn, and writes what follows from it to the log."""

import asyncio
import random
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import structlog
from msgspec import UNSET, Struct

from gateway.bounds import UNWRITTEN_BYTES
from gateway.errors import Code, GatewayError, TooMuch, UpstreamError
from gateway.events import Event, Failed, Message, Notice, Text
from gateway.log.journal import Broken, JournalError
from gateway.log.log import EventLog
from gateway.log.outline import outline
from gateway.log.stretch import Stretch
from gateway.log.tail import Tail
from gateway.log.writer import Writer
from gateway.sentences import sentence
from gateway.store.rows import Status
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.metrics import Metrics, Recovery
from gateway.turns.answer import real_id
from gateway.turns.course import Course
from gateway.turns.naming import Naming
from gateway.turns.orders import Keeping, Note, Order
from gateway.turns.readers import Readers
from gateway.turns.turn import Turn
from gateway.upstream.backoff import delay
from gateway.upstream.breaker import Breaker
from gateway.upstream.protocol import ChatRef, ChatStream, Created, Item, Skipped, StreamEnd, Upstream

logger = structlog.get_logger()

SETTLE = 0.7  # how long late audio and suggestions may still come after Coze has completed the chat
LEARN = 10.0  # how long Coze is read on after a cancel, to learn the chat's id
POLL = 1.0  # between two questions about a chat that broke: Coze asks for a second at least
PATIENCE = 10  # polls that a completed chat's record may lag behind what was streamed, or be empty
REFUSALS = 3  # times that Coze may refuse to tell about a chat before the turn gives up
CONVERSATION_GONE = 4002  # Coze's code: it has no such conversation, or not for this token
MOST_BACKLOG = 20_000  # records not yet durable, above which Coze is not read


class Means(Struct):
    """What every live turn works with."""

    log: EventLog
    upstream: Upstream
    breaker: Breaker
    metrics: Metrics
    faults: Faults
    ledger: Ledger
    rng: random.Random
    clock: Callable[[], float]
    turn_timeout: float
    retries: int
    retry_uncertain: bool
    readers: Readers
    address: str = ""  # Coze's, for log lines


class LiveTurn:
    """A turn from its acceptance to its last event. Belongs to no connection.

    `run` is its task's whole work; cancelling that task (a drain that is over) leaves the turn unfinished in the log,
    for the next process to finish. Everything else is called from the same loop and never waits.
    """

    def __init__(self, means: Means, note: Note, turn: Turn, tail: Tail, *, naming: Naming, timeout: float) -> None:
        self.note = note
        self.turn = turn
        self.tail = tail
        self.naming = naming
        self.stretch: Stretch | None = None
        self.writer: Writer | None = None  # of the stretch that keeps it now: its own, or the one that waits
        self.waiting: Writer | None = None  # of the stretch that kept it while it was queued
        self.task: asyncio.Task[None] | None = None
        self.loss: GatewayError | None = None
        self.course = Course()
        self.erased = False  # its conversation was deleted: nobody is told more of it
        self.changed = True  # since the store was last told
        self.stored = False  # whether the store knows that it began
        self._means = means
        self._loop = asyncio.get_running_loop()
        self._began = self._loop.time()
        self._deadline = self._began + timeout
        self._alarm: asyncio.Timeout | None = None
        self._poke = self._loop.create_future()
        self._stream: ChatStream | None = None
        self._question = 0  # the naming's: of the message that was sent last
        self._resuming: asyncio.Task[None] | None = None
        self._talked = False
        self._abandoning = False
        self._written = 0  # bytes of the turn that were durable when Coze was last let go on
        self._keeping: Keeping | None = None  # what the log has of the note
        self._bug: Exception | None = None  # met where Coze's bytes arrive, to be raised by the turn's task

    @property
    def order(self) -> Order:
        return self.note.order

    @property
    def status(self) -> Status:
        if self.stretch is None:
            return "queued"
        return self.turn.outcome or ("action_required" if self.turn.phase == "action_required" else "running")

    @property
    def seconds(self) -> float:
        """Since it began; of a queued turn since it was started."""
        return self._loop.time() - self._began

    # -- what others ask of it ----------------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Ends the turn with `cancelled` at once; its task then tells Coze. False when it was over already."""
        if self.turn.phase == "ended":
            return False
        self._end_early(self.turn.cancel())
        return True

    def give_outputs(self, outputs: list[tuple[str, str]]) -> None:
        """Answers an `action_required`. Raises `invalid_request` when the turn doesn't wait for these."""
        waits = self.turn.phase == "action_required"
        if not waits and not (self.turn.phase == "recovering" and self.turn.tool_calls):
            raise GatewayError(Code.INVALID_REQUEST, "the turn does not wait for tool outputs")
        wanted = [call.get("id", "") for call in self.turn.tool_calls]
        if sorted(wanted) != sorted(given for given, _ in outputs):
            raise GatewayError(Code.INVALID_REQUEST, f"toolOutputs must answer exactly these toolCallId: {wanted}")
        self.note.outputs = outputs
        if waits:  # else it was taken over, and will hand them over once Coze says that its chat still waits
            self._append(self.turn.outputs_given())
        self._remember()
        self._wake()

    def lost(self, writer: Writer, error: JournalError) -> None:
        """The log lost what was appended and not seen: the turn ends with an error that the log owes its readers."""
        if writer is not self.writer:
            return  # what kept it while it was queued: it is told of its own stretch, too
        self._end_lost(error)
        stretch, waiting = writer.stretch, self.waiting
        if waiting is not None and stretch.last < stretch.first and self.turn.failure is not None:
            # It was about to leave the queue: its readers are told where it waited.
            self._means.readers.redirect(self.turn.turn_id, self.tail, waiting.tail)
            waiting.owe(self.turn.failure)

    def fenced(self, writer: Writer) -> None:
        """Another process goes on with the turn: this one stops, and neither writes nor says anything more."""
        if writer is self.writer:
            self.loss = GatewayError(Code.STORAGE_UNAVAILABLE, "another process goes on with the turn")
            if self.task is not None:
                self.task.cancel()

    def _end_lost(self, error: JournalError) -> None:
        code = Code.INTERNAL if isinstance(error, Broken) else Code.STORAGE_UNAVAILABLE
        self.loss = GatewayError(code, str(error))
        self.course.failed(self.loss)
        self.turn.fail(self.loss)
        self.turn.outcome = "failed"
        stretch = self.stretch
        if stretch is not None and stretch.last >= stretch.first and stretch.ended is None:
            self.turn.failure = self._failed(code, outline(stretch).content)
            self._writing().owe(self.turn.failure)
        self._abandon()

    async def broke(self, error: Exception) -> None:
        """Our own code failed at this turn: it ends with `internal`, after what readers have of it."""
        means, turn, stretch = self._means, self.turn, self.stretch
        means.faults.broke("turn", error, turnId=turn.turn_id)
        with suppress(GatewayError):
            await means.log.committed()
        if stretch is None or stretch.ended is not None or self.loss is not None:
            return
        self.course.failed(GatewayError(Code.INTERNAL, type(error).__name__))
        turn.phase, turn.outcome = "ended", "failed"
        turn.failure = self._failed(Code.INTERNAL, outline(stretch).content)
        self._writing().append(turn.failure)
        self._writing().end()
        await self._tell_coze()

    def _failed(self, code: Code, content: str) -> Failed:
        return Failed(
            error=sentence(code, self.turn.language),
            code=code.value,
            retryable=True,
            conversation_id=self.turn.conversation_id,
            turn_id=self.turn.turn_id,
            content=content,
        )

    def fail(self, error: GatewayError) -> None:
        """Ends the turn with an error, whatever it was doing."""
        self.course.failed(error)
        self._append(self.turn.fail(error))

    def leave_queue(self) -> None:
        """It is about to begin: what kept it while it waited ends, and its time begins."""
        self.waiting = self._writing()
        self.waiting.end()
        self.restart_clock(self._means.turn_timeout)

    def restart_clock(self, timeout: float) -> None:
        """A queued turn's time begins when it starts."""
        self._began = self._loop.time()
        self._deadline = self._began + timeout

    def taken_over(self) -> None:
        """This process goes on where a former one was killed: says so to the readers, or ends what nobody can know."""
        turn = self.turn
        self.course.add("the gateway was ended in the middle of it")
        if turn.phase == "recovering":
            if self.status != "action_required":
                self._append([Notice("recovering")])
        elif self.note.stage != "accepted" and not self._means.retry_uncertain:
            self._append(turn.fail(GatewayError(Code.UPSTREAM_UNCERTAIN)))

    def announced(self) -> None:
        """The shop's people were told in this very tick: one commit holds both, so that no crash tells them twice."""
        self.note.announced = True
        self._remember()

    # -- the work -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Drives the turn to its last event."""
        try:
            async with asyncio.timeout_at(self._deadline) as self._alarm:
                while self.turn.phase != "ended":
                    match self.turn.phase:
                        case "starting":
                            await self._send()
                        case "streaming" | "settling":
                            await self._listen()
                        case "recovering":
                            await self._recover()
                        case "action_required":
                            await self._wait_for_outputs()
                if self._abandoning and self.turn.ref is None and self._stream is not None:
                    await self._learn(self._stream)
        except TimeoutError:
            if self.turn.phase != "ended":
                if self.turn.phase == "recovering":
                    self._means.metrics.upstream_recovered(Recovery.FAILED)
                self.course.timed_out(self.turn)
                self._append(self.turn.fail(GatewayError(Code.UPSTREAM_TIMEOUT)))
                self._abandoning = True
        except GatewayError as error:
            if self.loss is None:
                self.course.failed(error)
                self._append(self.turn.fail(error))
        finally:
            self._close_stream()
        if self._refused_for_its_conversation():
            self.naming.gone(self.note.coze_conversation_id)
        if self._abandoning:
            await self._tell_coze()

    async def _send(self) -> None:
        """Sends the message, as often as is safe, until Coze takes it or surely won't."""
        attempt = 0
        while self.turn.phase == "starting":
            try:
                await self._try_to_send()
                if self._stream is not None:
                    await self._listen()
                return
            except UpstreamError as error:
                self.naming.over(self._question)
                if self.turn.outcome is not None:
                    return
                gone = error.coze_code == CONVERSATION_GONE and error.taken == "no"
                if gone and self.naming.gone(self.note.coze_conversation_id):
                    logger.warning("turn.conversation_gone_at_coze", turnId=self.turn.turn_id)
                    continue
                attempt += 1
                again = error.retryable and (
                    error.taken == "no" or (error.taken == "unknown" and self._means.retry_uncertain)
                )
                wait = delay(attempt, error.retry_after, self._means.rng) if attempt <= self._means.retries else None
                if not again or wait is None:
                    raise
                self.course.failed(error)
                self._means.metrics.upstream_retried(error.code)
                self.note.stage = "accepted"
                self._append(self.turn.retrying(attempt, round(wait * 1000)))
                self._remember()
                await self._pause(wait)

    async def _try_to_send(self) -> None:
        """One try. That it is about to be sent is durable before it is."""
        means = self._means
        await self._await_name()
        if self.turn.outcome is not None:
            return
        self.course.attempts += 1
        if not means.breaker.allow():
            detail = f"Coze is not asked: it failed too often, last so: {means.breaker.why}"
            raise UpstreamError(Code.UPSTREAM_UNAVAILABLE, detail, retryable=True)
        try:
            self.note.stage = "sending"
            self.note.coze_conversation_id, self.note.naming = self.naming.name, self.naming.version
            self._remember()
            await means.log.committed()
            if self.turn.phase == "ended":
                means.breaker.released()
                return
            self._question = self.naming.ask()
            request = self.order.request(self.note.coze_conversation_id)
            self._stream = await means.upstream.chat(request, self._take)
        except UpstreamError as error:
            if error.code is Code.UPSTREAM_UNAVAILABLE:
                means.breaker.failed(error.detail)
            else:
                means.breaker.succeeded()
            raise
        except BaseException:
            means.breaker.released()
            raise
        means.breaker.succeeded()

    async def _await_name(self) -> None:
        """Waits while an earlier turn, cancelled since, may still hear what Coze calls the conversation.

        Sent without that name, the message would begin a conversation of its own at Coze. An earlier turn listens for
        `LEARN` seconds at most after its end.
        """
        while self.turn.phase != "ended" and (news := self.naming.awaited()) is not None:
            await asyncio.wait((news, self._poked()), return_when=asyncio.FIRST_COMPLETED)

    def _take(self, items: list[Item]) -> None:
        """What Coze's stream brought: called as its bytes arrive, never waits, never raises."""
        if self._bug is None:
            try:
                self._take_in(items)
            except Exception as error:
                self._bug = error
                self._wake()

    def _take_in(self, items: list[Item]) -> None:
        turn = self.turn
        before = turn.phase
        if before == "ended":
            self._learn_from(items)
            return
        events = turn.take(items)
        if events:
            self._append(events)
        if len(events) != len(items):
            for item in items:
                if isinstance(item, Skipped):
                    self._means.metrics.record_skipped(item)
                    self.course.skip(item)
        if turn.memory_changed:
            self._remember()
        if turn.phase is not before:
            self.course.took(turn)
            self._wake()

    async def _listen(self) -> None:
        """Until the stream ends, or something was decided without its end."""
        stream = self._stream
        if stream is None:  # a turn restored from text alone: no ids, so nothing to ask for
            self.course.add("Coze gave no ids, so there is no record to ask for")
            self._append(self.turn.fail(GatewayError(Code.UPSTREAM_FAILED)))
            return
        ended = asyncio.ensure_future(stream.ended())
        try:
            settle: float | None = None
            while self.turn.phase in ("starting", "streaming", "settling") and not ended.done() and self._bug is None:
                if self.turn.phase == "settling" and settle is None:
                    settle = self._loop.time() + SETTLE
                poke = self._poked()
                left = None if settle is None else settle - self._loop.time()
                await asyncio.wait((ended, poke), timeout=left, return_when=asyncio.FIRST_COMPLETED)
                if settle is not None and self._loop.time() >= settle:
                    self._append(self.turn.settled())
            if self._bug is not None:
                raise self._bug
            if self.turn.phase in ("starting", "streaming", "settling"):
                end = ended.result()
                if self.turn.phase == "starting" and self._means.retry_uncertain and end is not StreamEnd.FAILING:
                    self._close_stream()
                    raise UpstreamError(Code.UPSTREAM_UNCERTAIN, retryable=True, taken="unknown")
                if self.turn.phase != "settling":
                    self.course.ended(end)
                self._append(self.turn.stream_ended(end))
        finally:
            if not ended.done():
                ended.cancel()
        if not (self._abandoning and self.turn.ref is None):
            self._close_stream()

    async def _recover(self) -> None:
        """Asks Coze for the chat's outcome, then for its messages, until they say how the answer goes on."""
        ref = self.turn.ref
        assert ref is not None, self.turn
        completed = refused = 0
        self.course.recoveries += 1
        while self.turn.phase == "recovering":
            asked = self._loop.time()
            try:
                state = await self._means.upstream.retrieve(ref)
                if state.status == "requires_action" and self._has_outputs_for(state.tool_calls):
                    await self._submit()
                else:
                    over = state.status not in ("created", "in_progress")
                    messages = await self._means.upstream.messages(ref) if over and state.status != "failed" else []
                    completed += state.status == "completed"
                    events = self.turn.recovered(state, messages, final=completed >= PATIENCE)
                    if events is None:
                        self.course.unfinished(state.status)
                    else:
                        self._append(events)
                        self._remember()
                        self._report_recovery(events)
                        if self.turn.outcome is not None:
                            self.course.told(self.turn, "Coze's record says", state.status)
                if self.turn.phase != "recovering":
                    return
            except TooMuch:
                self._means.metrics.upstream_recovered(Recovery.FAILED)
                self._append(self.turn.overfill())
                self.course.told(self.turn, "Coze's record says")
                return
            except UpstreamError as error:
                refused += error.code in (Code.UPSTREAM_REJECTED, Code.UPSTREAM_UNAUTHORIZED)
                if refused < REFUSALS:
                    self.course.failed(error, "asking for Coze's record")
                else:
                    self._means.metrics.upstream_recovered(Recovery.FAILED)
                    raise
                logger.info("turn.record_not_readable", turnId=self.turn.turn_id, code=error.code.value)
            await self._pause(max(0.0, asked + POLL - self._loop.time()))

    def _has_outputs_for(self, tool_calls: Sequence[dict[str, Any]]) -> bool:
        """Whether the outputs that were given are for the calls that Coze waits for, and not for earlier ones."""
        given = sorted(call_id for call_id, _ in self.note.outputs)
        return bool(given) and (not tool_calls or given == sorted(call.get("id", "") for call in tool_calls))

    def _report_recovery(self, events: list[Event]) -> None:
        how = {"completed": Recovery.COMPLETED, "cancelled": Recovery.CANCELLED, "failed": Recovery.FAILED}
        outcome = self.turn.outcome
        recovery = how[outcome] if outcome is not None else Recovery.ACTION_REQUIRED
        if any(isinstance(event, Message) and event.replace for event in events):
            recovery = Recovery.REPLACED
        self._means.metrics.upstream_recovered(recovery)

    async def _wait_for_outputs(self) -> None:
        if self._has_outputs_for(self.turn.tool_calls):  # they came while Coze's record was read
            self._append(self.turn.outputs_given())
        while self.turn.phase == "action_required":
            await asyncio.wait((self._poked(),))
        if self.turn.phase == "streaming":
            await self._means.log.committed()
            await self._submit()

    async def _submit(self) -> None:
        """Hands over the tool outputs; the same chat goes on in a new stream. Retried as a message would be."""
        ref = self.turn.ref
        assert ref is not None, self.turn
        attempt = 0
        recovering = self.turn.phase == "recovering"  # after a crash, or a break: Coze still waits for them
        self.turn.outputs_given()
        while self.turn.phase == "streaming":
            try:
                self._stream = await self._means.upstream.submit_tool_outputs(ref, self.note.outputs, self._take)
                self.note.outputs = []
                self._remember()
                return
            except UpstreamError as error:
                attempt += 1
                self.course.failed(error, "handing over the tool outputs")
                if error.taken == "unknown":  # the chat's record tells whether Coze has them
                    self._append(self.turn.stream_ended(StreamEnd.BROKEN))
                    return
                wait = delay(attempt, error.retry_after, self._means.rng) if attempt <= self._means.retries else None
                if not error.retryable or error.taken != "no" or wait is None:
                    if recovering:
                        self._append(self.turn.stream_ended(StreamEnd.BROKEN))
                    raise
                self._means.metrics.upstream_retried(error.code)
                self._append(self.turn.retrying(attempt, round(wait * 1000)))
                await self._pause(wait)

    # -- after a cancel -----------------------------------------------------------------------------------------

    async def _learn(self, stream: ChatStream) -> None:
        """Reads on until Coze has given the chat's id, so that it can be told."""
        ended = asyncio.ensure_future(stream.ended())
        try:
            while self.turn.ref is None and not ended.done():
                await asyncio.wait((ended, self._poked()), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()

    def _learn_from(self, items: list[Item]) -> None:
        for item in items:
            if isinstance(item, Created) and self.turn.ref is None:
                self.turn.memory.chat_id = item.chat_id
                self.turn.memory.coze_conversation_id = item.conversation_id
                self.naming.told(self._question, real_id(item.conversation_id))
                self._wake()

    async def _tell_coze(self) -> None:
        if (ref := self.turn.ref) is not None:
            await tell_cancelled(self._means.upstream, ref, self.turn.turn_id)

    def _end_early(self, events: list[Event]) -> None:
        self._append(events)
        self._abandon()

    def _abandon(self) -> None:
        """The turn is over for its readers, not yet for Coze."""
        self._abandoning = True
        if self._alarm is not None and not self._alarm.expired():
            with suppress(RuntimeError):  # its work is over already
                self._alarm.reschedule(self._loop.time() + LEARN)
        self._wake()

    def _refused_for_its_conversation(self) -> bool:
        """Whether Coze's stream began with its word that it has no such conversation: nobody else is sent there."""
        failure = self.turn.failure
        upstream = failure.upstream if failure is not None else UNSET
        return self.turn.ref is None and upstream is not UNSET and upstream.get("code") == CONVERSATION_GONE

    # -- small things -------------------------------------------------------------------------------------------

    def _append(self, events: list[Event]) -> None:
        """Writes events to the log; the last one ends the stretch. Text that came in one read is one piece."""
        if not events or self.stretch is None or self.loss is not None:
            return
        writer = self._writing()
        for event in events if len(events) == 1 else _merged(events):
            if type(event) is Text:
                if not self._talked and event.kind == "message":
                    self._talked = True
                    self.course.first_content = self.seconds
                    self._means.metrics.first_content(self.course.first_content)
            elif type(event) is Message and event.replace:
                self.course.rewritten = True
            writer.append(event)
        self.changed = True
        if self.turn.phase == "ended":
            if self.turn.memory.coze_conversation_id not in ("", self.note.coze_conversation_id):
                self._remember()
            writer.end()
            if self.turn.overfull:
                self._abandon()
            self._wake()
            return
        unwritten = self.turn.bytes_shown - self._written > UNWRITTEN_BYTES or self._means.log.backlog > MOST_BACKLOG
        if unwritten and self._stream is not None and self._resuming is None:
            self._stream.pause()
            self._resuming = self._loop.create_task(self._resume_when_written(self._stream))

    async def _resume_when_written(self, stream: ChatStream) -> None:
        try:
            shown = self.turn.bytes_shown
            await self._means.log.committed()
            self._written = shown
        except GatewayError:
            pass  # the turn has been told, and is over
        finally:
            self._resuming = None
            stream.resume()

    def _remember(self) -> None:
        """Keeps the note in the log, in order with the events."""
        self.turn.memory_changed = False
        self.note.memory = self.turn.memory
        if self.turn.ref is not None and self.note.stage != "taken":
            self.note.stage = "taken"
        if name := self.turn.memory.coze_conversation_id:
            self.naming.told(self._question, name)
            if name == self.naming.name:
                self.note.coze_conversation_id, self.note.naming = name, self.naming.version
        if self.stretch is None or self.loss is not None or not (writer := self._writing()).active:
            return
        if self._keeping is None:
            self._keeping = Keeping(self.note)
            writer.note(self.note.pack())
        elif news := self._keeping.news(self.note):
            writer.note_more(news)

    def _writing(self) -> Writer:
        assert self.writer is not None, self.turn
        return self.writer

    async def _pause(self, seconds: float) -> None:
        """Sleeps, unless the turn ends meanwhile."""
        until = self._loop.time() + seconds
        while self.turn.phase != "ended" and (left := until - self._loop.time()) > 0:
            await asyncio.wait((self._poked(),), timeout=left)

    def _poked(self) -> "asyncio.Future[None]":
        if self._poke.done():
            self._poke = self._loop.create_future()
        return self._poke

    def _wake(self) -> None:
        if not self._poke.done():
            self._poke.set_result(None)

    def _close_stream(self) -> None:
        self.naming.over(self._question)
        if self._resuming is not None:
            self._resuming.cancel()
        if self._stream is not None:
            self._stream.close()
            self._stream = None

    def __repr__(self) -> str:
        return f"LiveTurn({self.turn!r}, {self.note.stage})"


async def tell_cancelled(upstream: Upstream, ref: ChatRef, turn_id: str) -> None:
    """Tells Coze that nobody wants the chat's answer any more; not being heard costs nobody but Coze."""
    try:
        async with asyncio.timeout(LEARN):
            await upstream.cancel(ref)
    except (TimeoutError, GatewayError) as error:
        logger.warning("turn.cancel_not_heard", turnId=turn_id, reason=str(error))


def _merged(events: list[Event]) -> list[Event]:
    """The same events, consecutive pieces of one kind of text joined."""
    out: list[Event] = []
    texts: list[str] = []
    kind = None
    for event in events:
        if type(event) is Text:
            if event.kind is not kind:
                if texts and kind is not None:
                    out.append(Text(kind, "".join(texts)))
                texts, kind = [], event.kind
            texts.append(event.content)
            continue
        if texts and kind is not None:
            out.append(Text(kind, "".join(texts)))
            texts, kind = [], None
        out.append(event)
    if texts and kind is not None:
        out.append(Text(kind, "".join(texts)))
    return out
