"""Observers: several are told as one, what nobody hears costs nothing, and each call is defined as it is declared."""

import inspect
from typing import Any

import pytest

from gateway.telemetry.ledger import Ledger
from gateway.telemetry.lines import Lines
from gateway.telemetry.metrics import Metrics
from gateway.telemetry.observer import UNHEARD, Observer, Observers, TurnIds

IDS = TurnIds("turn_1", "conv_1", "req_1")
CALLS = [name for name in vars(Observer) if not name.startswith("_")]


class Heard(Observer):
    """As a tracer would be: it hears of turns alone."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def turn_began(self, turn: TurnIds) -> None:
        self.calls.append((turn,))

    def first_content(self, turn: TurnIds, seconds: float) -> None:
        self.calls.append((turn, seconds))


def test_all_observers_hear_what_happens() -> None:
    first, second = Heard(), Heard()
    together: Observer = Observers(first, UNHEARD, second)
    together.turn_began(IDS)
    together.first_content(IDS, 0.5)
    assert first.calls == second.calls == [(IDS,), (IDS, 0.5)]


def test_a_call_for_one_observer_is_its_own_method_and_a_call_for_none_costs_nothing() -> None:
    heard, metrics = Heard(), Metrics(Ledger(), "1")
    together = Observers(metrics, heard, Lines())
    assert together.turn_began == heard.turn_began
    for name in ("events_shown", "events_delivered", "events_late"):
        assert getattr(together, name) == getattr(metrics, name)
    assert set(vars(UNHEARD)) == set()
    for name in CALLS:
        signature = inspect.signature(getattr(UNHEARD, name))
        assert getattr(UNHEARD, name)(*signature.parameters) is None


def test_observers_of_observers_are_heard() -> None:
    heard = Heard()
    Observers(Observers(heard, Lines()), UNHEARD).turn_began(IDS)
    assert heard.calls == [(IDS,)]


@pytest.mark.parametrize("observer", [Metrics, Lines])
def test_an_observer_hears_only_what_there_is_to_hear(observer: type[Observer]) -> None:
    ours = [name for name in CALLS if name in vars(observer)]
    assert ours
    for name in ours:
        assert inspect.signature(getattr(observer, name)) == inspect.signature(getattr(Observer, name)), name
