"""A watch: what a journal in PostgreSQL tells other nodes, and the metrics, about its commits."""

from collections.abc import Sequence
from typing import Protocol


class Watch(Protocol):
    """Tells the other nodes what happens at this one."""

    def committed(self, node: int, number: int, begun: Sequence[str], body: bytes) -> None:
        """A node's batch is durable, with this body. `begun` are the keys of the logs in which it begins a stretch."""

    async def left(self) -> None:
        """This node has given its licence back. Raises nothing."""


class Told(Protocol):
    """Who counts what happens here."""

    def log_committed(self, seconds: float) -> None: ...
    def batches_written_again(self, times: int) -> None: ...
