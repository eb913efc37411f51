"""A turn: makes events of what Coze says.

A pure state machine: nothing here waits, reads a clock or does I/O. A live turn tells it what happened (`take`,
`stream_ended`, `settled`, `recovered`, `cancel`, `fail`) and appends the events that it returns. Whatever happens, and
in whatever order, there is exactly one last event and nothing after it.

    starting ──> streaming ──> settling ──> ended        settling: Coze is done; late audio, late suggestions
        │          │   ▲           ▲          ▲
        │          │   └─ action_required ────┤          waits for the caller's tool outputs
        │          └────> recovering ─────────┤          the stream broke: ask for Coze's record
        └─────────────────────────────────────┘

A turn whose bot has asked the user something settles, too: the reply is the next turn's message.
A `recovering` turn may also start to wait for tool outputs, or continue with them; `NEXT` is the complete table.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Final, Literal, assert_never

from msgspec import Raw, Struct, json, structs

from gateway.bounds import ID_LENGTH, NOTE_BYTES, TEXT_BYTES, Allowance, size
from gateway.errors import Code, GatewayError, Language, UpstreamError
from gateway.events import (
    HEAD,
    LOG_ID,
    ActionNeeded,
    AudioPiece,
    Cancelled,
    Completed,
    CozeRecord,
    Event,
    Failed,
    FollowUp,
    Last,
    Message,
    NodeChange,
    Notice,
    Outcome,
    Text,
    ToolUse,
)
from gateway.ids import ConversationId, TurnId
from gateway.sentences import run_lost, too_much
from gateway.turns.answer import SEPARATOR, Answers, common, real_id
from gateway.turns.failure import failed
from gateway.turns.part import Part
from gateway.turns.record import is_text, match, says, unseen
from gateway.turns.verbatim import in_order, record
from gateway.upstream.codes import classify
from gateway.upstream.protocol import (
    ActionRequired,
    Answer,
    Audio,
    ChatCanceled,
    ChatCompleted,
    ChatFailed,
    ChatRef,
    ChatState,
    Created,
    Delta,
    Done,
    Item,
    Opened,
    Reasoning,
    Skipped,
    StreamEnd,
    Suggestion,
    Tool,
    Verbatim,
)
from gateway.upstream.runs import Node, RunBegun

Phase = Literal["starting", "streaming", "settling", "action_required", "recovering", "ended"]

NEXT: Final[dict[Phase, frozenset[Phase]]] = {
    "starting": frozenset({"streaming", "settling", "action_required", "ended"}),
    "streaming": frozenset({"settling", "action_required", "recovering", "ended"}),
    "settling": frozenset({"ended"}),
    "action_required": frozenset({"streaming", "settling", "ended"}),
    "recovering": frozenset({"action_required", "streaming", "ended"}),
    "ended": frozenset(),
}
"""The phases that can follow each phase."""


class Memory(Struct):
    """What must survive a crash besides the events. Write it together with its events, or after them: an id in it
    counts as shown."""

    chat_id: str = ""
    coze_conversation_id: str = ""
    answers: list[tuple[str, int]] = []
    """Each answer's message id, and the offset at which it starts in the turn's text, in code points."""
    run: Literal["", "going", "waiting"] = ""
    """What the workflow does, as far as we know; "" before it has begun, and in chats."""
    seen: list[str] = []
    """The ids of the cards, tools and suggestions that were shown already, as far as Coze gave them ids."""
    given: bool = False
    """Whether the tool outputs that the turn asked for last were given: it then runs, even before its next event."""


class Turn:
    """One turn of a conversation, from the message that was sent to its last event."""

    def __init__(self, conversation_id: ConversationId, turn_id: TurnId, language: Language) -> None:
        self.conversation_id = conversation_id
        self.turn_id = turn_id
        self.language: Language = language
        self.phase: Phase = "starting"
        self.memory = Memory()
        self.memory_changed = False
        """Set when `memory` has changed; reset once the memory has been written."""
        self.log_id: str | None = None
        """Coze's log id of the stream, for `upstream` in a failure."""
        self.suggestions: list[str] = []
        self.tool_calls: list[dict[str, Any]] = []
        self.usage: dict[str, Any] | None = None
        self.overfull = False
        """Whether the turn ended because Coze sent more than a turn may hold; Coze then still continues the chat."""
        self.outcome: Outcome | None = None
        self.failure: Failed | None = None
        """The failure with which the turn ended, without its content."""
        self._answers = Answers()
        self._reasoning = Part("", "")
        self._released = 0
        self._cards: Counter[str] = Counter()
        self._suggested: set[str] = set()
        self._seen: set[str] = set()
        self._allowance = Allowance()
        self._audio = False
        self._broke = False
        self._awaits_reply = False
        self._asked = False  # Coze has said so in a call, not only by the chat's status
        self.verbatim = False
        """Whether Coze's own words are kept, too."""
        self.recorded = True
        """Whether Coze keeps a record of the chat: without one, what breaks can't be finished."""
        self._headed = b""  # the head under which the newest text stands

    @classmethod
    def restore(
        cls,
        conversation_id: ConversationId,
        turn_id: TurnId,
        language: Language,
        memory: Memory,
        *,
        content: str = "",
        reasoning: str = "",
        suggestions: Iterable[str] = (),
        cards: Iterable[str] = (),
        tool_calls: Iterable[dict[str, Any]] = (),
        audio: bool = False,
    ) -> "Turn":
        """A turn that lost its process, restored from its log. It is `recovering` if Coze's record can be asked for.

        `tool_calls` are those of the last `action_required` in the log; `audio` says whether the log has any audio. How
        much of the allowance was used by tools and audio is not known any more.
        """
        turn = cls(conversation_id, turn_id, language)
        turn.memory = memory
        turn._seen = set(memory.seen)
        turn._answers = Answers.restore(content, memory.answers)
        turn._reasoning = Part("", reasoning)
        turn.suggestions = list(suggestions)
        turn._suggested = set(turn.suggestions)
        turn._cards = Counter(cards)
        turn._allowance.restore(size(content), size(reasoning), map(size, (*turn.suggestions, *turn._cards)))
        turn.tool_calls = list(tool_calls)
        turn._audio = audio
        turn._broke = True
        if turn.ref is not None:
            turn.phase = "recovering"
        elif memory.run == "waiting":
            turn.phase = "action_required"
        elif memory.run or content or reasoning or turn._cards or audio:
            turn.phase = "streaming"
        return turn

    def was_accepted(self, ref: ChatRef) -> None:
        """Coze accepted the message of a turn that lost its process: its record of the chat can be asked for."""
        if self.ref is None:
            self.memory.chat_id, self.memory.coze_conversation_id = ref.chat_id, ref.conversation_id
            self.phase = "recovering" if self.phase == "starting" else self.phase

    @property
    def ref(self) -> ChatRef | None:
        """Coze's ids of the chat, once Coze has confirmed the message."""
        memory = self.memory
        return ChatRef(memory.chat_id, memory.coze_conversation_id) if memory.chat_id else None

    @property
    def content(self) -> str:
        """The turn's text so far, as shown."""
        return self._answers.text

    @property
    def length(self) -> int:
        """The number of code points of `content`, even after the text was released."""
        return self._answers.length or self._released

    def beginning(self, length: int) -> str:
        """The first code points of `content`."""
        return self._answers.beginning(length)

    def release_text(self) -> None:
        """Forgets the text of a turn that has ended: the log has it, and it may be megabytes."""
        self._released = self.length
        self._answers = Answers()
        self._reasoning = Part("", "")

    @property
    def bytes_shown(self) -> int:
        """The number of bytes of all its events except the last one."""
        return self._allowance.bytes

    @property
    def reasoning(self) -> str:
        return self._reasoning.text

    def take(self, items: Sequence[Item]) -> list[Event]:
        """Turns items of Coze's stream, in their order, into events to append. Never raises, whatever the items are."""
        events: list[Event] = []
        answers = self._answers
        allowance = self._allowance
        counted = 0
        for item in items:
            if type(item) is Delta and self.phase == "streaming":  # nearly all items take this short path
                if (piece := answers.delta(item.message_id, item.text)) is not None:
                    events.append(piece)
                continue
            if self.phase == "settling":
                self._take_late(item, events)
            elif self.phase not in ("recovering", "ended"):
                self._take(item, events)
            # After each item, because a few bytes of Coze's may lead to an event of megabytes.
            allowance.spend(events, counted)
            counted = len(events)
            if allowance.exceeded:
                break
        allowance.spend(events, counted)
        allowance.keep(held=answers.held_bytes, answers=len(answers.parts), ids=answers.ids + len(self._seen))
        answers.compact()
        self._reasoning.compact()
        if answers.moved:
            self._remember_answers()
        if allowance.exceeded and self.phase != "ended":
            events += self._fail_too_much()
        if answers.rewritten:
            answers.rewritten = False
            events = _newest_text(events)
        return events

    def stream_ended(self, end: StreamEnd) -> list[Event]:
        """The stream has ended. If Coze didn't say how the chat ended, its record decides, if the chat is known."""
        match self.phase:
            case "ended" | "recovering" | "action_required":
                return []  # already decided; a chat that waits for tool outputs has ended its stream properly
            case "settling":
                return self._complete()
            case "starting" | "streaming":
                pass
        if end is StreamEnd.FINISHED:
            return self._done()
        if end is StreamEnd.TOO_LARGE:
            return self._fail_too_much()
        if self.ref is not None:
            return self._recover()
        if self.memory.run:
            words = "" if end is StreamEnd.FAILING else run_lost(self.language)
            return self._fail(Code.UPSTREAM_FAILED, words=words)
        uncertain = self.phase == "starting" and end is not StreamEnd.FAILING
        return self._fail(Code.UPSTREAM_UNCERTAIN if uncertain else Code.UPSTREAM_FAILED)

    def settled(self) -> list[Event]:
        """The short wait for late items, after Coze said that the chat is complete, is over."""
        return self._complete() if self.phase == "settling" else []

    def recovered(self, state: ChatState, messages: Sequence[Item], *, final: bool = False) -> list[Event] | None:
        """Takes Coze's record of the chat. None means that it can't be used yet: ask again, or accept it with `final`.

        The list of messages may lag behind the chat's state. So without `final`, a list that has less than was
        streamed, or nothing for a turn that has nothing, is not believed.
        """
        if self.phase == "ended":
            return []
        match state.status:
            case "created" | "in_progress":
                return None
            case "completed":
                return self._complete_from(state, messages, final=final)
            case "requires_action":
                calls = list(state.tool_calls)
                if not calls and state.question is None:
                    calls = self.tool_calls  # those that were known before a crash
                if not calls:
                    return self._complete_from(state, messages, final=final)
                return self._need_action_from(calls, state, messages, final=final)
            case "failed":
                return self._last_words(state) + self._fail_with(state.failure or ChatFailed(None, ""))
            case "canceled":
                return self._last_words(state) + self.cancel()

    def cancel(self) -> list[Event]:
        """Ends the turn as cancelled, with the text so far."""
        if self.phase == "ended":
            return []
        events = self._flush()
        return self._end(events, Cancelled(self.conversation_id, self.turn_id, self.content))

    def fail(self, error: GatewayError) -> list[Event]:
        """Ends the turn as failed, with the text so far."""
        if self.phase == "ended":
            return []
        coze_code, log_id = (error.coze_code, error.log_id) if isinstance(error, UpstreamError) else (None, None)
        return self._fail(error.code, coze_code, log_id)

    def break_off(self, code: Code, content: str) -> Failed:
        """Ends the turn as failed, even if it had ended but nobody saw that. Returns the event, with `content`."""
        self.phase, self.outcome = "ended", "failed"
        return self._failed(code, content)

    def overfill(self) -> list[Event]:
        """Ends the turn because Coze's record of the chat is larger than a turn may be."""
        return [] if self.phase == "ended" else self._fail_too_much()

    def outputs_given(self) -> list[Event]:
        """The tool outputs are on their way to Coze: the same chat continues in a new stream.

        This is also called for a turn that lost its process after it was given the outputs, if its chat still waits.
        """
        if self.phase in ("action_required", "recovering"):
            self._go("streaming")
            self.memory.given = True
            if self.memory.run:
                self._run_is("going")  # the calls are kept, because the answer to an interrupt repeats its type
            else:
                self.tool_calls = []
        return []

    def retrying(self, attempt: int, delay_ms: int) -> list[Event]:
        """The message is sent again after `delay_ms`; `attempt` counts from 1."""
        self.log_id = None
        return [] if self.phase == "ended" else [Notice("retrying", attempt=attempt, delay_ms=delay_ms)]

    def _take(self, item: Item, events: list[Event]) -> None:
        match item:
            case Delta(message_id, text):
                self._begin()
                _add(events, self._answers.delta(message_id, text))
            case Answer():
                self._begin()
                self._take_answer(item, events)
            case Reasoning(_, text):
                if text:
                    self._begin()
                    self._reasoning.append(text)
                    events.append(Text("reasoning", text))
            case Audio():
                self._begin()
                self._take_late(item, events)
            case Tool(message_id, tool_phase, name, content):
                self._begin()
                if self._is_new(message_id, f"{tool_phase}:"):
                    events.append(ToolUse(tool_phase, name, content))
            case Suggestion():
                self._begin()
                self._take_late(item, events)
            case Created(chat_id, conversation_id):
                self._begin()
                if len(chat_id) <= ID_LENGTH and len(conversation_id) <= ID_LENGTH:  # longer ones can't be Coze's
                    self._take_ids(real_id(chat_id), real_id(conversation_id))
            case RunBegun():
                self._begin()
                self._run_is("going")
            case Node(title, node_id, finished):
                self._begin()
                events.append(NodeChange(title, node_id, finished))
            case ActionRequired():
                self._take_demand(item, events)
            case ChatCompleted(usage):
                self._go("settling")
                self.usage = usage or None
            case ChatFailed():
                events.extend(self._fail_with(item))
            case ChatCanceled():
                events.extend(self.cancel())
            case Done():
                if self.phase != "action_required":
                    events.extend(self._done())
            case Opened(log_id):
                self.log_id = log_id
                if self.verbatim:
                    events.append(CozeRecord(LOG_ID, data=Raw(json.encode(log_id))))
            case Verbatim():
                self._begin()
                events.extend(self._tell(item))
            case Skipped():
                pass
            case _:
                assert_never(item)

    def _take_late(self, item: Item, events: list[Event]) -> None:
        """After the chat is complete, its audio and its suggestions may still arrive."""
        if isinstance(item, Audio) and item.content:
            self._audio = True
            events.append(AudioPiece(item.content))
        elif isinstance(item, Suggestion):
            named, content = real_id(item.message_id), item.content
            if self._is_new(item.message_id) and (named or content not in self._suggested):
                self._suggest(content, events)
        elif isinstance(item, Verbatim):
            events.extend(self._tell(item))
        elif isinstance(item, Done):
            events.extend(self._complete())

    def _tell(self, said: Verbatim) -> list[Event]:
        """A record in Coze's own words; a message's only once, a head only if text will follow under it."""
        if said.name == HEAD:
            begins = self._answers.begins_with(said.message_id)
            if begins is None or said.data == self._headed:
                return []
            self._headed = said.data
            return [CozeRecord(HEAD, begins, Raw(said.data))]
        if said.message_id and not self._is_new(said.message_id, "coze:"):
            return []
        return [record(said)]

    def _last_words(self, state: ChatState) -> list[Event]:
        return [] if state.verbatim is None else [record(state.verbatim)]

    def _take_ids(self, chat_id: str, conversation_id: str) -> None:
        """Keeps the first ids that Coze gives. The old form of the API gives only a conversation's id."""
        memory = self.memory
        if not memory.chat_id and (chat_id or conversation_id not in ("", memory.coze_conversation_id)):
            memory.chat_id = chat_id
            memory.coze_conversation_id = conversation_id or memory.coze_conversation_id
            self.memory_changed = True

    def _take_answer(self, answer: Answer, events: list[Event]) -> None:
        if is_text(answer):
            _add(events, self._answers.complete(answer.message_id, answer.content))
        elif answer.content_type == "audio":
            if not self._audio:  # otherwise it repeats the pieces that were sent
                self._take_late(Audio(answer.content), events)
        elif self._is_new(answer.message_id) and (real_id(answer.message_id) or answer.content not in self._cards):
            _add(events, self._answers.withdraw(answer.message_id))
            self._show_card(answer, events)

    def _take_demand(self, demand: ActionRequired, events: list[Event]) -> None:
        """Coze waits: for tool outputs first, if it names tools; otherwise for the user's reply."""
        if demand.tool_calls and not (self.recorded or self.verbatim):
            events.extend(self._fail(Code.UPSTREAM_REJECTED))  # Coze takes outputs only for a chat that it records
            return
        if demand.tool_calls:
            events.extend(self._need_action(demand.tool_calls))
            return
        if self.phase == "action_required":
            return
        hears = not self.verbatim  # otherwise the call itself is told
        if hears and demand.question and not self._cards and not says([self.content], demand.question):
            events.append(self._answers.add(demand.question))
        self._asked = demand.question is not None
        if not self._asked and self.ref is not None and self._is_silent:
            events.extend(self._recover())  # Coze's record may have the question
            return
        self._awaits_reply = True
        self._go("settling")
        self.usage = demand.usage

    def _run_is(self, state: Literal["going", "waiting"]) -> None:
        self.memory_changed |= self.memory.run != state
        self.memory.run = state

    def _begin(self) -> None:
        """Coze has said something: from now on there is a stream to lose."""
        if self.phase == "starting":
            self._go("streaming")

    def _done(self) -> list[Event]:
        """Coze's stream has sent `done` without saying how the chat ended."""
        if self.ref is not None:
            return self._recover()
        return self._complete()  # the old form of the API gives no ids, and ends a stream in no other way

    def _recover(self) -> list[Event]:
        if not self.recorded:
            return self._fail(Code.UPSTREAM_FAILED)
        self._go("recovering")
        self._broke = True
        return [Notice("recovering")]

    def _need_action(self, tool_calls: list[dict[str, Any]]) -> list[Event]:
        waiting = self.phase == "action_required"
        if not waiting:
            self._go("action_required")
        self.memory_changed |= self.memory.given
        self.memory.given = False
        if self.memory.run:
            self._run_is("waiting")
        if tool_calls == self.tool_calls and (waiting or tool_calls):
            return []  # already asked for: Coze said it twice, or said it before a crash
        self.tool_calls = tool_calls
        return [ActionNeeded(tool_calls)]

    def _need_action_from(
        self, tool_calls: list[dict[str, Any]], state: ChatState, messages: Sequence[Item], *, final: bool
    ) -> list[Event] | None:
        """Starts to wait for tool outputs, after the items that were lost before that."""
        texts = [item for item in messages if isinstance(item, Answer) and is_text(item)]
        if not final and match(self._answers.parts, texts).missing:
            return None
        events: list[Event] = []
        for item in messages:
            if isinstance(item, Answer | Suggestion | Verbatim):
                taken = len(events)
                self._take(item, events)
                self._allowance.spend(events, taken)
                if self._allowance.exceeded:
                    break
        self._remember_answers()
        events += self._last_words(state)
        events += self._need_action(tool_calls)
        self._allowance.spend(events[-1:])
        return events + self._fail_too_much() if self._allowance.exceeded else events

    def _complete_from(self, state: ChatState, messages: Sequence[Item], *, final: bool) -> list[Event] | None:
        answers = [item for item in messages if isinstance(item, Answer)]
        texts = [answer for answer in answers if is_text(answer)]
        if state.question and len(answers) == len(texts) and not says((t.content for t in texts), state.question):
            texts.append(Answer("", state.question, "text"))
            answers.append(texts[-1])
        self._allowance.keep(answers=len(texts), ids=len(messages))
        if self._allowance.exceeded:
            return self._fail_too_much()
        found = match(self._answers.parts, texts)
        if not final and (found.missing or not answers):
            return None
        shown = self.content
        wanted = SEPARATOR.join(text for _, text in found.answers if text)
        if not final and len(wanted) < len(shown) and shown.startswith(wanted):
            return None
        if found.cut_short:
            return self._fail(Code.UPSTREAM_FAILED)
        if size(wanted) > TEXT_BYTES:
            return self._fail_too_much()
        events: list[Event] = []
        length = self.length
        _add(events, self._answers.become(found.answers))
        cards = [answer for answer in answers if not is_text(answer) and answer.content_type != "audio"]
        for card in unseen(cards, self._seen, self._cards.elements()):
            self._show_card(card, events)
        for item in unseen([i for i in messages if isinstance(i, Suggestion)], self._seen, self.suggestions):
            self._suggest(item.content, events)
        if self.verbatim:
            starts, headed = self._answers.starts(), self._headed
            events = in_order(events, messages, starts=starts, shown=length, headed=headed, tell=self._tell)
            events += self._last_words(state)
        self._allowance.spend(events)
        self._remember_answers()
        if self._allowance.exceeded:
            return events + self._fail_too_much()
        self.usage = state.usage or self.usage
        self._awaits_reply = state.status == "requires_action"
        self._asked = state.question is not None
        return events + self._complete()

    @property
    def _is_silent(self) -> bool:
        return not (self._answers.parts or self._cards or self._audio)

    def _complete(self) -> list[Event]:
        if self._is_silent and not self._asked and not self.memory.run:
            return self._fail(Code.UPSTREAM_EMPTY)
        events = self._flush()
        last = Completed(
            self.conversation_id, self.turn_id, self.content, self.usage, self._broke, awaiting_reply=self._awaits_reply
        )
        return self._end(events, last)

    def _fail_with(self, failed: ChatFailed) -> list[Event]:
        return self._fail(classify(failed.coze_code)[0], failed.coze_code, self.log_id or failed.log_id)

    def _fail_too_much(self) -> list[Event]:
        """Ends the turn because Coze has sent more than a turn may hold."""
        self.overfull = True
        return self._fail(Code.UPSTREAM_FAILED, words=too_much(self.language))

    def _fail(
        self, code: Code, coze_code: int | None = None, log_id: str | None = None, words: str = ""
    ) -> list[Event]:
        events = self._flush()
        last = self._failed(code, self.content, words, coze_code, log_id or self.log_id)
        return self._end(events, last)

    def _failed(
        self, code: Code, content: str, words: str = "", coze_code: int | None = None, log_id: str | None = None
    ) -> Failed:
        last = failed(
            code,
            self.language,
            conversation_id=self.conversation_id,
            turn_id=self.turn_id,
            content=content,
            words=words,
            coze_code=coze_code,
            log_id=log_id,
        )
        self.failure = structs.replace(last, content="") if content else last
        return last

    def _flush(self) -> list[Event]:
        """Shows the text that was held back, so that the pieces joined are the last event's content."""
        events: list[Event] = []
        _add(events, self._answers.flush())
        return events

    def _end(self, events: list[Event], last: Last) -> list[Event]:
        self._go("ended")
        self.outcome = last.outcome
        events.append(last)
        return events

    def _go(self, phase: Phase) -> None:
        if phase not in NEXT[self.phase]:
            raise AssertionError(f"a turn cannot go from {self.phase} to {phase}")
        self.phase = phase

    def _is_new(self, message_id: str, prefix: str = "") -> bool:
        """Whether this item was not shown yet, judging by its id; remembers the id."""
        if not (key := real_id(message_id)):
            return True
        if (key := prefix + key) in self._seen:
            return False
        self._seen.add(key)
        self.memory.seen.append(key)
        self.memory_changed = True
        return True

    def _show_card(self, card: Answer, events: list[Event]) -> None:
        self._cards[card.content] += 1
        events.append(Message(card.content, content_type=card.content_type))

    def _suggest(self, content: str, events: list[Event]) -> None:
        self.suggestions.append(content)
        self._suggested.add(content)
        events.append(FollowUp(content))

    def _remember_answers(self) -> None:
        if self._answers.moved:
            self._answers.moved = False
            starts = self._answers.starts()
            same = common(starts, self.memory.answers)
            self._allowance.charge(NOTE_BYTES * (len(starts) - same))
            self.memory.answers = starts
            self.memory_changed = True

    def __repr__(self) -> str:
        return (
            f"Turn({self.turn_id}, {self.phase}, ref={self.ref}, {self.length} characters, "
            f"{len(self._answers.parts)} answers, {len(self._cards)} cards, {len(self.suggestions)} suggestions)"
        )


def _newest_text(events: list[Event]) -> list[Event]:
    """The same without replacements that are replaced in the same read: each of them holds the whole text."""
    anew = [at for at, event in enumerate(events) if isinstance(event, Message) and event.replace]
    return [e for at, e in enumerate(events) if not anew or not anew[0] <= at < anew[-1] or not _is_text_of_answer(e)]


def _is_text_of_answer(event: Event) -> bool:
    return (isinstance(event, Text) and event.kind == "message") or (isinstance(event, Message) and event.replace)


def _add(events: list[Event], event: Event | None) -> None:
    if event is not None:
        events.append(event)
