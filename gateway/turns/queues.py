"""Queues: the turns that wait for another one of their conversation, in the order in which they will run."""

from collections import deque

from gateway.turns.live import LiveTurn


class Queues:
    """One queue per conversation. An interrupting turn goes before those that wait already."""

    def __init__(self) -> None:
        self._queues: dict[str, deque[LiveTurn]] = {}

    def line_up(self, live: LiveTurn) -> None:
        """Puts a turn in. Calling it again for the turns in the order of their arrival builds the same queue."""
        queue = self._queues.setdefault(live.turn.conversation_id, deque())
        if live.order.on_busy == "interrupt":
            queue.appendleft(live)
        else:
            queue.append(live)

    def leave(self, live: LiveTurn) -> None:
        """Takes a turn out, wherever it stands; does nothing if it doesn't wait."""
        queue = self._queues.get(live.turn.conversation_id)
        if queue is not None and live in queue:
            queue.remove(live)
            if not queue:
                del self._queues[live.turn.conversation_id]

    def next(self, conversation_id: str) -> LiveTurn | None:
        """The turn that is to run next, which stays in the queue."""
        queue = self._queues.get(conversation_id)
        return queue[0] if queue else None

    def of(self, conversation_id: str) -> list[LiveTurn]:
        """The turns that wait in a conversation."""
        return list(self._queues.get(conversation_id, ()))

    def conversations(self) -> list[str]:
        """The conversations in which a turn waits."""
        return list(self._queues)

    def __len__(self) -> int:
        return sum(map(len, self._queues.values()))

    def __repr__(self) -> str:
        return f"Queues({len(self)} turns in {len(self._queues)} conversations)"
