"""The register: what somebody else keeps of turns, written by the log in the transaction in which they begin."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from gateway.log.rows import Beginning

Statement = tuple[str, Sequence[Any]]
"""SQL, and its values."""


class Register(Protocol):
    """Tells the log what to insert. A node that finds a turn in the log finds it in the register, too."""

    inserts: str
    """Queries of a WITH clause, which insert nothing if its query `lives` finds nothing, and repeated change nothing.
    If they fail, the batch is written without them."""

    def values(self, begun: Sequence[Beginning]) -> Sequence[str]:
        """The values of `inserts`, or nothing if these stretches are of no turn."""

    def removing(self, begun: Sequence[Beginning]) -> Iterable[Statement]:
        """What removes turns that were begun, and that nobody was told of."""
