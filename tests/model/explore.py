"""Exploration: every state that can be reached, breadth first, so that the first fault found is a shortest one."""

from typing import NamedTuple

from tests.model.invariants import broken
from tests.model.model import Checks, Scope, State, beginning, steps


class CounterExample(NamedTuple):
    """A way into a state that must not be, step by step."""

    why: str
    way: list[str]

    def __str__(self) -> str:
        return "\n".join([f"{self.why}:", *(f"{number:3}. {label}" for number, label in enumerate(self.way, 1))])


class Explored(NamedTuple):
    states: int
    found: CounterExample | None


def explore(scope: Scope, checks: Checks, *, most: int = 10_000_000) -> Explored:
    """Tries every order of steps; gives up after `most` states, with an exception."""
    first = beginning(scope)
    came: dict[State, tuple[State, str] | None] = {first: None}
    wave = [first]
    while wave:
        following: list[State] = []
        for state in wave:
            for label, after in steps(state, scope, checks):
                if after in came:
                    continue
                came[after] = state, label
                if (why := broken(after)) is not None:
                    return Explored(len(came), CounterExample(why, _way(came, after)))
                following.append(after)
                if len(came) > most:
                    raise RuntimeError(f"more than {most} states")
        wave = following
    return Explored(len(came), None)


def _way(came: dict[State, tuple[State, str] | None], state: State) -> list[str]:
    way: list[str] = []
    while (step := came[state]) is not None:
        state, label = step
        way.append(label)
    return way[::-1]
