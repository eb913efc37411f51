"""The pen: what a live turn writes to the log, and what it shows where that is lost."""

import asyncio
from contextlib import suppress

from gateway.bounds import UNWRITTEN_BYTES
from gateway.errors import Code, GatewayError
from gateway.events import Event, Failed, Message, Started, Text
from gateway.log.journal import Broken, JournalError
from gateway.log.outline import outline
from gateway.log.stretch import Stretch
from gateway.log.tail import Tail
from gateway.log.writer import Owner, Writer
from gateway.sentences import sentence
from gateway.turns.context import Context
from gateway.turns.orders import Keeping

MOST_BACKLOG = 20_000
"""Records not yet durable, above which Coze is not read."""


class Pen:
    """Writes a turn's events and its note, in order. `tail` is the log where its readers look for it."""

    def __init__(self, context: Context, tail: Tail) -> None:
        self._context = context
        self._turn = context.turn
        self._log = context.means.log
        self._began = asyncio.get_running_loop().time()
        self.tail = tail
        self.writer: Writer | None = None
        """Of the stretch that keeps the turn now: its own, or while it is queued the one that waits."""
        self.stretch: Stretch | None = None
        """Its own, once it has begun."""
        self.waiting: Writer | None = None
        """Of the stretch that kept it while it was queued."""
        self.loss: GatewayError | None = None
        """Why nothing more is written."""
        self.changed = True
        """Whether something was written since the store was last told."""
        self.question = 0
        """The naming's number of the message that was sent last."""
        self._talked = False
        self._written = 0  # bytes of the turn that were durable when Coze was last let go on
        self._keeping: Keeping | None = None  # what the log has of the note

    # -- stretches ----------------------------------------------------------------------------------------------

    def wait_in(self, tail: Tail, mark: str, owner: Owner) -> None:
        """Keeps the queued turn in a log of its own, with no event in it."""
        note = self._context.note
        note.stage = "queued"
        self.writer = self._log.begin(tail, self._turn.turn_id, note.pack(), mark=mark, owner=owner)

    def begin(self, mark: str, owner: Owner) -> None:
        """Writes `started`: from now on the turn is in the log, and survives."""
        turn, note = self._turn, self._context.note
        if self.writer is not None:
            self.waiting = self.writer
            self.waiting.end()
            note.started_at = self._context.means.clock()
        self._began = asyncio.get_running_loop().time()
        note.stage = "accepted"
        self.writer = self._log.begin(self.tail, turn.turn_id, note.pack(), mark=mark, owner=owner)
        self.stretch = self.writer.stretch
        self.writer.append(Started(turn.conversation_id, turn.turn_id, note.order.message))

    def stay_apart(self) -> Tail:
        """The queued turn will end in the log of its own; the tail where it was to begin."""
        writer = self._writing()
        old, self.stretch, self.tail = self.tail, writer.stretch, writer.tail
        return old

    # -- events -------------------------------------------------------------------------------------------------

    def append(self, events: list[Event]) -> None:
        """Writes events; the last one ends the stretch. Text that came in one read is one piece."""
        if not events or self.stretch is None or self.loss is not None:
            return
        writer, context = self._writing(), self._context
        for event in events if len(events) == 1 else _merged(events):
            if type(event) is Text:
                if not self._talked and event.kind == "message":
                    self._talked = True
                    context.course.first_content = self.seconds
                    context.means.metrics.first_content(context.course.first_content)
            elif type(event) is Message and event.replace:
                context.course.rewritten = True
            writer.append(event)
        self.changed = True
        if self._turn.phase == "ended":
            if self._turn.memory.coze_conversation_id not in ("", context.note.coze_conversation_id):
                self.remember()
            writer.end()
            context.waking.wake()

    def remember(self) -> None:
        """Keeps the note in the log, in order with the events."""
        turn, note, naming = self._turn, self._context.note, self._context.naming
        turn.memory_changed = False
        note.memory = turn.memory
        if turn.ref is not None and note.stage != "taken":
            note.stage = "taken"
        if name := turn.memory.coze_conversation_id:
            naming.told(self.question, name)
            if name == naming.name:
                note.coze_conversation_id, note.naming = name, naming.version
        if self.stretch is None or self.loss is not None or not (writer := self._writing()).active:
            return
        if self._keeping is None:
            self._keeping = Keeping(note)
            writer.note(note.pack())
        elif news := self._keeping.news(note):
            writer.note_more(news)

    @property
    def behind(self) -> bool:
        """Whether so much is not durable yet that Coze should not be read."""
        return self._turn.bytes_shown - self._written > UNWRITTEN_BYTES or self._log.backlog > MOST_BACKLOG

    async def catch_up(self) -> None:
        """Until what was written so far is durable, or lost."""
        shown = self._turn.bytes_shown
        with suppress(GatewayError):  # the turn has been told, and is over
            await self._log.committed()
            self._written = shown

    @property
    def seconds(self) -> float:
        """Since the turn began; of a queued one since it was started."""
        return asyncio.get_running_loop().time() - self._began

    # -- what goes wrong ----------------------------------------------------------------------------------------

    def lost(self, error: JournalError) -> None:
        """What was appended and not seen is gone: the turn ends with an error that the log owes its readers."""
        code = Code.INTERNAL if isinstance(error, Broken) else Code.STORAGE_UNAVAILABLE
        turn, writer, stretch = self._turn, self._writing(), self.stretch
        self.loss = GatewayError(code, str(error))
        self._context.course.failed(self.loss)
        turn.fail(self.loss)
        turn.outcome = "failed"
        if stretch is not None and stretch.last >= stretch.first and stretch.ended is None:
            turn.failure = self._failed(code, outline(stretch).content)
            writer.owe(turn.failure)
        kept = writer.stretch
        if self.waiting is not None and kept.last < kept.first and turn.failure is not None:
            # It was about to leave the queue: its readers are told where it waited.
            self._context.means.readers.redirect(turn.turn_id, self.tail, self.waiting.tail)
            self.waiting.owe(turn.failure)

    async def broke(self, error: Exception) -> bool:
        """Our own code failed at the turn: it ends with `internal`, after what readers have. False if it had ended."""
        turn, stretch = self._turn, self.stretch
        self._context.means.faults.broke("turn", error, turnId=turn.turn_id)
        with suppress(GatewayError):
            await self._log.committed()
        if stretch is None or stretch.ended is not None or self.loss is not None:
            return False
        self._context.course.failed(GatewayError(Code.INTERNAL, type(error).__name__))
        turn.phase, turn.outcome = "ended", "failed"
        turn.failure = self._failed(Code.INTERNAL, outline(stretch).content)
        self._writing().append(turn.failure)
        self._writing().end()
        return True

    def _failed(self, code: Code, content: str) -> Failed:
        return Failed(
            error=sentence(code, self._turn.language),
            code=code.value,
            retryable=True,
            conversation_id=self._turn.conversation_id,
            turn_id=self._turn.turn_id,
            content=content,
        )

    def _writing(self) -> Writer:
        assert self.writer is not None, self._turn
        return self.writer

    def __repr__(self) -> str:
        return f"Pen({self.writer!r}, loss={self.loss!r})"


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
