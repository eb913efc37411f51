import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gateway.upstream.backoff import delay
from gateway.upstream.breaker import COOLDOWN, PROBE_SECONDS, THRESHOLD, Breaker
from tests.clocks import Clock


def opened() -> tuple[Breaker, Clock]:
    clock = Clock()
    breaker = Breaker(clock)
    for _ in range(THRESHOLD):
        assert breaker.allow()
        breaker.failed()
    return breaker, clock


def test_it_opens_after_failures_in_a_row_and_not_before() -> None:
    breaker = Breaker(Clock())
    for _ in range(THRESHOLD - 1):
        breaker.failed()
    assert breaker.allow()
    breaker.succeeded()
    for _ in range(THRESHOLD - 1):
        breaker.failed()
    assert breaker.allow()
    breaker.failed()
    assert not breaker.allow()


def test_after_the_cooldown_one_probe_goes_and_decides() -> None:
    breaker, clock = opened()
    clock.now += COOLDOWN - 0.001
    assert not breaker.allow()
    clock.now += 0.001
    assert [breaker.allow() for _ in range(10)] == [True] + [False] * 9
    breaker.failed()
    assert not breaker.allow()
    clock.now += COOLDOWN
    assert [breaker.allow() for _ in range(10)] == [True] + [False] * 9
    breaker.succeeded()
    assert all(breaker.allow() for _ in range(10))


def test_a_probe_that_is_given_up_lets_the_next_go_at_once() -> None:
    breaker, clock = opened()
    clock.now += COOLDOWN
    assert breaker.allow()
    breaker.released()
    assert [breaker.allow() for _ in range(3)] == [True, False, False]


def test_a_probe_without_an_answer_keeps_others_waiting_for_a_while_only() -> None:
    breaker, clock = opened()
    clock.now += COOLDOWN
    assert breaker.allow()
    clock.now += PROBE_SECONDS - 0.001
    assert not breaker.allow()
    clock.now += 0.001
    assert breaker.allow()


def test_giving_up_while_closed_or_open_changes_nothing() -> None:
    breaker, clock = opened()
    breaker.released()
    assert not breaker.allow()
    clock.now += COOLDOWN
    assert breaker.allow()
    breaker.succeeded()
    breaker.released()
    assert breaker.state == "closed"


@pytest.mark.parametrize("retries", [3, 10, 50])
@pytest.mark.parametrize("turns", [1, 7])
def test_turns_one_after_another_make_all_their_tries(turns: int, retries: int) -> None:
    clock, rng = Clock(), random.Random(retries)
    breaker = Breaker(clock)
    for _ in range(turns):
        for attempt in range(1, retries + 2):
            assert breaker.allow(), f"try {attempt} was skipped"
            breaker.failed()
            wait = delay(attempt, None, rng)
            assert wait is not None
            clock.now += wait


def test_turns_together_ask_a_coze_that_is_down_little() -> None:
    clock, asked = Clock(), 0
    breaker = Breaker(clock)
    for _ in range(1000):  # 10 s in which somebody always wants to
        if breaker.allow():
            asked += 1
            breaker.failed()
        clock.now += 0.01
    assert asked <= THRESHOLD + 10 / COOLDOWN


class Machine(RuleBasedStateMachine):
    """Whatever is reported in whatever order: failures in a row close the way, and one probe opens it."""

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.breaker = Breaker(self.clock)
        self.in_a_row = 0
        self.probing_until: float | None = None

    @rule(seconds=st.floats(0, 10))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @rule()
    def ask(self) -> None:
        probing = self.breaker.state == "probing"
        closed = self.breaker.state == "closed"
        allowed = self.breaker.allow()
        if closed:
            assert allowed
        if probing and allowed:
            assert self.probing_until is not None
            assert self.clock.now >= self.probing_until
        if allowed and not closed:
            self.probing_until = self.clock.now + PROBE_SECONDS
            assert not self.breaker.allow()

    @rule()
    def succeed(self) -> None:
        self.breaker.succeeded()
        self.in_a_row = 0
        assert self.breaker.state == "closed"

    @rule()
    def fail(self) -> None:
        self.breaker.failed()
        self.in_a_row += 1

    @precondition(lambda self: self.breaker.state == "probing")
    @rule()
    def release(self) -> None:
        self.breaker.released()
        assert self.breaker.state == "open"

    @invariant()
    def it_is_closed_exactly_while_failures_are_few(self) -> None:
        assert (self.breaker.state == "closed") == (self.in_a_row < THRESHOLD)


Machine.TestCase.settings = settings(max_examples=100, stateful_step_count=40)
TestMachine = Machine.TestCase
