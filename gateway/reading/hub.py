"""The hub: the face of the reading side. It gives cursors, and serves connections that are attached as outlets."""

import asyncio

from gateway.errors import Code
from gateway.ids import LogKey, Position
from gateway.log.shelf import Shelf
from gateway.log.tail import Tail
from gateway.reading.delivered import Delivered
from gateway.reading.delivery import Delivery
from gateway.reading.heartbeats import Heartbeats
from gateway.reading.outlet import Heart, Outlet
from gateway.reading.serving import Serving
from gateway.reading.subscribing import Audience, Subscriptions
from gateway.reading.subscription import Subscription
from gateway.reading.unsent import Unsent
from gateway.telemetry.faults import Faults
from gateway.telemetry.ledger import Ledger
from gateway.telemetry.observer import UNHEARD, Observer
from gateway.telemetry.words import Part


class Hub:
    """Knows who listens to which log: it joins subscriptions, the delivery of news to outlets, and heartbeats.

    If our own code fails at a reader, that reader is told so and cut; the others are served.
    """

    def __init__(
        self,
        shelf: Shelf,
        *,
        ledger: Ledger,
        heartbeat: float,
        observer: Observer = UNHEARD,
        unsent: Unsent | None = None,
        faults: Faults | None = None,
        audience: Audience | None = None,
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.unsent = unsent or Unsent()
        self._faults = faults or Faults(observer)
        loop = loop or asyncio.get_running_loop()
        delivered = Delivered(observer, self._faults)
        self._subscriptions = Subscriptions(shelf, ledger=ledger, audience=audience)
        self._serving = Serving(unsent=self.unsent, ledger=ledger, delivered=delivered, cutting=self, loop=loop)
        self._delivery = Delivery(self._serving, delivered=delivered, loop=loop)
        self._heartbeats = Heartbeats(heartbeat, cutting=self, delivered=delivered, loop=loop)

    # -- cursors --------------------------------------------------------------------------------------------------

    async def subscribe(self, key: LogKey, *, asked: str | None, turn: str | None = None) -> tuple[Subscription, bool]:
        """A cursor, and whether it continues exactly; see `Subscriptions.subscribe`. Raises `JournalError`."""
        return await self._subscriptions.subscribe(key, asked=asked, turn=turn)

    def apart(self, key: LogKey, turn: str, at: Position) -> Subscription:
        """A cursor for a turn whose events are not kept: over a tail of its own, in which its last event is `at`."""
        return self._subscriptions.apart(key, turn, at)

    def redirect(self, turn: str, old: Tail, new: Tail) -> None:
        """Moves the readers of a queued turn, which will never appear in its conversation's log, to the turn's own
        log."""
        self._delivery.redirect(turn, old, new)
        self._subscriptions.redirect(turn, old, new)
        old.news()
        self._delivery.news(new)

    def dismiss(self, tail: Tail) -> None:
        """The log is gone: gives its readers what is left of it, and tells them to go."""
        self._delivery.dismiss(tail)
        self._subscriptions.dismiss(tail)
        tail.news()

    # -- connections ----------------------------------------------------------------------------------------------

    def attach(self, outlet: Outlet) -> None:
        """Serves the outlet from now on, beginning with the events that are there already."""
        self._delivery.add(outlet)
        self._heartbeats.join(outlet)
        self._serving.serve(outlet)
        if outlet.subscription.gone and outlet.subscription.turn is None and not outlet.subscription.closed:
            outlet.farewell(Code.NOT_FOUND)  # its log was erased between the subscription and this
        elif self.closing and not outlet.subscription.closed:
            outlet.farewell(Code.DRAINING)  # all others have been told so already

    def detach(self, outlet: Outlet) -> None:
        """Forgets the outlet and closes its subscription. Idempotent."""
        self._heartbeats.leave(outlet)
        self._serving.forget(outlet)
        self._delivery.remove(outlet)
        outlet.subscription.close()

    def serve(self, outlet: Outlet) -> None:
        """The outlet is ready for more: gives it the events that it lacks."""
        self._serving.serve(outlet)

    def join(self, heart: Heart) -> None:
        """Sends the heart heartbeats from now on, and tells it when the gateway stops."""
        self._heartbeats.join(heart)
        if self.closing:
            heart.farewell(Code.DRAINING)

    def leave(self, heart: Heart) -> None:
        """Forgets the heart. Idempotent."""
        self._heartbeats.leave(heart)

    def cut(self, heart: Heart, part: Part, error: Exception) -> None:
        """Our own code failed at this reader: it is told so, and no longer served."""
        self._faults.broke(part, error)
        try:
            heart.farewell(Code.INTERNAL)
        except Exception as again:
            self._faults.broke(part, again)
        if getattr(heart, "subscription", None) is not None:
            self.detach(heart)  # type: ignore[arg-type]
        else:
            self.leave(heart)

    # -- the end --------------------------------------------------------------------------------------------------

    @property
    def draining(self) -> bool:
        """Whether readers are told to come back."""
        return self._subscriptions.draining

    @property
    def closing(self) -> bool:
        """Whether readers whose turn still runs are told to come back, too."""
        return self._subscriptions.closing

    def drain(self, *, also_running: bool = False) -> None:
        """Tells idle readers to come back; with `also_running`, also readers whose turn still runs."""
        self._subscriptions.drain(also_running=also_running)
        self._heartbeats.drain(also_running=also_running)
        self._subscriptions.wake()

    async def close(self) -> None:
        self._heartbeats.close()
        self.unsent.close()
        await self._serving.close()

    def __repr__(self) -> str:
        return f"Hub({self._subscriptions}, {self._delivery}, {self._serving}, {self._heartbeats})"
