"""The register: rows about turns, for the store, which the log inserts in the transaction in which the turns begin."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol

from gateway.log.rows import Beginning

Statement = tuple[str, Sequence[Any]]
"""SQL, and its values."""


class Register(Protocol):
    """Tells the log what to insert. A node that finds a turn in the log finds it in the register, too."""

    inserts: str
    """Queries of a WITH clause. They insert nothing if its query `lives` finds nothing; repeated, they change nothing.
    If they fail, the batch is written without them."""

    def values(self, begun: Sequence[Beginning]) -> Sequence[str]:
        """The values of `inserts`, or nothing if these stretches are of no turn."""

    def removing(self, begun: Sequence[Beginning]) -> Iterable[Statement]:
        """Statements that remove turns that began, but of which nobody was told."""
