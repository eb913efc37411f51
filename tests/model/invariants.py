"""Invariants: whether a state is right, in the terms of docs/invariants.md."""

from tests.model import model
from tests.model.model import Event, Node, State, Stretch


def broken(state: State) -> str | None:
    """What is wrong with a state; None for a good one."""
    if state.needless:
        return "a batch counts as lost that the database has, and would have told of"
    database = state.database
    texts = model.texts(database)
    return (
        _twice(texts)
        or _known_ids(state, texts)
        or _marks(state)
        or _writers(state, texts)
        or _nothing_lost(state, texts)
        or _claims(state, texts)
        or _seen(state)
    )


def _twice(texts: dict[Stretch, tuple[Event, ...]]) -> str | None:
    places: set[tuple[int, int]] = set()
    for stretch, events in texts.items():
        for at, event in enumerate(events):
            if (place := (stretch.conversation, event.sequence)) in places:
                return f"two events have the position {event.sequence}"
            places.add(place)
            if event.sequence != stretch.first + at:
                return f"turn {stretch.number} has a gap"
        if sum(event.part for event in events) > 1:
            return f"turn {stretch.number} has two last events"
    for conversation in {conversation for conversation, _ in places}:
        ours = {sequence for where, sequence in places if where == conversation}
        if len(ours) < max(ours):
            return f"conversation {conversation} has a gap"
    return None


def _known_ids(state: State, texts: dict[Stretch, tuple[Event, ...]]) -> str | None:
    """A position that was shown names the same event for ever: another event has another epoch."""
    if not state.lost:
        return None
    conversations = {stretch.number: stretch.conversation for stretch in texts}
    now = {(s.conversation, e.epoch, e.sequence): e for s, events in texts.items() for e in events}
    for event in state.lost:
        known = conversations.get(event.stretch, state.places[event.stretch - 1])
        there = now.get((known, event.epoch, event.sequence))
        if there is not None and there != event:
            return f"the position {event.epoch}-{event.sequence} was shown, and names another event now"
    return None


def _marks(state: State) -> str | None:
    marks = [stretch.mark for stretch in state.database.stretches]
    return next((f"{mark} has started two turns" for mark in marks if marks.count(mark) > 1), None)


def _writers(state: State, texts: dict[Stretch, tuple[Event, ...]]) -> str | None:
    running = [s.conversation for s, events in texts.items() if not _over(events)]
    return next((f"two turns run in conversation {one}" for one in running if running.count(one) > 1), None)


def _over(events: tuple[Event, ...]) -> bool:
    return bool(events) and events[-1].part == 1


def _nothing_lost(state: State, texts: dict[Stretch, tuple[Event, ...]]) -> str | None:
    database = state.database
    rows = {stretch.number for stretch in texts}
    for batch in database.batches:
        if batch.event is not None and batch.event.stretch not in rows:
            return f"batch {batch.number} belongs to turn {batch.event.stretch}, of which nothing is known"
    for number in state.accepted - rows:
        if not state.failovers:
            return f"turn {number} was accepted, and is gone"
        if _living_writer(state, number):
            return f"turn {number} is gone, and the node that runs it does not notice"
    for stretch, events in texts.items():
        if _over(events):
            continue
        if stretch.node and stretch.node not in database.licences:
            return f"turn {stretch.number} is of a node that is buried, and nobody goes on with it"
        for node in state.nodes:
            if node.licence == stretch.node and _runs(node) and not _knows(node, stretch.number):
                return f"turn {stretch.number} runs at a node that does not know of it"
    return None


def _claims(state: State, texts: dict[Stretch, tuple[Event, ...]]) -> str | None:
    waiting = {stretch.conversation for stretch, events in texts.items() if not stretch.node and not _over(events)}
    for conversation, head in enumerate(state.database.heads):
        if head.node and head.node not in state.database.licences and conversation not in waiting:
            return f"conversation {conversation} is claimed by a node that is buried, for ever"
    return None


def _runs(node: Node) -> bool:
    return node.up and not node.fenced


def _knows(node: Node, number: int) -> bool:
    if node.unsure or node.broke or any(turn.stretch == number for turn in node.turns):
        return True
    sent = () if node.op is None else (node.op.batch,)
    return any(batch.event is not None and batch.event.stretch == number for batch in (*node.voids, *sent))


def _living_writer(state: State, number: int) -> bool:
    alive = [node for node in state.nodes if _runs(node) and node.licence in state.database.licences]
    return any(turn.stretch == number for node in alive if not node.broke for turn in node.turns)


def _seen(state: State) -> str | None:
    """What was shown and is not in the log: the last event that a node owes, or what the database has lost, or what
    was given up after another node had followed it."""
    if state.failovers or state.given_up or not (gone := [event for event in state.lost if event.author > 0]):
        return None
    return f"an event of turn {gone[0].stretch} was shown, and is not in the log"
