"""Verbatim: the records in Coze's own words with which a turn of Coze's own door ends after a recovery."""

from collections.abc import Callable, Sequence

from msgspec import Raw

from gateway.events import HEAD, CozeRecord, Event, Text
from gateway.turns.answer import SEPARATOR, real_id
from gateway.upstream.protocol import Answer, Item, Suggestion, Tool, Verbatim

_FINISH = b"generate_answer_finish"


def record(said: Verbatim) -> CozeRecord:
    return CozeRecord(said.name, data=Raw(said.data))


def in_order(
    events: list[Event],
    messages: Sequence[Item],
    *,
    starts: Sequence[tuple[str, int]],
    shown: int,
    headed: bytes,
    tell: Callable[[Verbatim], list[Event]],
) -> list[Event]:
    """The events that complete a turn from Coze's record, with the record's messages as a stream would have brought
    them: tools, then each answer's text before the answer itself, then follow-ups.

    `events` may begin with a text, the rest of the turn's text after `shown` characters; `starts` are the answers in
    that text; `headed` is the head under which its beginning stands. `tell` gives a message's event, once.
    """
    ranked: list[list[Verbatim]] = [[], [], [], []]
    heads: dict[str, Verbatim] = {}
    own: list[Item] = []
    for item in messages:
        if not isinstance(item, Verbatim):
            own.append(item)
        elif item.name == HEAD:
            heads[real_id(item.message_id)] = item
        else:
            ranked[_rank(own, item)].append(item)
            own = []
    told: set[int] = set()

    def told_once(said: Verbatim) -> list[Event]:
        if id(said) in told:
            return []
        told.add(id(said))
        return tell(said)

    found = [event for said in ranked[0] for event in told_once(said)]
    if events and type(rest := events[0]) is Text:
        events = events[1:]
        for (message_id, start), piece in _pieces(rest.content, starts, shown):
            head = heads.get(message_id)
            begins = start > shown
            if head is not None and (begins or head.data != headed):
                found.append(CozeRecord(HEAD, begins, Raw(head.data)))
            found.append(Text("message", piece))
            its = [said for said in ranked[1] if real_id(said.message_id) == message_id]
            found += [event for said in its for event in told_once(said)]
    return found + [event for said in (*ranked[1], *ranked[2], *ranked[3]) for event in told_once(said)] + events


def _pieces(rest: str, starts: Sequence[tuple[str, int]], shown: int) -> list[tuple[tuple[str, int], str]]:
    """The part of `rest` that belongs to each answer, with the separator before it."""
    found = []
    for number, one in enumerate(starts):
        begins = one[1] - (len(SEPARATOR) if number else 0)
        ends = starts[number + 1][1] - len(SEPARATOR) if number + 1 < len(starts) else shown + len(rest)
        if ends > shown:
            found.append((one, rest[max(begins - shown, 0) : ends - shown]))
    return found


def _rank(own: list[Item], said: Verbatim) -> int:
    match own:
        case [Answer()]:
            return 1
        case [Suggestion()]:
            return 3
        case [Tool()]:
            return 0
        case _:
            return 2 if _FINISH in said.data else 0
