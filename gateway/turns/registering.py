"""Registering: the store's rows of turns that begin, as the log in PostgreSQL inserts them."""

from collections.abc import Iterable, Sequence

from gateway.log.register import Statement
from gateway.log.rows import Beginning
from gateway.store import beginnings
from gateway.turns.orders import read_note
from gateway.turns.projection import begun as beginning


class TurnRegister:
    """See `Register`. Once a client has read `started`, any node that it asks finds the turn in the store."""

    inserts = beginnings.INSERTS

    def values(self, begun: Sequence[Beginning]) -> Sequence[str]:
        turns = [beginning(one.turn, read_note(one.state)) for one in begun if one.turn]
        return beginnings.values(turns) if turns else ()

    def removing(self, begun: Sequence[Beginning]) -> Iterable[Statement]:
        return beginnings.removing([one.turn for one in begun], [one.home for one in begun])
