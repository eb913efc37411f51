"""Naming: what Coze calls a conversation, and which turns may still learn that name."""

import asyncio
from collections.abc import Callable
from weakref import WeakValueDictionary

import structlog

from gateway.errors import GatewayError
from gateway.ids import ConversationId
from gateway.store.store import Store
from gateway.turns.orders import Note

logger = structlog.get_logger()


class Naming:
    """Shared by the live turns of one conversation, so that all of them go to one conversation of Coze's.

    `version` counts the names. Wherever a name is kept, a higher version replaces a lower one, in whatever order they
    arrive. 0 means that Coze has given no name yet. `on_change` is called whenever the name has changed.
    """

    __slots__ = (
        "__weakref__",
        "_asked",
        "_asking",
        "_heard",
        "_news",
        "_on_change",
        "conversation_id",
        "name",
        "version",
    )

    def __init__(self, conversation_id: ConversationId, on_change: Callable[["Naming"], None]) -> None:
        self.conversation_id = conversation_id
        self.name = ""
        self.version = 0
        self._on_change = on_change
        self._asked = 0  # how often Coze was asked
        self._heard = 0  # the newest of these questions that was answered with a name
        self._asking: set[int] = set()  # the questions that may still be answered with one
        self._news: asyncio.Future[None] | None = None

    def known(self, name: str, version: int) -> None:
        """Takes a name that was kept somewhere. A name that is older than the known one changes nothing."""
        if version > self.version:
            self.name, self.version = name, version
            self._wake()

    def ask(self) -> int:
        """A message is about to be sent. The returned number identifies this question until it is `over`."""
        self._asked += 1
        if not self.name:
            self._asking.add(self._asked)
        return self._asked

    def told(self, question: int, name: str) -> None:
        """Coze's answer says what it calls the conversation. A late answer to an older question changes nothing."""
        self._asking.discard(question)
        if question > self._heard and name:
            self._heard = question
            if name != self.name:
                self._become(name)
        self._wake()

    def over(self, question: int) -> None:
        """This question will not be answered with a name any more. Idempotent."""
        if question in self._asking:
            self._asking.discard(question)
            self._wake()

    def gone(self, name: str) -> bool:
        """Coze has no conversation of this name: the next message starts a new one. False if there was no name."""
        if name and name == self.name:
            self._heard = self._asked
            self._become("")
        return bool(name)

    def awaited(self) -> "asyncio.Future[None] | None":
        """Done at the next news while a question may still be answered; None if there is nothing to wait for.

        The future is shared: wait for it through `asyncio.wait`, which doesn't cancel it when the waiter is cancelled.
        """
        if self.name or not self._asking:
            return None
        if self._news is None:
            self._news = asyncio.get_running_loop().create_future()
        return self._news

    def _become(self, name: str) -> None:
        self.name = name
        self.version += 1
        self._wake()
        self._on_change(self)

    def _wake(self) -> None:
        if self._news is not None:
            self._news.set_result(None)
            self._news = None

    def __repr__(self) -> str:
        return f"Naming({self.conversation_id} is {self.name!r}, version {self.version}, {len(self._asking)} asking)"


class Namings:
    """The naming of each conversation that has live turns; the turns keep it alive. The store gets each name at
    once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._namings: WeakValueDictionary[str, Naming] = WeakValueDictionary()

    def of(self, conversation_id: ConversationId) -> Naming:
        """A caller that holds the naming while it reads the store misses nothing that a turn learns in the meantime."""
        naming = self._namings.get(conversation_id)
        if naming is None:
            naming = self._namings[conversation_id] = Naming(conversation_id, self._keep)
        return naming

    def recall(self, note: Note) -> Naming:
        """Takes the conversation's name that a turn of a former process knew; the store may not have it."""
        naming = self.of(ConversationId(note.conversation_id))
        if note.coze_conversation_id or note.naming:
            naming.known(note.coze_conversation_id, note.naming or 1)
            self._keep(naming)
        return naming

    async def read(self, naming: Naming) -> None:
        """Takes the name that the store has, if no turn in the log has one."""
        try:
            if not naming.version and (row := await self._store.conversation(naming.conversation_id)) is not None:
                naming.known(row.coze_conversation_id, row.naming)
        except GatewayError as error:
            logger.warning("conversation.name_not_readable", reason=str(error))

    def _keep(self, naming: Naming) -> None:
        self._store.name(naming.conversation_id, naming.name, naming.version)
