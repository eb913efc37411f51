"""What the turn's tests share: short names for items, and a reader that believes only what it is given."""

from collections.abc import Iterable

from gateway.events import Cancelled, Completed, Event, Failed, Message, Text
from gateway.ids import ConversationId, TurnId
from gateway.turns.turn import Memory, Turn
from gateway.upstream.protocol import Answer, ChatState, Created, Delta

CONVERSATION = ConversationId("conv_1")
TURN = TurnId("turn_1")
BORN = Created("chat-1", "coze-1")
COMPLETED = ChatState("completed")


def new_turn() -> Turn:
    return Turn(CONVERSATION, TURN, "en")


def begun() -> Turn:
    """A turn whose message Coze has accepted."""
    turn = new_turn()
    assert turn.take([BORN]) == []
    return turn


def restored(memory: Memory, events: Iterable[Event] = (), **kept: object) -> Turn:
    return Turn.restore(CONVERSATION, TURN, "en", memory, content=fold(events), **kept)  # type: ignore[arg-type]


def d(message_id: str, text: str) -> Delta:
    return Delta(message_id, text)


def a(message_id: str, text: str, content_type: str = "text") -> Answer:
    return Answer(message_id, text, content_type)


def piece(text: str) -> Text:
    return Text("message", text)


def anew(text: str) -> Message:
    return Message(text, replace=True)


def fold(events: Iterable[Event]) -> str:
    """The text that a reader has after `events`: pieces joined, starting over at each replace."""
    text = ""
    for event in events:
        match event:
            case Text("message", content):
                text += content
            case Message(content, replace=True):
                text = content
            case _:
                pass
    return text


def last(events: list[Event]) -> Completed | Cancelled | Failed:
    """The last event, after checks: it is the only one, comes last, and its content is what the pieces make."""
    ends = [event for event in events if isinstance(event, Completed | Cancelled | Failed)]
    assert len(ends) == 1
    assert events[-1] is ends[0]
    return ends[0]
