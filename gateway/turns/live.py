"""A live turn: the one task that reads from Coze for a turn, and writes the events that follow to the log."""

import asyncio
import hashlib
from collections.abc import Mapping
from contextlib import suppress

from msgspec import UNSET

from gateway.errors import Code, GatewayError
from gateway.events import Notice
from gateway.ids import LogKey
from gateway.log.journal import JournalError
from gateway.log.stretch import Stretch
from gateway.log.tail import Tail
from gateway.log.writer import Writer
from gateway.status import Status, status
from gateway.telemetry.observer import TurnIds
from gateway.telemetry.words import Recovery
from gateway.turns.context import Context, Means, Waking, upstream_of
from gateway.turns.course import Course
from gateway.turns.intake import Intake
from gateway.turns.learnt import Fate
from gateway.turns.naming import Naming
from gateway.turns.orders import Note, Order
from gateway.turns.pen import Pen
from gateway.turns.recovering import Recovering
from gateway.turns.sending import CONVERSATION_GONE, Sending
from gateway.turns.turn import Turn
from gateway.upstream.protocol import ChatRef, StreamEnd

LEARN = 10.0
"""Seconds for which Coze is read on after a cancel, to learn the chat's id; also the deadline for telling Coze."""


class LiveTurn:
    """A turn from its acceptance to its last event. It belongs to no connection.

    `run` is all that its task does. If that task is cancelled (at the end of a drain), the turn stays unfinished in the
    log, and the next process finishes it. All other methods are called from the same event loop and never wait.
    """

    def __init__(self, means: Means, note: Note, turn: Turn, tail: Tail, *, naming: Naming) -> None:
        self.note = note
        self.turn = turn
        turn.verbatim = note.order.coze is not None
        turn.recorded = note.order.recorded
        self.course = Course()
        self.task: asyncio.Task[None] | None = None
        self.erased = False  # its conversation was deleted: nobody is told anything more about it
        self.elsewhere = False  # another process goes on with it, perhaps because its end was not durable in time
        self.durable = False  # whether the log has its beginning
        self.inherited = False  # whether a former process began it
        self.stored = False  # whether the store knows that it began
        self._means = means
        self._waking = Waking()
        self._context = Context(means, turn, note, naming, self.course, self._waking)
        self.ids = self._context.ids
        self.about: Mapping[str, object] = self.ids.fields()
        self.pen = Pen(self._context, tail)
        self._intake = Intake(self._context, self.pen)
        self._sending = Sending(self._context, self.pen, self._intake)
        self._recovering = Recovering(self._context, self.pen, self._sending)
        self._loop = asyncio.get_running_loop()
        self._deadline = self._loop.time() + means.turn_timeout
        self._alarm: asyncio.Timeout | None = None

    @property
    def order(self) -> Order:
        return self.note.order

    @property
    def tail(self) -> Tail:
        """The log where readers find the turn."""
        return self.pen.tail

    @property
    def stretch(self) -> Stretch | None:
        """The turn's own stretch, once it has started."""
        return self.pen.stretch

    @property
    def status(self) -> Status:
        turn, begun = self.turn, self.pen.stretch is not None
        return status(begun=begun, waits=turn.phase == "action_required", outcome=turn.outcome)

    # -- beginning ----------------------------------------------------------------------------------------------

    def begin(self, mark: str) -> None:
        """Writes `started`. The turn's time-out starts now, even if it had to wait."""
        self.restart_clock(self._means.turn_timeout)
        self.pen.begin(mark, self)

    def wait(self, mark: str) -> None:
        """Keeps the turn in a log of its own until it may start."""
        self.pen.wait_in(self._means.log.shelf.create(LogKey(self.turn.turn_id)), mark, self)

    def go_on_with(self, stretch: Stretch, *, queued: bool) -> None:
        """Takes over the stretch that a former process wrote for this turn."""
        self.pen.go_on_with(self._means.log.take_over(stretch, self), queued=queued)
        self.durable = self.inherited = True

    def restart_clock(self, timeout: float) -> None:
        """Gives the turn `timeout` seconds from now."""
        self._deadline = self._loop.time() + timeout

    def taken_over(self, fate: Fate | None = None) -> None:
        """This process continues where a former one was killed, or lost its log: tells the readers so, or ends a turn
        that can't be recovered. `fate` is what that process has said of the message."""
        turn = self.turn
        self.course.add("its process ended, or lost the log, in the middle of the turn")
        if fate is not None:
            self._learn(fate)
        if turn.phase == "recovering" and not turn.recorded:
            self.pen.append(turn.fail(GatewayError(Code.UPSTREAM_FAILED)))
        elif turn.phase == "recovering":
            if self.status != "action_required":
                self.pen.append([Notice("recovering")])
        elif turn.memory.run == "going":  # nobody can join its stream again
            given = bool(self.note.outputs)  # perhaps to Coze, too
            lost = GatewayError(Code.UPSTREAM_UNCERTAIN)
            self.pen.append(turn.fail(lost) if given else turn.stream_ended(StreamEnd.BROKEN))
        elif not turn.memory.run and self.note.stage != "accepted" and not self._means.retry_uncertain:
            self.pen.append(turn.fail(GatewayError(Code.UPSTREAM_UNCERTAIN)))

    # -- what others ask of it ----------------------------------------------------------------------------------

    def cancel(self) -> bool:
        """Ends the turn with `cancelled` at once; its task then tells Coze. False if the turn was over already."""
        if self.turn.phase == "ended":
            return False
        self.pen.append(self.turn.cancel())
        self._abandon()
        return True

    def give_outputs(self, outputs: list[tuple[str, str]], *, once: bool = False) -> None:
        """Answers an `action_required`. The same outputs given again change nothing, or are refused if they may be
        given `once`. Raises `invalid_request` if the turn doesn't wait for these outputs."""
        waits = self.turn.phase == "action_required"
        wanted = [call.get("id", "") for call in self.turn.tool_calls]
        suits = sorted(wanted) == sorted(given for given, _ in outputs)
        digest = hashlib.sha256(repr(sorted(outputs)).encode()).hexdigest()[:32]
        if not once and self.note.answered == digest and not (waits and suits):
            return
        if not waits and not (self.turn.phase == "recovering" and self.turn.tool_calls):
            raise GatewayError(Code.INVALID_REQUEST, "the turn does not wait for tool outputs")
        if not suits:
            raise GatewayError(Code.INVALID_REQUEST, f"toolOutputs must answer exactly these toolCallId: {wanted}")
        self.note.outputs, self.note.answered = outputs, digest
        if waits:  # otherwise it was taken over, and hands them to Coze once Coze says that the chat still waits
            self.pen.append(self.turn.outputs_given())
        self.pen.remember()
        self._waking.wake()

    def lost(self, writer: Writer, error: JournalError) -> None:
        """The log lost records that nobody had seen: the turn ends with an error, which the log shows before writing
        it."""
        if writer is self.pen.writer:  # otherwise it is the writer that kept the turn while it was queued
            self.pen.lost(error, self)
            self._abandon()

    def fenced(self, writer: Writer) -> None:
        """Another process continues the turn: this one stops, and neither writes nor shows anything more."""
        if writer is self.pen.writer:
            self.elsewhere = writer.stretch.ended is None
            self._keep_fate()
            self.pen.loss = GatewayError(Code.STORAGE_UNAVAILABLE, "another process goes on with the turn")
            if self.task is not None:
                self.task.cancel()

    def _keep_fate(self) -> None:
        """Whoever goes on with the turn may not find in the log what became of its message."""
        ref = self.turn.ref
        if ref is not None:
            self._means.learnt.keep(self.note.attempt, Fate(ref.chat_id, ref.conversation_id))
        elif self._sending.asked is False:
            self._means.learnt.keep(self.note.attempt, Fate())

    @property
    def doubtful(self) -> bool:
        """Whether the turn was taken over and nobody knows what became of its message."""
        return self.turn.phase == "starting" and self.note.stage == "sending"

    def _learn(self, fate: Fate) -> None:
        if fate.chat_id:
            self.turn.was_accepted(ChatRef(fate.chat_id, fate.coze_conversation_id))
            self.pen.question = self._context.naming.ask()
        else:
            self.note.stage = "accepted"
        self.pen.remember()

    # -- the work -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Drives the turn to its last event."""
        turn = self.turn
        try:
            async with asyncio.timeout_at(self._deadline) as self._alarm:
                await self._drive()
                if turn.overfull:  # Coze goes on with the chat
                    self._abandon()
                if not self._intake.wanted and turn.ref is None and self.order.kind == "chat":
                    await self._intake.learn()
        except TimeoutError:
            if turn.phase != "ended":
                if turn.phase == "recovering":
                    self._means.observer.upstream_recovered(self.ids, Recovery.FAILED)
                self.course.timed_out(turn)
                self.pen.append(turn.fail(GatewayError(Code.UPSTREAM_TIMEOUT)))
                self._intake.wanted = False
        except GatewayError as error:
            if self.pen.loss is None:
                self.course.failed(error)
                self.pen.append(turn.fail(error))
        finally:
            self._intake.close()
        if self._refused_for_its_conversation():
            self._context.naming.gone(self.note.coze_conversation_id)
        if not self._intake.wanted:
            await self._tell_coze()

    async def _drive(self) -> None:
        turn = self.turn
        while turn.phase != "ended":
            match turn.phase:
                case "starting":
                    await self._sending.send()
                case "streaming" | "settling":
                    await self._intake.listen()
                case "recovering":
                    await self._recovering.recover()
                case "action_required":
                    await self._recovering.wait_for_outputs()

    async def broke(self, error: Exception) -> None:
        """Our own code failed in this turn: it ends with `internal`, after the events that readers already have."""
        if await self.pen.broke(error):
            await self._tell_coze()

    def _abandon(self) -> None:
        """The turn is over for its readers, not yet for Coze."""
        self._intake.wanted = False
        if self._alarm is not None and not self._alarm.expired():
            with suppress(RuntimeError):  # its task has already finished
                self._alarm.reschedule(self._loop.time() + LEARN)
        self._waking.wake()

    def _refused_for_its_conversation(self) -> bool:
        """Whether Coze's stream began by saying that the conversation does not exist: no other turn is then sent
        there."""
        failure = self.turn.failure
        upstream = failure.upstream if failure is not None else UNSET
        told = upstream is not UNSET and upstream.get("code") == CONVERSATION_GONE
        return told and self.turn.ref is None and self.order.kind == "chat"

    async def _tell_coze(self) -> None:
        if (ref := self.turn.ref) is not None:
            await tell_cancelled(self._means, ref, self.note, self.ids)

    def __repr__(self) -> str:
        return f"LiveTurn({self.turn!r}, {self.note.stage})"


async def tell_cancelled(means: Means, ref: ChatRef, note: Note, ids: TurnIds) -> None:
    """Tells Coze that nobody wants the chat's answer any more. Best effort: a failure only wastes Coze's work."""
    try:
        async with asyncio.timeout(LEARN):
            await upstream_of(means, note).cancel(ref)
    except (TimeoutError, GatewayError) as error:
        means.observer.turn_troubled(ids, "cancel_not_heard", error)
