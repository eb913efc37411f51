"""The pen: writes a live turn's events and note to the log, and ends the turn if they are lost."""

import asyncio
from contextlib import suppress

from gateway.bounds import UNWRITTEN_BYTES
from gateway.errors import Code, GatewayError
from gateway.events import Event, Message, Notice, Started, Text
from gateway.log.journal import Broken, JournalError
from gateway.log.outline import outline
from gateway.log.stretch import Stretch
from gateway.log.tail import Tail
from gateway.log.writer import Owner, Writer
from gateway.turns.context import Context
from gateway.turns.orders import Keeping

MOST_BACKLOG = 20_000
"""The number of records that are not durable yet above which we stop reading from Coze."""


class Pen:
    """Writes a turn's events and its note, in order. `tail` is the log where readers find the turn."""

    def __init__(self, context: Context, tail: Tail) -> None:
        self._context = context
        self._turn = context.turn
        self._log = context.means.log
        self._began = asyncio.get_running_loop().time()
        self.tail = tail
        self.writer: Writer | None = None
        """The writer of the stretch that keeps the turn now: its own, or, while it is queued, the waiting one."""
        self.stretch: Stretch | None = None
        """The turn's own stretch, once it has started."""
        self.waiting: Writer | None = None
        """The writer of the stretch that kept the turn while it was queued."""
        self.loss: GatewayError | None = None
        """The reason why nothing more is written."""
        self.changed = True
        """Whether something was written since the store was last told."""
        self.question = 0
        """The naming's number of the message that was sent last."""
        self._talked = False
        self._written = 0  # bytes of the turn that were durable when we last resumed reading from Coze
        self._keeping: Keeping | None = None  # the part of the note that the log has

    # -- stretches ----------------------------------------------------------------------------------------------

    def wait_in(self, tail: Tail, mark: str, owner: Owner) -> None:
        """Keeps the queued turn in a log of its own, with no event in it."""
        note = self._context.note
        note.stage = "queued"
        home = self.tail.key
        self._take(self._log.begin(tail, self._turn.turn_id, note.pack(), mark=mark, owner=owner, home=home))

    def begin(self, mark: str, owner: Owner) -> None:
        """Writes `started`: from now on the turn is in the log, and survives a crash."""
        turn, note = self._turn, self._context.note
        if self.writer is not None:
            self.waiting = self.writer
            self.waiting.end()
            note.started_at = self._context.means.clock()
        self._began = asyncio.get_running_loop().time()
        note.stage = "accepted"
        writer = self._log.begin(self.tail, turn.turn_id, note.pack(), mark=mark, owner=owner)
        self._take(writer)
        self.stretch = writer.stretch
        writer.append(Started(turn.conversation_id, turn.turn_id, note.order.input))
        if not turn.recorded:
            writer.append(Notice("unrecoverable"))

    def go_on_with(self, writer: Writer, *, queued: bool) -> None:
        """Goes on in a stretch that a former process began."""
        self._take(writer)
        if not queued:
            self.stretch = writer.stretch

    def _take(self, writer: Writer) -> None:
        self.writer = writer
        writer.announcing = self._context.note.untold

    def stay_apart(self, owner: Owner) -> Tail:
        """Lets the queued turn end in the log of its own, whose tail the owner uses from now on. Returns the tail in
        which it would have started."""
        writer = self._writing()
        old, self.stretch, self.tail = self.tail, writer.stretch, writer.tail
        self.tail.users.add(owner)
        self._log.shelf.drop(old, owner)
        return old

    # -- events -------------------------------------------------------------------------------------------------

    def append(self, events: list[Event]) -> None:
        """Writes events; a last event ends the stretch. Text that came in one read becomes one piece."""
        if not events or self.stretch is None or self.loss is not None:
            return
        writer, context = self._writing(), self._context
        for event in events if len(events) == 1 else _merged(events):
            if type(event) is Text:
                if not self._talked and event.kind == "message":
                    self._talked = True
                    context.course.first_content = self.seconds
                    context.means.observer.first_content(context.ids, context.course.first_content)
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
        if (turn.ref is not None or turn.memory.run) and note.stage != "taken":
            note.stage = "taken"
        if name := turn.memory.coze_conversation_id:
            naming.told(self.question, name)
            if name == naming.name:
                note.coze_conversation_id, note.naming = name, naming.version
        if self.stretch is None or self.loss is not None or not (writer := self._writing()).active:
            return
        self._keep_note(writer)

    def _keep_note(self, writer: Writer) -> None:
        note = self._context.note
        if self._keeping is None:
            self._keeping = Keeping(note)
            writer.note(note.pack())
        elif news := self._keeping.news(note):
            writer.note_more(news)

    def announced(self, done: bool = True, *, end: bool) -> None:
        """The shop's staff was told that the turn started or, with `end`, that it ended. If that was in this tick, one
        commit holds it and this note, so that no crash tells them twice. Not `done`: what told them was lost."""
        note = self._context.note
        note.told(done, end=end)
        writer = self._writing()
        writer.announcing = note.untold
        if done and self._log.shelf.unsaved.get(writer.stretch.number) is writer:
            self._keep_note(writer)

    @property
    def behind(self) -> bool:
        """Whether so many records are not durable yet that we should stop reading from Coze."""
        return self._turn.bytes_shown - self._written > UNWRITTEN_BYTES or self._log.backlog > MOST_BACKLOG

    async def catch_up(self) -> None:
        """Waits until everything written so far is durable, or lost."""
        shown = self._turn.bytes_shown
        with suppress(GatewayError):  # the turn has been told, and is over
            await self._log.committed()
            self._written = shown

    @property
    def seconds(self) -> float:
        """Seconds since the turn started; for a queued turn, since its order was accepted."""
        return asyncio.get_running_loop().time() - self._began

    # -- what goes wrong ----------------------------------------------------------------------------------------

    def lost(self, error: JournalError, owner: Owner) -> None:
        """Records that nobody had seen are lost: the turn ends with an error, which is shown before it is written."""
        code = Code.INTERNAL if isinstance(error, Broken) else Code.STORAGE_UNAVAILABLE
        turn, writer, stretch = self._turn, self._writing(), self.stretch
        if stretch is not None and stretch.ended is not None:
            self._keeping = None
            return  # only its note is lost
        self.loss = GatewayError(code, str(error))
        self._context.course.failed(self.loss)
        if stretch is not None and self._has_begun(writer):
            writer.owe(turn.break_off(code, outline(stretch).content))
            return
        failure = turn.break_off(code, "")
        if self.waiting is not None and self._has_begun(self.waiting):
            # The turn was about to leave the queue: its readers are told in the log where it waited.
            self.writer = self.waiting
            old = self.stay_apart(owner)
            self._context.means.readers.redirect(turn.turn_id, old, self.tail)
            self.waiting.owe(failure)

    def _has_begun(self, writer: Writer) -> bool:
        """Whether the beginning of its stretch is not among what was lost."""
        return writer.stretch.number in self._log.shelf.unsaved

    async def broke(self, error: Exception) -> bool:
        """Our own code failed: the turn ends with `internal`, after the events that readers have. False if it was
        over."""
        turn, stretch = self._turn, self.stretch
        self._context.means.faults.broke("turn", error, **self._context.ids.fields())
        with suppress(GatewayError):
            await self._log.committed()
        if stretch is None or stretch.ended is not None or self.loss is not None:
            return False
        self._context.course.failed(GatewayError(Code.INTERNAL, type(error).__name__))
        self._writing().append(turn.break_off(Code.INTERNAL, outline(stretch).content))
        self._writing().end()
        return True

    def _writing(self) -> Writer:
        assert self.writer is not None, self._turn
        return self.writer

    def __repr__(self) -> str:
        return f"Pen({self.writer!r}, loss={self.loss!r})"


def _merged(events: list[Event]) -> list[Event]:
    """The same events, with consecutive pieces of one kind of text joined."""
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
