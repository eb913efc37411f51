"""The protocol of several nodes: every order of its steps keeps the invariants, and no check of it is one too many."""

import os
from dataclasses import replace

import pytest

from tests.model.explore import explore
from tests.model.model import CHECKS, Checks, Order, Scope

SMALL = {
    "two conversations": Scope((Order("a", 0), Order("b", 1)), burials=1, joins=1),
    "sent twice": Scope((Order("a", 0, 2),), burials=1, joins=1),
    "sent twice for a new conversation": Scope((Order("a", -1, 2),), burials=1, joins=1),
    "sent twice for a new conversation, and a turn": Scope(
        (Order("a", -1, 2), Order("b", 0)), nodes=2, burials=1, joins=1
    ),
    "two turns": Scope((Order("a", 0), Order("b", 0)), burials=1, joins=1, crashes=1),
    "a late release": Scope((Order("a", 0), Order("b", 0), Order("c", 0)), nodes=2, releases_lost=1),
    "lost replies": Scope((Order("a", 0),), burials=2, joins=1, replies_lost=1, adoptions_lost=1),
    "given up": Scope((Order("a", 0, 2),), burials=1, joins=1, replies_lost=1, given_up=1),
    "failover": Scope((Order("a", 0, 2),), joins=1, failovers=1),
    "failover, a new conversation": Scope((Order("a", -1, 2),), joins=1, failovers=1),
    "failover, a lost reply": Scope((Order("a", 0, 2),), nodes=2, joins=1, failovers=1, replies_lost=1),
    "failover, two turns": Scope((Order("a", 0), Order("b", 0)), nodes=2, joins=1, failovers=1),
    "failover after a burial": Scope((Order("a", 0),), burials=1, joins=2, failovers=1),
}
LARGE = {
    "a late release and a burial": Scope(
        (Order("a", 0), Order("b", 0), Order("c", 0)), nodes=2, burials=1, joins=1, releases_lost=1
    ),
    "failover, two turns and a crash": Scope(
        (Order("a", 0), Order("b", 0)), nodes=2, burials=1, joins=1, crashes=1, failovers=1
    ),
    "two conversations, sent twice": Scope((Order("a", 0, 2), Order("b", 1)), burials=1, joins=1),
    "two conversations, lost replies": Scope(
        (Order("a", 0), Order("b", 1)), burials=1, joins=1, replies_lost=1, adoptions_lost=1
    ),
    "failover after two burials": Scope((Order("a", 0),), burials=2, joins=2, failovers=1),
    "failover, sent twice, after a burial": Scope((Order("a", 0, 2),), burials=1, joins=1, failovers=1),
}
SCOPES = SMALL | LARGE if os.environ.get("MODEL") else SMALL
WITHOUT = {
    "licence_in_commit": "two conversations",
    "licence_held": "two conversations",
    "licence_number_once": "failover after a burial",
    "licence_in_claim": "sent twice",
    "licence_in_adoption": "lost replies",
    "same_licence": "sent twice for a new conversation, and a turn",
    "claim_before_begin": "sent twice",
    "turn_in_claim": "a late release",
    "claim_until_adopted": "a late release and a burial",
    "claim_in_begin": "a late release",
    "only_orphans": "sent twice",
    "adoption_again": "lost replies",
    "head_in_commit": "two turns",
    "mark_under_claim": "sent twice",
    "mark_under_lock": "sent twice for a new conversation",
    "number_in_commit": "lost replies",
    "ask_when_lost": "lost replies",
    "void_when_given_up": "given up",
    "epoch_after_loss": "given up",
    "epoch_when_joining": "given up",
    "epoch_when_adopting": "given up",
    "look_after_break": "failover",
    "place_when_again": "failover",
}
"""Each check, and a scope that is enough to show what it is for."""


@pytest.mark.parametrize("name", SCOPES)
def test_every_order_of_steps_keeps_the_invariants(name: str) -> None:
    explored = explore(SCOPES[name], Checks())
    assert explored.found is None, str(explored.found)
    assert explored.states > 500


@pytest.mark.parametrize("check", CHECKS)
def test_without_a_check_the_exploration_finds_a_counter_example(check: str) -> None:
    explored = explore((SMALL | LARGE)[WITHOUT[check]], replace(Checks(), **{check: False}), most=100_000)
    assert explored.found is not None
    assert len(explored.found.way) > 3
