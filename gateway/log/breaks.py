"""Breaks: when its connection has broken, a node checks that PostgreSQL still has its writes, and repeats lost ones."""

from collections.abc import Collection
from typing import Any, Final, NamedTuple

from gateway.log.journal import Fenced
from gateway.log.rows import LICENCE, Beginning, Rows, Unended
from gateway.log.written import Written
from gateway.postgres.link import Execute

FORGOTTEN: Final = "PostgreSQL has lost its last moments, and this node can't write them again"

_NEWEST = "SELECT coalesce(max(number), 0) FROM log_batches WHERE node = %s"
_OURS = "SELECT number, batch FROM log_stretches WHERE node = %s AND NOT kept"
_THERE = "SELECT 1 FROM log_stretches WHERE number = ANY(%s)"
_CLAIM = (
    "INSERT INTO log_heads AS h (key, epochs, head, node) VALUES (%s, '', 0, %s)"
    " ON CONFLICT (key) DO UPDATE SET node = coalesce(h.node, excluded.node) RETURNING node, head"
)
_LOCK = (
    "INSERT INTO log_locks AS l (name, node) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET node = excluded.node"
    " WHERE l.node = excluded.node OR NOT EXISTS (SELECT FROM log_nodes WHERE id = l.node) RETURNING node"
)
_UNLOCK = "DELETE FROM log_locks WHERE name = %s AND node = %s"
_MARKED = "SELECT 1 FROM log_stretches WHERE mark = %s AND turn <> %s"


class Known(NamedTuple):
    """What a node knows about itself. It does not know whether the last change to a stretch in `unsure` was made; and
    with `adopting` it does not know which stretches it has."""

    node: int
    batch: int
    unended: dict[int, Unended]
    unsure: Collection[int]
    adopting: bool


async def look_after_break(run: Execute, known: Known, written: Written) -> int:
    """Writes again what PostgreSQL has lost, all or nothing. Returns how many batches, 0 if it has lost none.

    Raises `Fenced` when the node's licence is gone, its turns are not its own, or another node has written in the
    same place. The node must then not go on.
    """
    if not await run(LICENCE, (known.node,)):
        raise Fenced("another node has taken over this one's turns")
    ((newest,),) = await run(_NEWEST, (known.node,))
    if newest >= known.batch and await _is_ours(run, known):
        return 0
    if newest < written.forgotten:
        raise Fenced(FORGOTTEN)
    again = written.after(newest)
    await run("BEGIN")
    if not await run(LICENCE, (known.node,)):
        raise Fenced(FORGOTTEN)
    for what in again:
        if isinstance(what, Rows):
            await write_again(run, known.node, what)
        else:
            await what(run)
    if not await _is_ours(run, known):
        raise Fenced(FORGOTTEN)
    await run("SET LOCAL synchronous_commit TO DEFAULT")  # a save alone need not wait for the disk, but batches must
    await run("COMMIT")
    return sum(isinstance(what, Rows) for what in again)


async def _is_ours(run: Execute, known: Known) -> bool:
    """Whether the database has this node's stretches, and no others, each saved as far as the node saved it."""
    rows: dict[int, Any] = dict(await run(_OURS, (known.node,)))
    missing = {number: one.batch for number, one in known.unended.items() if rows.get(number) != one.batch}
    more = () if known.adopting else rows.keys() - known.unended.keys()
    others = (missing.keys() | more) - set(known.unsure)
    if others and not others & rows.keys() and all(known.unended[number].begun for number in others):
        return not await run(_THERE, (list(others),))  # another node has erased them
    return not others


async def write_again(run: Execute, node: int, rows: Rows) -> list[Any]:
    """Sends a batch a second time, in a transaction. Raises `Fenced` when another node has written where a turn of
    the batch begins: a failover may have lost the claim on the conversation and the lock on the turn's mark."""
    for begun in rows.begun:
        await _require_place(run, node, begun, at_head=begun.number in rows.at_head)
    return await run(*rows.commit(node))


async def _require_place(run: Execute, node: int, begun: Beginning, *, at_head: bool) -> None:
    ((holder, head),) = await run(_CLAIM, (begun.home, node))
    _require(holder == node and (head == begun.first - 1 or not at_head))
    if begun.mark:
        _require(bool(await run(_LOCK, (begun.mark, node))))
        _require(not await run(_MARKED, (begun.mark, begun.turn)))
        await run(_UNLOCK, (begun.mark, node))


def _require(free: bool) -> None:
    if not free:
        raise Fenced("PostgreSQL has lost its last moments, and another node has begun something in their place")
