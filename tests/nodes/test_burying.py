"""Burying: nobody is taken for dead who had no chance to report since the database was away."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from gateway.ids import LogKey
from gateway.log.journal import JournalError
from gateway.log.postgres import PostgresJournal
from gateway.nodes import membership
from gateway.telemetry.ledger import Ledger
from tests.databases import PostgresServer
from tests.nodes.members import Member
from tests.waiting import until

CHANCE, STEADY = 0.3, 1.5

Join = Callable[[], Awaitable[Member]]


@pytest.fixture
async def join(postgres: PostgresServer, ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Join]:
    """`await join()`: one more node. Its patience is short."""
    monkeypatch.setattr(membership, "_CHANCE", CHANCE)
    monkeypatch.setattr(membership, "LEASE", STEADY)
    url = await postgres.make()
    members: list[Member] = []

    async def join() -> Member:
        member = Member(url, ledger)
        members.append(member)
        await member.join()
        return member

    yield join
    for member in members:
        await member.close()


async def _rounds(member: Member, *, until_buried: Member) -> float:
    """The seconds after which a member has buried another one that is silent."""
    began = asyncio.get_running_loop().time()

    async def buried() -> bool:
        await member.round()
        rows = await member.database.ask("SELECT 1 FROM log_nodes WHERE id = %s", until_buried.journal.licence.node)
        return not rows

    await until(buried, within=10)
    return asyncio.get_running_loop().time() - began


async def test_a_node_that_starts_after_an_outage_buries_nobody_before_all_could_report(join: Join) -> None:
    one, other = await join(), await join()
    await one.begin("a word")
    for member in (one, other):
        await member.silent()
    fresh = await join()
    await fresh.round()
    assert await one.lives()
    assert await other.lives()
    assert not fresh.duties.adopted


async def test_a_node_that_joins_again_after_an_outage_buries_nobody_before_all_could_report(join: Join) -> None:
    one, paused = await join(), await join()
    await paused.die()
    await one.silent()
    await paused.round()
    assert await one.lives()


async def test_a_node_that_starts_alone_gets_the_turns_of_the_one_before_soon(join: Join) -> None:
    dead = await join()
    await dead.begin("a word")
    await dead.silent()
    fresh = await join()
    assert CHANCE < await _rounds(fresh, until_buried=dead) < STEADY
    assert [stretch.turn for (stretch,) in fresh.duties.adopted] == ["turn_1"]


async def test_a_damaged_stretch_of_a_dead_node_costs_its_own_turn_only(join: Join) -> None:
    dead = await join()
    await dead.begin("a word")
    for turn in ("turn_2", "turn_3"):
        await dead.begin("a word", key=LogKey(f"conv_{turn}"), turn=turn)
    await dead.database.ask("UPDATE log_stretches SET body = 'no stretch' WHERE turn = 'turn_1'")
    await dead.database.ask("UPDATE log_stretches SET first = -7 WHERE turn = 'turn_2'")  # what follows does not fit
    await dead.silent()
    fresh = await join()
    await _rounds(fresh, until_buried=dead)
    assert [stretch.turn for (stretch,) in fresh.duties.adopted] == ["turn_3"]
    assert sorted(fresh.duties.lost) == ["turn_1", "turn_2"]
    assert await fresh.database.ask("SELECT turn FROM log_stretches") == [("turn_3",)]


async def test_a_damaged_batch_of_a_dead_node_costs_only_turns_that_were_not_saved_since(join: Join) -> None:
    dead, damaged = await join(), await join()
    for member, turn in ((dead, "turn_1"), (damaged, "turn_2"), (damaged, "turn_3")):
        await member.begin("a word", key=LogKey(f"conv_{turn}"), turn=turn)
    await dead.database.ask("UPDATE log_batches SET body = 'no batch' WHERE node = %s", damaged.journal.licence.node)
    await dead.database.ask("UPDATE log_stretches SET batch = 99 WHERE turn = 'turn_3'")
    for member in (damaged, dead):
        await member.silent()
    fresh = await join()
    await _rounds(fresh, until_buried=dead)
    assert {stretch.turn for found in fresh.duties.adopted for stretch in found} == {"turn_1", "turn_3"}


async def test_a_damaged_stretch_that_waits_to_be_adopted_costs_its_own_turn_only(join: Join) -> None:
    dead, fresh = await join(), await join()
    for turn in ("turn_1", "turn_2"):
        await dead.begin("a word", key=LogKey(f"conv_{turn}"), turn=turn)
    await dead.die()
    await fresh.database.ask("UPDATE log_stretches SET body = 'no stretch' WHERE turn = 'turn_1'")
    await fresh.round()
    assert [stretch.turn for (stretch,) in fresh.duties.adopted] == ["turn_2"]
    assert fresh.duties.lost == ["turn_1"]
    assert await fresh.database.ask("SELECT turn FROM log_stretches") == [("turn_2",)]


async def test_a_node_that_starts_among_others_leaves_them_the_time_that_running_nodes_leave(join: Join) -> None:
    slow, quick = await join(), await join()
    for member in (slow, quick):
        await member.silent()
    fresh = await join()
    assert await quick.lives()
    assert await _rounds(fresh, until_buried=slow) > STEADY
    assert await quick.lives()


async def test_a_node_that_cannot_report_says_that_it_counts_none(join: Join, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if it has nothing to write meanwhile, and so does not learn that others may take its place."""

    async def away() -> int:
        raise JournalError("PostgreSQL does not answer")

    node = await join()
    await node.round()
    assert node.registry.get_sample_value("gateway_nodes") == 1
    monkeypatch.setattr(node.journal.licence, "renew", away)
    for seconds, counted in ((0.0, 1), (STEADY + 0.1, 0)):
        await asyncio.sleep(seconds)  # for so long it can't report
        with pytest.raises(JournalError):
            await node.round()
        assert node.registry.get_sample_value("gateway_nodes") == counted


async def test_an_operators_command_that_was_killed_is_not_counted_as_a_node_that_died(
    join: Join, postgres: PostgresServer, ledger: Ledger
) -> None:
    node = await join()
    command = PostgresJournal(node.url, ledger=ledger, visits=True)
    await command.open()
    await node.database.ask("UPDATE log_nodes SET beat = beat - interval '1 hour' WHERE id = %s", command.licence.node)
    assert await node.journal.licence.bury_the_dead() == 0
    assert not await node.journal.licence.silent()
    await command.close()
