"""Coze's record of a chat, laid beside what was streamed of it before the stream broke."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypeVar

from msgspec import Struct

from gateway.answer import Part, real_id
from gateway.upstream.protocol import Answer, Suggestion

Shown = TypeVar("Shown", Answer, Suggestion)

_TEXT_TYPES = frozenset({"", "text"})


def is_text(answer: Answer) -> bool:
    return answer.content_type in _TEXT_TYPES


class Match(Struct, frozen=True):
    """`answers` are ids and texts in the order to show them; `missing` was streamed, but the record has it not."""

    answers: list[tuple[str, str]]
    missing: list[Part]


def match(streamed: Sequence[Part], record: Sequence[Answer]) -> Match:
    """Which recorded answer is which streamed one: by id; where one has none, by how it begins, then by order.

    The streamed answers' order comes first, so that text that was shown stays where it is. An answer that Coze had
    given whole and that its record lacks is kept as it was; a part of one is left out, for nobody knows its rest.
    """
    left = [(real_id(answer.message_id), answer.content) for answer in record]
    found: dict[Part, tuple[str, str]] = {}

    def pair(part: Part, at: int | None) -> None:
        if at is not None:
            found[part] = left.pop(at)

    for part in streamed:
        pair(part, next((i for i, (key, _) in enumerate(left) if part.id and key == part.id), None))
    for part in streamed:
        if part not in found:
            pair(
                part, next((i for i, it in enumerate(left) if _may_be(part, it) and it[1].startswith(part.text)), None)
            )
    for part in streamed:
        if part not in found:
            pair(part, next((i for i, it in enumerate(left) if _may_be(part, it)), None))

    kept = [found.get(part, (part.id, part.text)) for part in streamed if part in found or part.whole]
    return Match([*kept, *left], [part for part in streamed if part not in found])


def _may_be(part: Part, recorded: tuple[str, str]) -> bool:
    return not part.id or not recorded[0]


def unseen(items: Sequence[Shown], seen: Iterable[str], shown: Iterable[str]) -> list[Shown]:
    """Those of `items` (all cards, or all suggestions) that were not shown yet: by id, else by content.

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
    return new
