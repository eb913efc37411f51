"""Answers: what the simulated bot says to a question, the same in every process."""

import hashlib
import re
from functools import lru_cache
from importlib.resources import files
from random import Random
from typing import Any, Literal

import msgspec
from msgspec import Struct

Language = Literal["zh", "en", "es"]


class _Section(Struct, frozen=True):
    heading: str
    text: str
    points: list[str]


class _Table(Struct, frozen=True):
    heading: str
    rows: list[list[str]]


class _Code(Struct, frozen=True):
    heading: str
    language: str
    lines: list[str]


class Plugin(Struct, frozen=True):
    """A use of a plug-in: the question to it, its answer, and what the bot then says."""

    plugin: str
    api: str
    output: dict[str, Any]
    thought: str
    slice: str
    document: str
    said: str


class LocalTool(Struct, frozen=True):
    """A use of a local tool, whose output the caller submits."""

    room: str
    thought: str
    said: str


class UserQuestion(Struct, frozen=True):
    """What the bot asks the user. A card shows the options, too."""

    text: str
    options: list[str]


class Prose(Struct, frozen=True):
    """The words of one language."""

    titles: list[str]
    openings: list[str]
    sections: list[_Section]
    tables: list[_Table]
    codes: list[_Code]
    image: str
    tips: list[str]
    closings: list[str]
    follow_ups: list[str]
    reasoning: list[str]
    tool: Plugin
    action: LocalTool
    question: UserQuestion
    second: str


class _Book(Struct, frozen=True):
    images: list[str]
    zh: Prose
    en: Prose
    es: Prose


class Answer(Struct, frozen=True):
    """The answer to one question. `reasons` and `looks_up`: whether the bot does so if the fault plan doesn't say."""

    text: str
    reasoning: str
    follow_ups: tuple[str, ...]
    reasons: bool
    looks_up: bool


_USUAL = 4096
"""Characters of a text whose pieces are worth remembering: an answer of ours, not a caller's long echo."""

_QUOTED = 60
"""Characters of the question that the heading repeats."""

_HAN = re.compile(r"[\u3400-\u9fff]")
_SPANISH = re.compile(
    r"[ñáéíóú¿¡]|\b(?:hola|gracias|que|como|cual|donde|cuando|quien|para|una|los|las|del|por|puedes?|quiero|el|la|y)\b",
    re.IGNORECASE,
)
_PIECE = re.compile(
    r"data:[^)\s]+|[\u3400-\u9fff]{1,2}|[ ]?[^\W\d_\u3400-\u9fff]{1,10}|[ ]?\d{1,3}|\s+|[ ]?([^\w\s])\1*[ ]?|.", re.S
)


@lru_cache(maxsize=1)
def _book() -> _Book:
    return msgspec.json.decode((files(__package__) / "prose.json").read_bytes(), type=_Book)


def language_of(question: str) -> Language:
    """The question's language: Chinese if it has a Han character, Spanish by its letters or words, else English."""
    if _HAN.search(question):
        return "zh"
    return "es" if _SPANISH.search(question) else "en"


def prose_for(question: str) -> Prose:
    book = _book()
    match language_of(question):
        case "zh":
            return book.zh
        case "es":
            return book.es
        case "en":
            return book.en


@lru_cache(maxsize=128)
def answer(question: str) -> Answer:
    """The answer to a question, in Markdown: headings, a list, a table, code and an image, seeded by the question."""
    prose = prose_for(question)
    # blake2b, because `hash` differs between processes; lone surrogates must not stop it.
    seed = hashlib.blake2b(question.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    choose = Random(int.from_bytes(seed))
    quoted = " ".join(question.split())
    quoted = quoted if len(quoted) <= _QUOTED else quoted[:_QUOTED] + "…"
    table, code = choose.choice(prose.tables), choose.choice(prose.codes)
    blocks = [
        "# " + choose.choice(prose.titles).replace("{question}", quoted),
        choose.choice(prose.openings),
        *(_section(section) for section in choose.sample(prose.sections, 2)),
        f"## {table.heading}\n\n{_table(table)}",
        f"## {code.heading}\n\n```{code.language}\n" + "\n".join(code.lines) + "\n```",
        f"![{prose.image}](data:image/png;base64,{choose.choice(_book().images)})",
        "> " + choose.choice(prose.tips),
        choose.choice(prose.closings),
    ]
    return Answer(
        text="\n\n".join(blocks),
        reasoning=choose.choice(prose.reasoning),
        follow_ups=tuple(choose.sample(prose.follow_ups, 3)),
        reasons=choose.randrange(4) == 0,
        looks_up=choose.randrange(5) == 0,
    )


def pieces_of(text: str) -> tuple[str, ...]:
    """`text` cut as a model's tokens are: one or two Han characters, a word or a part of one, punctuation. Loses
    nothing."""
    return _usual_pieces(text) if len(text) <= _USUAL else _cut(text)


@lru_cache(maxsize=256)
def _usual_pieces(text: str) -> tuple[str, ...]:
    return _cut(text)


def _cut(text: str) -> tuple[str, ...]:
    return tuple(match[0] for match in _PIECE.finditer(text))


def _section(section: _Section) -> str:
    return f"## {section.heading}\n\n{section.text}\n\n" + "\n".join(f"- {point}" for point in section.points)


def _table(table: _Table) -> str:
    head, *rows = ("| " + " | ".join(row) + " |" for row in table.rows)
    return "\n".join([head, "|" + " --- |" * len(table.rows[0]), *rows])
