"""Notifications: events that tell a shop's staff about turns. They are kept and resumed like other events."""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, NamedTuple, Protocol
from weakref import WeakValueDictionary

import structlog

from gateway.errors import Code, GatewayError
from gateway.events import Notification
from gateway.ids import LogKey, shop_log
from gateway.log.journal import JournalError
from gateway.log.log import EventLog
from gateway.log.tail import Tail
from gateway.log.writer import Writer
from gateway.telemetry.faults import Faults
from gateway.turns.asking import NotifyAsked, ask, until_taken_over
from gateway.turns.others import Nobody, Others

logger = structlog.get_logger()

PREVIEW = 80
_MOST_WAITING = 1000  # notifications of one shop that wait until the log, or another node, takes them
_PATIENCE = 300.0  # seconds for which a notification is tried again; nobody waits for it
_CLOCKS = 60.0  # seconds by which the clocks of two nodes may differ
_MOST_TOLD = 10_000  # notifications that are remembered, so that none of them is written twice
_ROLL_AFTER = 200  # events after which a shop's stretch is closed, so that retention can remove it


class Told(Protocol):
    """Is called once a notification is written, or given up: in the tick in which it is appended if this node does that
    for a turn of its own, so that one commit holds both. Is called without `done` if it was lost after that."""

    def __call__(self, done: bool = True) -> None: ...


class _Waiting(NamedTuple):
    """A notification that waits, and the term in which it began to."""

    asked: NotifyAsked
    told: Told
    term: int


class Notifications:
    """Appends to shops' logs. A shop's log is a sequence of stretches without a turn, each closed by size or age.

    While a node has an open stretch in a shop's log, that log is claimed by it. Other nodes send it their
    notifications, one after the other.
    """

    def __init__(
        self,
        log: EventLog,
        *,
        retention: float,
        clock: Callable[[], float],
        faults: Faults | None = None,
        others: Others | None = None,
    ) -> None:
        self._log = log
        self._others = others or Nobody()
        self._waiting: dict[str, deque[_Waiting]] = {}  # by shop
        self._unsure: dict[Writer, deque[tuple[int, _Waiting]]] = {}  # what may not be durable, by its sequence
        self._writing: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()  # by shop
        self._told: dict[tuple[str, str, str], None] = {}  # shop, turn and type of what had waited and is written
        self._tasks: set[asyncio.Task[None]] = set()
        self._roll_seconds = min(60.0, retention / 4)
        self._clock = clock
        self._faults = faults or Faults()
        self._open: dict[str, tuple[Writer, float]] = {}

    async def publish(self, shop: str, notification: Notification, told: Told) -> None:
        """Notifies a shop's staff, and calls `told` then. While that fails it is tried again; if it fails for too long,
        the notification is lost, and a log line says so. Never raises."""
        asked = NotifyAsked(shop, notification, at=self._clock())
        waiting = _Waiting(asked, told, self._others.term)
        if shop in self._waiting or (self._others.any and shop not in self._open):
            return self._line_up(waiting)
        try:
            await self._publish(waiting)
        except JournalError:
            self._line_up(waiting)
        except Exception as error:
            self._faults.broke("notify", error)
            told()
        return None

    def repeat(self, shop: str, notification: Notification, told: Told, *, at: float) -> None:
        """Notifies a shop's staff in the place of a former process, unless that has done so since the time `at`."""
        self._line_up(_Waiting(NotifyAsked(shop, notification, again=True, at=at), told, self._others.term))

    async def _publish(self, waiting: _Waiting) -> None:
        shop = waiting.asked.shop
        writer, sequence = self._append(shop, await self._log.shelf.tail(shop_log(shop)), waiting.asked.notification)
        waiting.told()
        unsure = self._unsure.setdefault(writer, deque())
        while unsure and unsure[0][0] <= writer.stretch.last:
            unsure.popleft()
        unsure.append((sequence, waiting))

    def _append(self, shop: str, tail: Tail, notification: Notification) -> tuple[Writer, int]:
        """Returns the writer and the notification's sequence."""
        writer, since = self._open.get(shop, (None, 0.0))
        if writer is None:
            writer, since = self._log.begin(tail, "", owner=self), self._clock()
            self._open[shop] = writer, since
            self._others.hold(tail.key)
            self._unsure = {one: left for one, left in self._unsure.items() if one.stretch.ended is None}
        sequence = tail.next
        writer.append(notification)
        if tail.next - writer.stretch.first >= _ROLL_AFTER:
            self._end(shop)
        return writer, sequence

    def roll(self) -> None:
        """Closes stretches that are old enough. Called every few seconds."""
        for shop, (_, since) in list(self._open.items()):
            if self._clock() - since >= self._roll_seconds:
                try:
                    self._end(shop)
                except Exception as error:
                    self._faults.broke("notify", error)

    def lost(self, writer: Writer, error: JournalError) -> None:
        """The log lost records of a stretch. If its beginning was among them, the stretch no longer exists."""
        self._forget(writer)
        for sequence, waiting in self._unsure.pop(writer, ()):
            if sequence > writer.stretch.last:
                waiting.told(done=False)
                self._line_up(waiting)
        if writer.stretch.last >= writer.stretch.first and writer.stretch.ended is None:
            writer.owe()

    @property
    def about(self) -> dict[str, str]:
        return {}

    def fenced(self, writer: Writer) -> None:
        """Another process notifies the shop's staff from now on, also of what it finds that they were not told."""
        self._forget(writer)
        self._unsure.pop(writer, None)

    def _forget(self, writer: Writer) -> None:
        for shop, (ours, _) in list(self._open.items()):
            if ours is writer:
                del self._open[shop]
                self._others.release(writer.tail.key)

    def _end(self, shop: str) -> None:
        writer, _ = self._open.pop(shop)
        writer.end()
        if self._others.any:
            self._track(self._release(writer.tail.key, self._others.term))

    # -- over nodes -----------------------------------------------------------------------------------------------

    def adopted(self, writer: Writer) -> None:
        """This node has adopted a dead node's stretch and ended it: releases the shop's log for other nodes."""
        if self._others.any:
            self._others.hold(writer.tail.key)
            self._track(self._release(writer.tail.key, self._others.term))

    async def _release(self, key: LogKey, term: int) -> None:
        """Releases the log once the stretch's end is durable, so that other nodes can claim it."""
        with suppress(GatewayError):
            await self._log.committed()
        self._others.release(key, term)

    def _line_up(self, one: _Waiting) -> None:
        shop = one.asked.shop
        if (waiting := self._waiting.get(shop)) is None:
            waiting = self._waiting[shop] = deque()
            self._track(self._pass_on(shop, waiting))
        waiting.append(one)
        if len(waiting) > _MOST_WAITING:
            waiting.popleft().told()
            logger.warning("notification.lost", reason="too many notifications of the shop wait")

    async def _pass_on(self, shop: str, waiting: deque[_Waiting]) -> None:
        """Writes or passes on what waits, one after the other, in a task of its own, so that no turn waits for that.

        What waited when this node was taken for dead is dropped: whoever adopts those turns tells of them.
        """
        try:
            while waiting:
                one = waiting.popleft()
                try:
                    await self._tell(one)
                except (GatewayError, JournalError) as error:
                    logger.warning("notification.lost", reason=str(error))
                except Exception as error:
                    self._faults.broke("notify", error)
                if one.term == self._others.term:
                    one.told()
        finally:
            del self._waiting[shop]

    async def _tell(self, waiting: _Waiting) -> None:
        asked = waiting.asked

        async def attempt() -> bool | None:
            if waiting.term != self._others.term:
                return True
            if self._log.trouble is not None:
                return None
            try:
                if (node := await self._here(asked)) is None:
                    return True
                answer = await ask(self._others, node, asked)
            except GatewayError:
                answer = None
            asked.again = True  # the node may have written it although it did not answer
            return True if answer is not None and answer.value else None

        await until_taken_over(attempt, within=_PATIENCE)

    async def tell(self, asked: NotifyAsked) -> bool:
        """Notifies for another node. True once that is durable; False if a third node has claimed the shop's log."""
        return await self._here(asked) is None

    async def _here(self, asked: NotifyAsked) -> int | None:
        """Notifies if this node has claimed the shop's log or can claim it. Otherwise returns the node that has."""
        key = shop_log(asked.shop)
        if (node := await self._others.claim(key)) is not None:
            return node
        term = self._others.term
        try:
            async with self._writing.setdefault(asked.shop, asyncio.Lock()):
                await self._write(asked, key, term)
        except JournalError as error:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error)) from error
        finally:
            self._others.release(key, term)
        return None

    async def _write(self, asked: NotifyAsked, key: LogKey, term: int) -> None:
        """Writes a notification only once: a node that gave up waiting asks again, and its first question may come."""
        told = asked.shop, asked.notification.turn_id, asked.notification.type
        if told in self._told:
            return
        shelf = self._log.shelf
        tail = await shelf.tail(key, newest=asked.shop not in self._open)
        tail.users.add(asked)
        try:
            if not (asked.again and await self._was_told(tail, asked)):
                if self._log.fenced or self._others.term != term:  # another node may have claimed the shop's log
                    raise GatewayError(Code.STORAGE_UNAVAILABLE, "this node was taken for dead")
                writer, sequence = self._append(asked.shop, tail, asked.notification)
                await self._log.committed()
                if writer.stretch.last < sequence:
                    raise GatewayError(Code.STORAGE_UNAVAILABLE, "the shop's log could not be written")
        finally:
            shelf.drop(tail, asked)
        self._told[told] = None
        if len(self._told) > _MOST_TOLD:
            del self._told[next(iter(self._told))]

    async def _was_told(self, tail: Tail, asked: NotifyAsked) -> bool:
        """Whether the log has the notification already: a turn has one of each type."""
        await self._log.committed()
        wanted = asked.notification.type, asked.notification.turn_id
        since = (asked.at or self._clock() - _PATIENCE) - _CLOCKS
        for span in reversed(tail.spans):
            if (stretch := await self._log.shelf.load(span)) is None:
                continue
            if stretch.ended is not None and stretch.ended < since:
                break
            events = (entry.event for entry in stretch.read(after=0))
            if any(isinstance(event, Notification) and (event.type, event.turn_id) == wanted for event in events):
                return True
        return False

    def _track(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def close(self) -> None:
        """Notifications that still wait are dropped: whoever goes on with their turns, or finds them ended, tells of
        them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
