"""The closed table of faults, and the plan that one message asks for."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from types import MappingProxyType


class Fault(StrEnum):
    """A way to misbehave. `default` is its value if none is given, or None for a fault that takes no value."""

    about: str
    default: int | str | None

    def __new__(cls, name: str, about: str, default: int | str | None = None) -> "Fault":
        member = str.__new__(cls, name)
        member._value_ = name
        member.about = about
        member.default = default
        return member

    # Before a chat exists: the message is not accepted.
    STATUS = "status", "answers with this HTTP status and Coze's JSON body of an error", 503
    RETRY_AFTER = "retry-after", "adds `Retry-After` with this text (underscores stand for spaces)", "2"
    CODE = "code", "answers 200 with JSON whose `code` is this", 4009
    HTML = "html", "answers with an HTML page; status 200 unless `status` says another"
    REDIRECT = "redirect", "answers 307 with this `Location`", "http://127.0.0.1:9/"
    REFUSE = "refuse", "resets the connection instead of answering"
    BAD_HTTP = "bad-http", "answers with something that is not HTTP"
    BIG_HEADER = "big-header", "answers with a header line of this many bytes", 100_000
    TIMES = "times", "only the first N requests with this very message get the faults of this group", 1
    # The chat runs, but its stream never says so.
    NO_HEAD = "no-head", "never sends a response's head"
    RESET_BEFORE_HEAD = "reset-before-head", "resets the connection before the head"
    SLOW_HEAD = (
        "slow-head",
        "sends the head after this many milliseconds; pieces that are due by then follow at once",
        2000,
    )
    SILENT = "silent", "sends the head, then nothing, and keeps the connection open"
    EOF_BEFORE_CREATED = "eof-before-created", "sends the head and ends the body"
    DROP_BEFORE_CREATED = "drop-before-created", "sends the head and closes the connection inside the body"
    RESET_BEFORE_CREATED = "reset-before-created", "sends the head and resets the connection"
    SLOW_FIRST = (
        "slow-first",
        "sends the head, then nothing for this many milliseconds; pieces that are due by then follow at once",
        2000,
    )
    # The stream breaks; the chat goes on and its record is whole.
    STALL_AFTER = "stall-after", "sends nothing more after N pieces and keeps the connection open", 3
    EOF_AFTER = "eof-after", "ends the body properly after N pieces", 3
    DROP_AFTER = "drop-after", "closes the connection after N pieces, inside the body", 3
    RESET_AFTER = "reset-after", "resets the connection after N pieces", 3
    CUT_RECORD_AFTER = "cut-record-after", "ends the body in the middle of the record after N pieces", 3
    CUT_UTF8_AFTER = "cut-utf8-after", "ends the body inside a character of several bytes after N pieces", 3
    CUT_CHUNK_AFTER = "cut-chunk-after", "closes the connection inside a chunk of HTTP after N pieces", 3
    # The end of the stream.
    NO_DONE = "no-done", "leaves `done` out"
    NO_COMPLETED = "no-completed", "leaves `conversation.chat.completed` out"
    NO_CREATED = "no-created", "leaves `conversation.chat.created` out: `in_progress` is the first record"
    DONE_ONLY = "done-only", "sends `done` and nothing else"
    DONE_EARLY = "done-early", "sends `created`, `in_progress` and `done` at once, while the chat goes on"
    HOLD_OPEN = "hold-open", "keeps the connection open for this many milliseconds after the last record", 5000
    LATE = "late", "sends a piece and another end after `done`"
    DONE_BARE = "done-bare", "sends `done` with a bare `[DONE]`, without quotes"
    DONE_DEBUG = "done-debug", "sends `done` with an object that contains a `debug_url`"
    # What the chat says; its record says the same.
    FIRST = "first", "milliseconds to the first piece", 300
    RATE = "rate", "pieces per second; 0 means as fast as possible", 40
    PIECES = "pieces", "an answer of exactly N pieces", 20
    ECHO = "echo", "the answer is the rest of the message"
    CLOCK = (
        "clock",
        "each piece is the unix time in seconds at which it is due, and a space; 200 pieces without `pieces`",
    )
    PLAIN = "plain", "neither reasoning nor a plug-in"
    REASONING = "reasoning", "reasons before it answers"
    TOOL = "tool", "looks into its knowledge and uses a plug-in before it answers"
    ACTION = "action", "waits for the outputs of two local tools, then answers with them"
    QUESTION = (
        "question",
        "asks the user something and waits for the reply, which is the next message: `requires_action` with a "
        "`reply_message` call without an id",
    )
    QUESTION_CARD = "question-card", "the same with a card in place of text"
    QUESTION_IN_CALL = "question-in-call", "the same; only the call contains the question"
    QUESTION_BARE = (
        "question-bare",
        "the same; `requires_action` names no call, as in chatflows of the self-hosted variant",
    )
    AUDIO = "audio", "sends audio too, some of it after `conversation.chat.completed`"
    AUDIO_ONLY = "audio-only", "sends audio and no text"
    MULTI = "multi", "two answers with a card between them"
    CARD_ONLY = "card-only", "a card and no text"
    EMPTY = "empty", "no answer at all, only `generate_answer_finish`"
    REWRITE = "rewrite", "the completed text differs from the pieces"
    NO_DELTAS = "no-deltas", "the completed text comes without pieces"
    GIANT = "giant", "one piece of this many bytes in the middle", 1_048_576
    HOSTILE = "hostile", "text with line separators, forged frames, markup, control characters"
    HOSTILE_IDS = "hostile-ids", "message ids that contain line ends, quotes and markup"
    SURROGATE = "surrogate", "half a surrogate pair in the text, as a JSON escape"
    FAILED = "failed", "fails half-way: `conversation.chat.failed` with this code", 5000
    FAILED_FLAT = "failed-flat", "the same in the flat format, with the code as a string", 720702204
    ERROR_EVENT = "error-event", "fails half-way: the event `error` with this code; 0 leaves its data empty", 4013
    FAILED_FIRST = (
        "failed-first",
        "fails at once: a flat failure with this code is the only record",
        720702204,
    )
    CANCELED = "canceled", "is cancelled half-way by someone else: `conversation.chat.canceled`"
    # Pieces and records that are not as they should be; the completed text is right.
    DOUBLED = "doubled", "sends each third piece twice"
    LOST = "lost", "leaves each third piece out"
    SHUFFLED = "shuffled", "swaps pieces in pairs"
    FOREIGN = "foreign", "puts records of another chat between the pieces"
    UNKNOWN_EVENTS = "unknown-events", "puts unknown events and unknown kinds of messages between the pieces"
    MALFORMED = "malformed", "puts records with broken JSON between the pieces"
    NAN = "nan", "puts records that contain NaN and Infinity between the pieces"
    DEEP = "deep", "puts records nested 100,000 deep between the pieces"
    BIG_INT = "big-int", "puts records with a number of 5,000 digits between the pieces"
    BAD_UTF8 = "bad-utf8", "puts records that are not UTF-8 between the pieces"
    LONE_CR = "lone-cr", "puts records with a lone carriage return inside the JSON between the pieces"
    # Framing: the same events in other bytes.
    CRLF = "crlf", "ends lines with CR LF"
    CR = "cr", "ends lines with CR"
    MIXED = "mixed", "ends lines with LF, CR LF and CR in turn"
    BOM = "bom", "begins with a byte order mark"
    SPACE = "space", "puts a space after each colon"
    COMMENTS = "comments", "puts comments between and inside the records"
    IDS = "ids", "gives the records an `id` (one of them with a NUL) and `retry`"
    ID_GAPS = "id-gaps", "leaves out every fifth number of a workflow's records"
    MULTILINE_DATA = "multiline-data", "spreads the data over two lines"
    DATA_FIRST = "data-first", "puts `data` before `event`"
    NO_LAST_BLANK = "no-last-blank", "ends without the last blank line"
    STUDIO = "studio", "uses the format of the self-hosted variant"
    V2 = "v2", "uses the older, data-only format"
    BYTES = "bytes", "writes the stream byte by byte"
    WRONG_TYPE = "wrong-type", "sends the stream as `text/plain`"
    # Without bound; the chat's record is never over.
    ENDLESS = "endless", "goes on with pieces for ever"
    ENDLESS_RECORD = "endless-record", "after three pieces sends one record without end"
    COMMENTS_FOREVER = "comments-forever", "after three pieces sends comments for ever, ten per second"
    GZIP_BOMB = "gzip-bomb", "sends spaces for ever, compressed a thousandfold"
    # The record: retrieve, messages and cancel.
    RETRIEVE_500 = "retrieve-500", "the first N requests to retrieve are answered with 500 and HTML", 2
    RETRIEVE_SLOW = "retrieve-slow", "retrieve answers after this many milliseconds", 3000
    NEVER_COMPLETE = "never-complete", "retrieve never says that the chat is over"
    LIST_EMPTY = "list-empty", "the first N lists of messages are empty", 2
    LIST_500 = "list-500", "the first N requests for the list of messages are answered with 500 and HTML", 2
    CANCEL_500 = "cancel-500", "the first N requests to cancel are answered with 500 and HTML", 2


ASKING = frozenset({Fault.QUESTION, Fault.QUESTION_CARD, Fault.QUESTION_IN_CALL, Fault.QUESTION_BARE})
"""The faults with which the bot asks the user something."""

TAKING_NOTHING = frozenset(
    {Fault.STATUS, Fault.CODE, Fault.HTML, Fault.REDIRECT, Fault.REFUSE, Fault.BAD_HTTP, Fault.BIG_HEADER}
)
"""The faults that refuse the message: no chat is started."""

SHAPING = frozenset(
    {
        Fault.FIRST, Fault.RATE, Fault.PIECES, Fault.ECHO, Fault.CLOCK, Fault.PLAIN, Fault.REASONING, Fault.TOOL,
        Fault.ACTION, *ASKING, Fault.AUDIO, Fault.AUDIO_ONLY, Fault.MULTI, Fault.CARD_ONLY, Fault.EMPTY, Fault.REWRITE,
        Fault.NO_DELTAS, Fault.GIANT, Fault.HOSTILE, Fault.HOSTILE_IDS,
    }
)  # fmt: skip
"""The faults that say what the chat says; they act when it is started."""

FAILING = (Fault.FAILED_FIRST, Fault.FAILED, Fault.FAILED_FLAT, Fault.ERROR_EVENT, Fault.CANCELED)

Fire = Callable[[Fault], None]
"""Is told of each fault at the moment when it acts."""

_RANGES = {
    Fault.STATUS: (200, 599),
    Fault.PIECES: (0, 1_000_000),
    Fault.GIANT: (0, 64 * 2**20),
    Fault.BIG_HEADER: (0, 64 * 2**20),
}
"""Limits of values, since the simulator may share its process with the gateway."""

_NAMES = {fault.value: fault for fault in Fault}
_PREFIX = "/fault"
_ASKED = re.compile(r"([a-z][a-z0-9-]*):(\S*)", re.ASCII)


class UnknownFault(ValueError):
    """A plan that can't be read; the text says what is wrong, and names the known faults."""


@dataclass(frozen=True, slots=True)
class FaultPlan:
    """The faults that a message asks for, and the message without them, which seeds the answer."""

    message: str
    faults: Mapping[Fault, int | str | None]

    def __contains__(self, fault: object) -> bool:
        return fault in self.faults

    def number(self, fault: Fault, otherwise: int = 0) -> int:
        value = self.faults.get(fault, otherwise)
        return value if isinstance(value, int) else otherwise

    def text(self, fault: Fault) -> str:
        return str(self.faults.get(fault, ""))

    def asks_any(self, faults: frozenset[Fault]) -> bool:
        return not faults.isdisjoint(self.faults)


@lru_cache(maxsize=128)
def parse_plan(message: str) -> FaultPlan:
    """Reads `/fault NAME[:VALUE] … rest`. Raises UnknownFault.

    The list of names ends at the first word that is not a name; `--` ends it at once. After the first fault, a word
    with a colon must be a known fault, so that a misspelt one is not taken for the message.
    """
    if not message.startswith(_PREFIX) or message[len(_PREFIX) :][:1].strip():
        return FaultPlan(message, MappingProxyType({}))
    rest = message[len(_PREFIX) :].lstrip()
    faults: dict[Fault, int | str | None] = {}
    while rest:
        word, after = (*rest.split(maxsplit=1), "")[:2]
        if word == "--":
            rest = after
            break
        asked = _ASKED.fullmatch(word)
        name = asked[1] if asked else word
        if (fault := _NAMES.get(name)) is None:
            if faults and asked is None:
                break
            raise UnknownFault(f"unknown fault {name[:40]!r}; known: {', '.join(_NAMES)}")
        faults[fault] = _value(fault, asked[2]) if asked else fault.default
        rest = after
    if not faults:
        raise UnknownFault(f"{_PREFIX} names no fault; known: {', '.join(_NAMES)}")
    return FaultPlan(rest, MappingProxyType(faults))


def _value(fault: Fault, text: str) -> int | str:
    match fault.default:
        case None:
            raise UnknownFault(f"fault {fault.value!r} takes no value, not {text[:40]!r}")
        case str():
            return text
        case int():
            low, high = _RANGES.get(fault, (0, 10**12))
            if not re.fullmatch(r"[0-9]{1,12}", text, re.ASCII) or not low <= int(text) <= high:
                raise UnknownFault(f"fault {fault.value!r} takes a whole number, {low} to {high}, not {text[:40]!r}")
            return int(text)
