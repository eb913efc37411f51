"""A burial: a dead node loses its licence, and its batches are folded into its stretches."""

from collections.abc import Collection, Sequence
from typing import Any, Final

import msgspec
import structlog

from gateway.log.outline import checked, legible
from gateway.log.packing import DAMAGED, unpack
from gateway.log.replay import replay
from gateway.log.saving import GIVEN, HEADS, portions
from gateway.log.stretch import Stretch
from gateway.postgres.link import Execute

logger = structlog.get_logger()

COLUMNS: Final = "number, key, epochs, first, turn, mark, ended, state, body"
"""The columns of a stored stretch, in the order in which `stretch_of` takes them."""

_LICENCE = "DELETE FROM log_nodes WHERE id = %s AND beat <= now() - make_interval(secs => %s) RETURNING id"
_ORPHAN = (
    f"WITH {GIVEN}, saved AS (UPDATE log_stretches AS s SET node = NULL, batch = 0, epochs = given.epochs,"
    " last = given.last, state = given.state, body = given.body, ended = given.ended"
    f" FROM given WHERE s.number = given.number RETURNING given.key, given.epochs, given.last), {HEADS} SELECT 1"
)
REMOVE = "DELETE FROM log_stretches WHERE number = ANY(%s) AND node = %s"
_UNCLAIM = (
    "UPDATE log_heads SET node = CASE WHEN key IN (SELECT home FROM log_stretches WHERE node IS NULL AND NOT kept)"
    " THEN %s::bigint END WHERE node = %s"
)
_BATCHES = "SELECT number, body FROM log_batches WHERE node = %s ORDER BY number"

_decode = msgspec.msgpack.Decoder(list[tuple[int, int, int, Any]]).decode


async def bury(run: Execute, *, node: int, silence: float, ghosts: Collection[int] = ()) -> list[str] | None:
    """Buries a node, in one transaction. Does nothing if the node has reported within `silence` seconds that it lives.
    Returns the turns that are lost; None if it was not buried by this.

    Deleting the licence waits for a batch that is under way, and every later batch finds no licence. From then on the
    stretches have no node, until one adopts them. Until then their conversations are marked with the node's negative
    number, so that nobody claims them. Stretches that were erased meanwhile do not come back.
    Its stretches among `ghosts` are deleted, and so are damaged ones. Only the turns of damaged stretches are lost.
    """
    if not await run(_LICENCE, (node, silence)):
        return None  # the node lives, or somebody else has buried it
    if ghosts:
        await run(REMOVE, (list(ghosts), node))
    saved: dict[int, int] = {}
    found: dict[int, Stretch] = {}
    damaged: set[int] = set()
    turns: dict[int, str] = {}
    for batch, *row in await run(f"SELECT batch, {COLUMNS} FROM log_stretches WHERE node = %s", (node,)):
        turns[row[0]] = row[4]
        try:
            found[row[0]], saved[row[0]] = stretch_of(row), batch
        except DAMAGED:
            damaged.add(row[0])
    for number, data in await run(_BATCHES, (node,)):
        try:
            records = _decode(data)
        except DAMAGED:  # any stretch that was not saved since may have records in it
            damaged |= {one for one in found if number > saved[one]}
            records = []
        for record in records:
            if record[0] in found.keys() - damaged and number > saved[record[0]]:
                try:
                    replay(found, record, number)
                except DAMAGED:
                    damaged.add(record[0])
    damaged |= {one for one, stretch in found.items() if legible(stretch) is None}
    if damaged:
        await run(REMOVE, (list(damaged), node))
        logger.error("log.unreadable", stretches=sorted(damaged))
    for portion, _ in portions(stretch for one, stretch in found.items() if one not in damaged):
        await run(_ORPHAN, portion)
    await run(_UNCLAIM, (-node, node))
    for table in ("log_batches", "log_locks"):
        await run(f"DELETE FROM {table} WHERE node = %s", (node,))
    return [turns[number] for number in damaged]


def sound(row: Sequence[Any]) -> Stretch | None:
    """A stored stretch; None if it is damaged."""
    try:
        return checked(stretch_of(row))
    except DAMAGED:
        return None


def stretch_of(row: Sequence[Any]) -> Stretch:
    """A stored stretch. Raises one of `DAMAGED`."""
    number, key, epochs, first, turn, mark, ended, state, body = row
    stretch = Stretch(number, key, epochs, first, turn, state, mark)
    if body:
        unpack(stretch, body)
    stretch.ended = ended
    return stretch
