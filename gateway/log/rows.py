"""Rows: what a batch is in PostgreSQL's tables."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec

from gateway.log.journal import BEGIN, END, EPOCHS, Record

LICENCE = "SELECT id FROM log_nodes WHERE id = %s FOR SHARE"
LIVES = f"lives AS ({LICENCE})"

_INSERT = "batch AS (INSERT INTO log_batches (node, number, body) SELECT id, %s, %s FROM lives ON CONFLICT DO NOTHING)"
_COMMIT = f"WITH {LIVES}, {_INSERT} SELECT id FROM lives"
_COMMIT_MORE = (
    # A turn begins only if no other node has the claim and, where a late release took it from this node, no other node
    # has had it meanwhile. The licence is locked first, as it is by the node that takes it away.
    f"WITH licence AS ({LICENCE}),"
    " homes AS (SELECT h.key, h.node, h.head FROM licence, log_heads AS h WHERE h.key = ANY(%s) FOR UPDATE OF h),"
    " lives AS (SELECT id FROM licence WHERE NOT EXISTS (SELECT FROM homes"
    " JOIN unnest(%s::text[], %s::bigint[]) AS begins (home, after) ON home = key"
    " WHERE node <> id OR node IS NULL AND head <> after)),"
    f" {_INSERT}, begun AS (INSERT INTO log_stretches"
    " (node, batch, number, key, home, epochs, first, last, turn, state, mark)"
    " SELECT id, %s, number, key, home, epochs, first, first - 1, turn, state, mark FROM lives,"
    " unnest(%s::bigint[], %s::text[], %s::text[], %s::text[], %s::bigint[], %s::text[], %s::bytea[], %s::text[])"
    " AS begins (number, key, home, epochs, first, turn, state, mark) ON CONFLICT DO NOTHING),"
    " heads AS (INSERT INTO log_heads AS h (key, epochs, head, node)"
    " SELECT key, epochs, head, CASE WHEN held THEN id END FROM lives,"
    " unnest(%s::text[], %s::text[], %s::bigint[], %s::bool[]) AS changed (key, epochs, head, held)"
    " ON CONFLICT (key) DO UPDATE SET"
    " epochs = CASE WHEN excluded.head >= h.head THEN excluded.epochs ELSE h.epochs END,"
    " head = greatest(h.head, excluded.head),"
    " node = coalesce(excluded.node, h.node))"
)
_COMMITTED = " SELECT id FROM lives"

_encode = msgspec.msgpack.Encoder().encode
NUMBERS = 32  # low bits of a stretch's number, which its node counts; the bits above are the node's number


def first_number(node: int) -> int:
    """The number of the first stretch that a node begins."""
    return (node << NUMBERS) + 1


def beginner_of(number: int) -> int:
    """The node that has begun a stretch."""
    return number >> NUMBERS


class Unended(NamedTuple):
    """A stretch that its node has not saved as ended. What it got after `batch` is in later batches. `begun` says that
    the node began it; otherwise the node adopted it."""

    key: str
    epochs: str
    turn: str
    batch: int
    begun: bool = False


class Beginning(NamedTuple):
    """A stretch that begins, as its row."""

    number: int
    key: str
    home: str
    epochs: str
    first: int
    turn: str
    state: bytes
    mark: str


class Rows(NamedTuple):
    """`heads` are the logs in which a stretch begins or ends, by key: epochs, head, and whether it is claimed with it.

    `at_head` are the stretches that begin where their conversation's log ended before the batch. `unended` is what the
    batch changes of the stretches that its node writes, and `ended` are the turns whose stretches it ends.
    """

    number: int
    body: bytes
    begun: list[Beginning]
    heads: dict[str, tuple[str, int, bool]]
    at_head: set[int]
    unended: dict[int, Unended]
    ended: set[str]

    @classmethod
    def of(cls, number: int, batch: list[Record], unended: dict[int, Unended]) -> "Rows":
        begun: list[Beginning] = []
        heads: dict[str, tuple[str, int, bool]] = {}
        at_head: set[int] = set()
        changed: dict[int, Unended] = {}
        over: set[str] = set()
        for stretch, kind, sequence, payload in batch:
            if kind < BEGIN:
                continue  # an event, as nearly all are
            if kind == BEGIN:
                key, epochs, turn, state, mark, home = payload
                begun.append(Beginning(stretch, key, home, epochs, sequence, turn, state, mark))
                if key == home and key not in heads:
                    at_head.add(stretch)
                heads[key] = epochs, sequence - 1, key == home  # nobody claims the log of a turn that waits
                changed[stretch] = Unended(key, epochs, turn, number - 1, begun=True)
            elif kind == EPOCHS:
                changed[stretch] = (changed.get(stretch) or unended[stretch])._replace(epochs=payload)
            elif kind == END and (ended := changed.get(stretch) or unended.get(stretch)) is not None:
                key = ended.key
                heads[key] = ended.epochs, sequence, key in heads and heads[key][2]
                over.add(ended.turn)
        return cls(number, _encode(batch), begun, heads, at_head, changed, over)

    def commit(self, node: int, inserts: str = "", values: Sequence[str] = ()) -> tuple[str, tuple[Any, ...]]:
        """The statement that makes the batch durable, with its values. It finds nothing when the node may not write.
        With `inserts` and their values, as in `Register`, it also writes those."""
        if not self.heads:
            return _COMMIT, (node, self.number, self.body)
        homes = [begun.home for begun in self.begun]
        columns = [list(column) for column in zip(*self.begun, strict=True)] or [[]] * 8
        changed = zip(*([key, *values] for key, values in self.heads.items()), strict=True)
        after = [begun.first - 1 if begun.number in self.at_head else None for begun in self.begun]
        given = (node, homes, homes, after, self.number, self.body, self.number - 1, *columns, *map(list, changed))
        if not values:
            return _COMMIT_MORE + _COMMITTED, given
        return f"{_COMMIT_MORE}, {inserts}{_COMMITTED}", (*given, *values)

    @property
    def ghosts(self) -> list[Beginning]:
        """The beginnings of turns that nobody has heard of, if this batch's reply never comes."""
        return [begun for begun in self.begun if begun.turn and begun.turn not in self.ended]
