"""Limits: seats are given back, windows slide, tables stay small."""

import pytest

from adapters.edge.limits import Connections, TurnRate
from gateway.errors import Code, GatewayError
from tests.clocks import Clock


def refusal(call: object, *args: object) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        call(*args)  # type: ignore[operator]
    return caught.value


def test_an_account_gets_so_many_places_and_others_still_theirs() -> None:
    connections = Connections(100, 2)
    first = connections.acquire("ann")
    connections.acquire("ann")
    error = refusal(connections.acquire, "ann")
    assert (error.code, error.retry_after) == (Code.TOO_MANY_CONNECTIONS, 5.0)
    connections.acquire("bob")
    first.close()
    connections.acquire("ann")


def test_all_places_together_are_bounded_also_without_an_account() -> None:
    connections = Connections(3, 2)
    seats = [connections.acquire(), connections.acquire("ann"), connections.acquire()]
    assert refusal(connections.acquire).code is Code.OVERLOADED
    assert refusal(connections.acquire, "ann").code is Code.OVERLOADED
    seats[0].close()
    connections.acquire("ann")


def test_a_place_is_given_back_once_however_often_it_is_closed() -> None:
    connections = Connections(10, 10)
    seat, _ = connections.acquire("ann"), connections.acquire("ann")
    seat.close()
    seat.close()
    assert connections.open == 1
    with connections.acquire("bob"):
        assert connections.open == 2
    assert connections.open == 1


def test_a_refused_connection_takes_no_place() -> None:
    connections = Connections(10, 1)
    connections.acquire("ann")
    for _ in range(50):
        refusal(connections.acquire, "ann")
    assert connections.open == 1


def test_the_table_of_connections_is_empty_when_all_have_left() -> None:
    connections = Connections(100_000, 5)
    seats = [connections.acquire(f"user {i}") for i in range(10_000)]
    for seat in seats:
        seat.close()
    assert repr(connections) == "Connections(open=0, accounts=0)"


def test_no_minute_holds_more_turns_than_allowed() -> None:
    clock = Clock()
    rate = TurnRate(30, clock=clock)
    taken = []
    for _ in range(2000):
        clock.now += 0.25
        try:
            rate.take("ann")
        except GatewayError:
            continue
        taken.append(clock.now)
    assert len(taken) > 200
    assert all(later - earlier >= 60 for earlier, later in zip(taken, taken[30:], strict=False))


def test_retry_after_is_exact() -> None:
    clock = Clock()
    rate = TurnRate(2, clock=clock)
    rate.take("ann")
    clock.now += 10
    rate.take("ann")
    clock.now += 20.5
    error = refusal(rate.take, "ann")
    assert (error.code, error.retry_after) == (Code.RATE_LIMITED, 29.5)
    clock.now += 29.4
    refusal(rate.take, "ann")
    clock.now += 0.1
    rate.take("ann")
    rate.take("bob")


def test_an_account_may_have_a_limit_of_its_own_which_may_change() -> None:
    clock = Clock()
    rate = TurnRate(1, clock=clock)
    for _ in range(3):
        rate.take("ann", 3)
        clock.now += 10
    for most, left in ((3, 30.0), (2, 40.0), (1, 50.0)):  # until one, two, or all three have left the window
        assert refusal(rate.take, "ann", most).retry_after == left
    clock.now += 41
    rate.take("ann", 2)
    refusal(rate.take, "ann", 2)


def test_ten_thousand_users_and_more_are_remembered_in_a_bounded_table() -> None:
    clock = Clock()
    rate = TurnRate(400, accounts=1000, clock=clock)
    for i in range(10_000):
        rate.take(f"user {i}")
    assert repr(rate) == "TurnRate(accounts=1000)"
    clock.now += 61
    for i in range(1000):
        rate.take(f"later {i % 3}")
    assert repr(rate) == "TurnRate(accounts=3)"


def test_whoever_is_over_the_rate_stays_so_while_others_come_and_go() -> None:
    clock = Clock()
    rate = TurnRate(1, accounts=100, clock=clock)
    rate.take("ann")
    for i in range(90):
        clock.now += 0.1
        rate.take(f"user {i}")
        assert refusal(rate.take, "ann").code is Code.RATE_LIMITED
