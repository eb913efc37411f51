"""Saving: stretches on their way into PostgreSQL, many in one statement, because all commits wait meanwhile."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from gateway.log.journal import Fenced
from gateway.log.packing import pack
from gateway.log.rows import LIVES
from gateway.log.stretch import Stretch
from gateway.postgres.link import Execute

FENCED: Final = "another node has taken over this one's turns"

GIVEN: Final = (
    "given AS (SELECT * FROM"
    " unnest(%s::bigint[], %s::text[], %s::text[], %s::bigint[], %b::bytea[], %b::bytea[], %s::float8[])"
    " AS given (number, key, epochs, last, state, body, ended))"
)
"""A portion of stretches, as a table."""

HEADS: Final = (
    "heads AS (INSERT INTO log_heads (key, epochs, head)"
    " SELECT DISTINCT ON (key) key, epochs, last FROM saved ORDER BY key, last DESC"
    " ON CONFLICT (key) DO UPDATE SET epochs = excluded.epochs, head = excluded.head"
    " WHERE excluded.head >= log_heads.head)"
)
"""The heads of the logs whose stretches are in `saved`."""

_SAVE = (
    f"WITH {LIVES}, {GIVEN},"
    " saved AS (UPDATE log_stretches AS s SET epochs = given.epochs, last = given.last, state = given.state,"
    " body = given.body, batch = %s, ended = given.ended, kept = given.ended IS NOT NULL,"
    " kept_at = CASE WHEN given.ended IS NOT NULL THEN now() END, node = CASE WHEN given.ended IS NULL THEN s.node END"
    " FROM given WHERE s.number = given.number AND s.node = (SELECT id FROM lives) AND s.batch <= %s"
    f" RETURNING given.key, given.epochs, given.last), {HEADS}"
    " SELECT set_config('synchronous_commit', 'off', true) FROM lives"
)
"""Returns no rows without the licence. Does not wait for the disk, because the batches stay until a later write, which
does wait, drops them. A save that comes late, over a connection that was given up, changes nothing."""

_AT_ONCE = 100
_AT_ONCE_BYTES = 1024 * 1024

Portion = list[Any]
"""The columns of `GIVEN`."""


def portions(stretches: Iterable[Stretch]) -> Iterator[tuple[Portion, int]]:
    """These stretches as they are now, some at a time, and how many bytes each portion has."""
    rows: list[tuple[Any, ...]] = []
    size = 0
    for s in stretches:
        body = pack(s)
        rows.append((s.number, s.key, s.epochs, s.last, s.state, body, s.ended))
        size += len(body) + len(s.state)
        if size >= _AT_ONCE_BYTES or len(rows) == _AT_ONCE:
            yield _columns(rows), size
            rows, size = [], 0
    if rows:
        yield _columns(rows), size


def _columns(rows: list[tuple[Any, ...]]) -> Portion:
    return [list(column) for column in zip(*rows, strict=True)]


class Saving:
    """A node's stretches as they are now, with everything up to `batch`. Called in a transaction, once or again."""

    def __init__(self, node: int, batch: int, stretches: Sequence[Stretch]) -> None:
        self._node = node
        self._batch = batch
        found = list(portions(stretches))
        self._portions = [portion for portion, _ in found]
        self.size = sum(size for _, size in found)
        """In bytes."""

    async def __call__(self, run: Execute) -> None:
        """Skips what another node has erased. Raises `Fenced`."""
        for portion in self._portions:
            if not await run(_SAVE, (self._node, *portion, self._batch, self._batch)):
                raise Fenced(FENCED)

    @property
    def is_one_statement(self) -> bool:
        return len(self._portions) == 1

    def __repr__(self) -> str:
        return f"Saving({len(self._portions)} portions of {self.size} bytes)"
