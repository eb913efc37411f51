"""News: how the nodes that follow this one hear of its batches, and how it hears of theirs."""

from collections.abc import Collection, Sequence
from time import monotonic
from typing import TYPE_CHECKING

from gateway.nodes.rings import Ring, Rings

if TYPE_CHECKING:
    from gateway.nodes.bus import Bus

_ASKED_FOR = 3.0
"""Seconds. A follower repeats its question once a second; one that has been silent for longer has left."""


class News:
    """Batches go over the bus. Nodes that don't hear them there learn of them by rings.

    A node says again and again which nodes it follows without hearing them on the bus. A node that is named in this
    way rings with each batch for some seconds, and tells the key of its messages on the bus. Without a bus there are
    only rings.
    """

    def __init__(self, rings: Rings, bus: "Bus | None") -> None:
        self._rings = rings
        self._bus = bus

    def committed(self, node: int, number: int, begun: Sequence[str], body: bytes) -> None:
        """A batch of ours is durable."""
        self._rings.committed(node, number, begun)
        if self._bus is not None:
            self._bus.committed(node, number, body)

    async def left(self) -> None:
        """This node has given its licence back. Called after `Rings.close`. Raises nothing."""
        await self._rings.left()

    def follow(self, node: int) -> None:
        """This node begins to follow another one."""
        if self._bus is None or not self._bus.hears(node):
            self._rings.unheard(node)

    def keep(self, nodes: Collection[int]) -> None:
        """This node follows these and no others. To be called once a second."""
        if self._bus is not None:
            self._bus.keep(nodes)
        for node in nodes:
            self.follow(node)

    def heard(self, ring: Ring, me: int) -> None:
        """Another node rang. `me` is the number of this one."""
        if me in ring.unheard:
            self._ring_for_a_while(me)

    def spoken(self, ring: Ring) -> None:
        """A node rang that this one follows."""
        if ring.key and self._bus is not None:
            self._bus.follow(ring.node, ring.key)

    def bus_changed(self, me: int) -> None:
        """The bus came or went: who follows this node has not said yet how it hears."""
        self._ring_for_a_while(me)

    def _ring_for_a_while(self, me: int) -> None:
        until = monotonic() + _ASKED_FOR
        key = b""
        if self._bus is not None:
            self._bus.asked(me, until)
            key = self._bus.key
        self._rings.asked(me, until, key)
