"""Notifications: tell a shop's staff about its turns; they are kept and resumed like events."""

from collections.abc import Callable

import structlog

from gateway.events import Notification
from gateway.ids import shop_log
from gateway.log.journal import JournalError
from gateway.log.log import EventLog
from gateway.log.writer import Writer
from gateway.telemetry.faults import Faults

logger = structlog.get_logger()

PREVIEW = 80
_ROLL_AFTER = 200  # events, after which a shop's stretch is closed, so that retention can take it


class Notifications:
    """Appends to shops' logs. A shop's log is a sequence of stretches without a turn, each closed by size or age."""

    def __init__(
        self, log: EventLog, *, retention: float, clock: Callable[[], float], faults: Faults | None = None
    ) -> None:
        self._log = log
        self._roll_seconds = min(60.0, retention / 4)
        self._clock = clock
        self._faults = faults or Faults()
        self._open: dict[str, tuple[Writer, float]] = {}

    async def publish(self, shop: str, notification: Notification) -> None:
        """Notifies a shop's staff. If that fails, the notification is lost and a log line says so; never raises."""
        try:
            await self._publish(shop, notification)
        except JournalError as error:
            logger.warning("notification.lost", reason=str(error))
        except Exception as error:
            self._faults.broke("notify", error)

    async def _publish(self, shop: str, notification: Notification) -> None:
        tail = await self._log.shelf.tail(shop_log(shop))
        writer, since = self._open.get(shop, (None, 0.0))
        if writer is None:
            writer, since = self._log.begin(tail, "", owner=self), self._clock()
            self._open[shop] = writer, since
        writer.append(notification)
        if tail.next - writer.stretch.first >= _ROLL_AFTER:
            self._end(shop)

    def roll(self) -> None:
        """Closes stretches that are old enough; called now and then."""
        for shop, (_, since) in list(self._open.items()):
            if self._clock() - since >= self._roll_seconds:
                try:
                    self._end(shop)
                except Exception as error:
                    self._faults.broke("notify", error)

    def lost(self, writer: Writer, error: JournalError) -> None:
        """The log lost records of a stretch. If its beginning was among them, the stretch no longer exists."""
        self._forget(writer)
        if writer.stretch.last >= writer.stretch.first and writer.stretch.ended is None:
            writer.owe()

    @property
    def about(self) -> dict[str, str]:
        return {}

    def fenced(self, writer: Writer) -> None:
        """Another process notifies the shop's staff from now on."""
        self._forget(writer)

    def _forget(self, writer: Writer) -> None:
        for shop, (ours, _) in list(self._open.items()):
            if ours is writer:
                del self._open[shop]

    def _end(self, shop: str) -> None:
        writer, _ = self._open.pop(shop)
        writer.end()
