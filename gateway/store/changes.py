"""Changes that wait to be committed together; of each turn only the newest state."""

import msgspec
from msgspec import UNSET, UnsetType

from gateway.ids import ConversationId, TurnId
from gateway.status import ENDED
from gateway.store.rows import Asked, ConversationRow, Feedback, TurnBegun, TurnRow, TurnUpdate, replaces


class Pending:
    """The writes that wait for one turn: its beginning, its newest state, and what its user thinks of the answer."""

    __slots__ = ("answered_at", "begun", "feedback", "rated_at", "update")

    def __init__(self) -> None:
        self.feedback: Feedback | None = None
        self.rated_at: float | None = None
        self.begun: TurnBegun | None = None
        self.update: TurnUpdate | None = None
        self.answered_at: float | None = None

    @property
    def conversation_id(self) -> ConversationId | None:
        state = self.begun or self.update
        return None if state is None else state.conversation_id

    @property
    def size(self) -> int:
        asked = 0 if self.begun is None else len(self.begun.message)
        return asked + (0 if self.update is None else len(self.update.content) + len(self.update.reasoning)) + 1000

    def rate(self, feedback: Feedback | None, rated_at: float | None) -> None:
        """`rated_at` is when it was written the first time, by the database's clock; None while it never was."""
        self.feedback, self.rated_at = feedback, rated_at

    def rated(self, at: float | None) -> None:
        """The feedback was written; None if there is no such turn."""
        self.rate(self.feedback if at is not None else None, at)

    def take(self, update: TurnUpdate) -> None:
        if self.update is None or replaces(update.status, self.update.status):
            self.update = update
            if self.answered_at is None and (update.content or update.status in ENDED):
                self.answered_at = update.updated_at

    def over(self, row: TurnRow | None) -> TurnRow | None:
        """The turn's row after these writes, given the database's row; None if the turn never began."""
        if row is None and (begun := self.begun) is not None:
            row = TurnRow(**msgspec.structs.asdict(begun), updated_at=begun.created_at)
        if row is None or (update := self.update) is None or not replaces(update.status, row.status):
            return row
        return msgspec.structs.replace(row, **msgspec.structs.asdict(update))


class PendingConversation:
    """The writes that wait for one conversation: its beginning, Coze's newest id for it, and its title."""

    __slots__ = ("begun", "coze_conversation_id", "naming", "title", "titled_at")

    def __init__(self) -> None:
        self.begun: TurnBegun | None = None
        self.coze_conversation_id = ""
        self.naming = 0
        self.title: str | UnsetType | None = UNSET
        self.titled_at: float | None = None

    def rename(self, title: str | UnsetType | None, titled_at: float | None) -> None:
        """`titled_at` is as in `Pending.rate`."""
        self.title, self.titled_at = title, titled_at

    def titled(self, at: float | None) -> None:
        """The title was written; None if there is no such conversation."""
        self.rename(self.title if at is not None else UNSET, at)

    def name(self, coze_conversation_id: str, naming: int) -> None:
        if naming > self.naming:
            self.coze_conversation_id, self.naming = coze_conversation_id, naming

    def over(self, row: ConversationRow | None) -> ConversationRow | None:
        """The conversation's row after these writes. Its owner and bot are always those of its first turn."""
        if row is None and (begun := self.begun) is not None:
            row = ConversationRow(
                begun.conversation_id, begun.user_id, begun.shop_id, begun.bot_id, "", begun.created_at
            )
        if row is not None and self.naming > row.naming:
            row = msgspec.structs.replace(row, coze_conversation_id=self.coze_conversation_id, naming=self.naming)
        if row is not None and self.title is not UNSET:
            row = msgspec.structs.replace(row, title=self.title)
        return row


class Changes:
    """Bounded by the number of turns, whatever the number of writes. Keeps the order in which turns began."""

    __slots__ = ("conversations", "erased", "turns")

    def __init__(self) -> None:
        self.erased: set[ConversationId] = set()  # written before all else
        self.turns: dict[TurnId, Pending] = {}
        self.conversations: dict[ConversationId, PendingConversation] = {}

    def __bool__(self) -> bool:
        return bool(self.turns or self.conversations or self.erased)

    @property
    def size(self) -> int:
        """Characters of what people and bots wrote, about."""
        return sum(one.size for one in self.turns.values())

    @property
    def traceless(self) -> bool:
        """Whether something in it leaves no trace in a turn's row by which one sees that it was written: an erasure, a
        name, a title or feedback."""
        annotated = any(one.title is not UNSET for one in self.conversations.values())
        return not self.turns or annotated or any(one.feedback is not None for one in self.turns.values())

    def __repr__(self) -> str:
        return f"Changes({len(self.turns)} turns of {len(self.conversations)} conversations)"

    def begin(self, begun: TurnBegun) -> None:
        pending = self._turn(begun.turn_id)
        pending.begun = pending.begun or begun
        conversation = self._conversation(begun.conversation_id)
        conversation.begun = conversation.begun or begun

    def update(self, update: TurnUpdate) -> None:
        self._turn(update.turn_id).take(update)

    def name(self, conversation_id: ConversationId, coze_conversation_id: str, naming: int) -> None:
        self._conversation(conversation_id).name(coze_conversation_id, naming)

    def rename(self, conversation_id: ConversationId, title: str | None) -> None:
        self._conversation(conversation_id).rename(title, None)

    def rate(self, turn_id: TurnId, feedback: Feedback) -> None:
        self._turn(turn_id).rate(feedback, None)

    def erase(self, conversation_id: ConversationId) -> None:
        """Drops the queued writes of a conversation, and everything that the database holds of it."""
        self.erased.add(conversation_id)
        self.conversations.pop(conversation_id, None)
        for turn_id, pending in list(self.turns.items()):
            if pending.conversation_id == conversation_id:
                del self.turns[turn_id]

    def then(self, later: "Changes") -> "Changes":
        """These changes, which could not be written, joined with later ones. Neither of the two may be used
        afterwards."""
        for conversation_id in later.erased:
            self.erase(conversation_id)
        for turn_id, pending in later.turns.items():
            mine = self._turn(turn_id)
            mine.begun = mine.begun or pending.begun
            if pending.update is not None:
                mine.take(pending.update)
            if mine.answered_at is None:
                mine.answered_at = pending.answered_at
            if pending.feedback is not None:
                mine.rate(pending.feedback, pending.rated_at)
        for conversation_id, newer in later.conversations.items():
            conversation = self._conversation(conversation_id)
            conversation.begun = conversation.begun or newer.begun
            conversation.name(newer.coze_conversation_id, newer.naming)
            if newer.title is not UNSET:
                conversation.rename(newer.title, newer.titled_at)
        return self

    def asked(self, digest: str) -> list[Asked]:
        """The turns in it that were started with a certain body."""
        return [
            Asked(turn_id, one.begun.conversation_id, one.update.position if one.update is not None else "")
            for turn_id, one in self.turns.items()
            if one.begun is not None and one.begun.digest == digest
        ]

    def ended(self) -> list[TurnId]:
        """The turns whose end is among these changes."""
        return [turn for turn, one in self.turns.items() if one.update is not None and one.update.status in ENDED]

    def singles(self) -> "list[Changes]":
        """The changes of each turn by itself, so that a turn whose values no database accepts can be found; names and
        titles come last."""
        parts = []
        if self.erased:
            parts.append(Changes())
            parts[0].erased = self.erased
        for turn_id, pending in self.turns.items():
            part = Changes()
            part.turns[turn_id] = pending
            state = pending.begun or pending.update
            if state is not None and (conversation := self.conversations.get(state.conversation_id)) is not None:
                part.conversations[state.conversation_id] = conversation
            parts.append(part)
        for conversation_id, conversation in self.conversations.items():
            if conversation.naming or conversation.title is not UNSET:
                part = Changes()
                part.name(conversation_id, conversation.coze_conversation_id, conversation.naming)
                part._conversation(conversation_id).rename(conversation.title, conversation.titled_at)
                parts.append(part)
        return parts

    def _turn(self, turn_id: TurnId) -> Pending:
        pending = self.turns.get(turn_id)
        if pending is None:
            pending = self.turns[turn_id] = Pending()
        return pending

    def _conversation(self, conversation_id: ConversationId) -> PendingConversation:
        conversation = self.conversations.get(conversation_id)
        if conversation is None:
            conversation = self.conversations[conversation_id] = PendingConversation()
        return conversation
