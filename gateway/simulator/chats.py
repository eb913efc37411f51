"""The chats that were started: kept for an hour, and on disk so that a restarted simulator knows them too."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import structlog

from gateway.simulator.objects import Chat, Frame, Json, Outcome, Status

KEPT_SECONDS = 3600.0
KEPT_AT_MOST = 10_000
"""How many chats are kept: about 10 MB of short questions. Beyond that the oldest are dropped, even if they run."""

_SPARE_LINES = 1000

_log = structlog.get_logger(__name__)


class Performance(Protocol):
    """One stream of a chat, composed from its request or read from a recording."""

    @property
    def begins(self) -> float: ...
    @property
    def ends(self) -> float: ...
    @property
    def outcome(self) -> Outcome: ...
    def frames(self) -> Iterator[Frame]: ...
    def messages(self, until: float) -> list[Json]: ...
    def state(self, status: Status) -> Json: ...


Perform = Callable[[Chat], Performance]


class ChatFile:
    """One JSON line for each change of a chat; the last one counts. Survives `kill -9`, but not a loss of power.

    If the disk can't be written, that is logged once, and chats go on; only a restart will not remember them.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = 0
        self._complained = False

    def load(self) -> dict[str, Chat]:
        """The chats by id, in the order of their start. Lines that can't be read, such as a torn last one, are left
        out."""
        chats: dict[str, Chat] = {}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return chats
        for line in data.splitlines():
            self._lines += 1
            try:
                chat = msgspec.json.decode(line, type=Chat)
            except msgspec.DecodeError:
                continue
            chats[chat.id] = chat
        return chats

    def append(self, chat: Chat) -> None:
        self._lines += 1
        try:
            with self._path.open("ab") as file:
                file.write(b"\n" + msgspec.json.encode(chat))
        except OSError as error:
            self._complain(error)

    def compact(self, chats: dict[str, Chat]) -> None:
        """Rewrites the file with only these chats, if it has many more lines than that."""
        if self._lines <= 4 * len(chats) + _SPARE_LINES:
            return
        fresh = self._path.with_suffix(".new")
        try:
            fresh.write_bytes(b"\n".join(map(msgspec.json.encode, chats.values())))
            os.replace(fresh, self._path)
        except OSError as error:
            self._complain(error)
        self._lines = len(chats)

    def _complain(self, error: OSError) -> None:
        if not self._complained:
            self._complained = True
            _log.warning("simulator.file_unwritable", path=str(self._path), error=str(error))


class Chats:
    """All chats of the last hour. A chat's state is never stored: it follows from its request and the clock."""

    def __init__(self, perform: Perform, clock: Callable[[], float], file: ChatFile | None) -> None:
        self._perform = perform
        self._clock = clock
        self._file = file
        self._chats = file.load() if file is not None else {}
        self._latest = {chat.conversation_id: chat.id for chat in self._chats.values()}
        self._sweep()

    def __len__(self) -> int:
        return len(self._chats)

    def get(self, conversation_id: str, chat_id: str) -> Chat | None:
        chat = self._chats.get(chat_id)
        return chat if chat is not None and chat.conversation_id == conversation_id else None

    def keep(self, chat: Chat) -> None:
        """Adds a chat, or replaces its older state."""
        self._sweep()
        self._chats[chat.id] = chat
        self._latest[chat.conversation_id] = chat.id
        if self._file is not None:
            self._file.append(chat)

    def status(self, chat: Chat) -> Status:
        if chat.canceled_at is not None:
            return "canceled"
        performance = self._perform(chat)
        return performance.outcome.status if self._elapsed(performance) >= performance.ends else "in_progress"

    def is_busy(self, conversation_id: str) -> bool:
        chat = self._chats.get(self._latest.get(conversation_id, ""))
        return chat is not None and self.status(chat) == "in_progress"

    def state(self, chat: Chat) -> Json:
        return self._perform(chat).state(self.status(chat))

    def messages(self, chat: Chat) -> list[Json]:
        """What the chat has said so far, including what it said before its tools' outputs."""
        found = self._perform(chat)
        until = self._elapsed(found)
        if chat.canceled_at is not None:
            until = min(until, chat.canceled_at - found.begins)
        earlier: list[Json] = []
        if chat.resumed_at is not None:
            before = msgspec.structs.replace(chat, resumed_at=None, outputs=())
            earlier = self._perform(before).messages(chat.resumed_at - chat.started_at)
        return earlier + found.messages(until)

    def has_message(self, conversation_id: str, message_id: str) -> bool:
        """Whether a chat of the conversation has said that message."""
        return any(
            message["id"] == message_id
            for chat in self._chats.values()
            if chat.conversation_id == conversation_id
            for message in self.messages(chat)
        )

    def _elapsed(self, performance: Performance) -> float:
        return self._clock() - performance.begins

    def _sweep(self) -> None:
        """Forgets chats that are too old. They are in the order of their start, so this looks only at those it
        drops."""
        oldest = self._clock() - KEPT_SECONDS
        while self._chats:
            chat = next(iter(self._chats.values()))
            if chat.started_at >= oldest and len(self._chats) < KEPT_AT_MOST:
                break
            del self._chats[chat.id]
            if self._latest.get(chat.conversation_id) == chat.id:
                del self._latest[chat.conversation_id]
        if self._file is not None:
            self._file.compact(self._chats)
