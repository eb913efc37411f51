"""The journal around another one: every call of the protocol, even of later versions, reaches the journal within."""

import inspect
from typing import Any

import pytest

from gateway.log.journal import Journal
from tests.contracts.journals import Around, Doubtful, LostReply

FIELDS = inspect.get_annotations(Journal)
METHODS = [name for name in vars(Journal) if not name.startswith("_") and name not in FIELDS]


class Listening:
    """Stands in for the journal within: each of its methods tells what it was called with."""

    def __init__(self) -> None:
        self.heard: list[tuple[str, dict[str, Any]]] = []
        for name in FIELDS:
            setattr(self, name, object())

    def __getattr__(self, name: str) -> Any:
        method = getattr(Journal, name)
        signature = inspect.signature(method)

        def told(*args: Any, **kwargs: Any) -> list[str]:
            given = signature.bind(self, *args, **kwargs).arguments
            given.pop("self")
            self.heard.append((name, given))
            return [name]

        async def awaited(*args: Any, **kwargs: Any) -> list[str]:
            return told(*args, **kwargs)

        return awaited if inspect.iscoroutinefunction(method) else told


@pytest.mark.parametrize("around", [Around, Doubtful])
@pytest.mark.parametrize("name", METHODS)
async def test_every_call_reaches_the_journal_within_as_it_was_made(around: type[Around], name: str) -> None:
    within: Any = Listening()
    outer = around(within)
    method = getattr(Journal, name)
    taken = [one for one in inspect.signature(method).parameters.values() if one.name != "self"]
    given = {one.name: [one.name] for one in taken}
    plain = [given[one.name] for one in taken if one.kind is not inspect.Parameter.KEYWORD_ONLY]
    named = {one.name: given[one.name] for one in taken if one.kind is inspect.Parameter.KEYWORD_ONLY}
    answer = getattr(outer, name)(*plain, **named)
    empty = inspect.signature(method).return_annotation in (None, "None")
    wanted = None if empty else [name]
    if inspect.isawaitable(answer):
        try:
            answer = await answer
        except LostReply:
            answer = wanted  # it is done: only its reply is lost
    assert within.heard == [(name, given)]
    assert answer == wanted


@pytest.mark.parametrize("around", [Around, Doubtful])
@pytest.mark.parametrize("name", FIELDS)
def test_every_field_is_that_of_the_journal_within(around: type[Around], name: str) -> None:
    within: Any = Listening()
    assert getattr(around(within), name) is getattr(within, name)
