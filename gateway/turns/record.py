"""Coze's record of a chat, laid beside what was streamed of it before the stream broke."""

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from typing import TypeVar

from msgspec import Struct

from gateway.bounds import MATCHES
from gateway.turns.answer import real_id
from gateway.turns.part import Part
from gateway.upstream.protocol import Answer, Suggestion

Shown = TypeVar("Shown", Answer, Suggestion)

_TEXT_TYPES = frozenset({"", "text"})


def is_text(answer: Answer) -> bool:
    return answer.content_type in _TEXT_TYPES


def says(texts: Iterable[str], words: str) -> bool:
    """Whether one of the texts contains these words, apart from white space."""
    wanted = " ".join(words.split())
    return any(wanted in " ".join(text.split()) for text in texts)


class Match(Struct, frozen=True):
    """`answers` are ids and texts in the order to show them. `missing`: the record lacks an answer that was streamed.

    `cut_short`: the record lacks an answer that was streamed in part, and has no other one instead, so its rest is
    lost.
    """

    answers: list[tuple[str, str]]
    missing: bool
    cut_short: bool


def match(streamed: Sequence[Part], record: Sequence[Answer]) -> Match:
    """Matches recorded answers with streamed ones: by id; if one has no id, by its beginning, then by order.

    The order of the streamed answers takes precedence, so that shown text stays where it is. An answer that Coze had
    streamed whole and that its record lacks is kept; one that was streamed in part is left out, as its rest is unknown.
    """
    once = {real_id(answer.message_id) or at: answer for at, answer in enumerate(record)}
    left = {at: (real_id(answer.message_id), answer.content) for at, answer in enumerate(once.values())}
    found: dict[Part, tuple[str, str]] = {}

    by_id = {key: at for at, (key, _) in left.items() if key}
    for part in streamed:
        if part.id and (at := by_id.pop(part.id, None)) is not None:
            found[part] = left.pop(at)

    # If there are too many answers to compare, their order alone decides.
    lost = [part for part in streamed if part not in found]
    nameless = sum(not key for key, _ in left.values())
    if sum(nameless if part.id else len(left) for part in lost) <= MATCHES:
        for part in lost:
            shown = part.text
            fits = (at for at, (key, text) in left.items() if not (key and part.id) and text.startswith(shown))
            if (at := next(fits, None)) is not None:
                found[part] = left.pop(at)

    rest, unnamed = deque(left), deque(at for at, (key, _) in left.items() if not key)
    for part in streamed:
        if part not in found:
            choice = unnamed if part.id else rest
            while choice and choice[0] not in left:
                choice.popleft()
            if choice:
                found[part] = left.pop(choice.popleft())

    kept = [found.get(part, (part.id, part.text)) for part in streamed if part in found or part.whole]
    missing = [part for part in streamed if part not in found]
    return Match([*kept, *left.values()], bool(missing), not left and not all(part.whole for part in missing))


def unseen(items: Sequence[Shown], seen: Iterable[str], shown: Iterable[str]) -> list[Shown]:
    """Those of `items` (all cards, or all suggestions) that were not shown yet, compared by id, else by content.

    Contents are counted, not just looked up: two cards may be the same, and a crash may have kept the event of one
    but not its id.
    """
    ids, contents = set(seen), Counter(shown)
    contents.subtract(item.content for item in items if item.message_id in ids)
    new = []
    for item in items:
        if item.message_id in ids:
            continue
        if contents[item.content] > 0:
            contents[item.content] -= 1
        else:
            new.append(item)
            ids.update({real_id(item.message_id)} - {""})
    return new
