"""The model: which states nodes and their database can be in, and which steps lead from one to the next.

Each step is what one statement does in the database, or what one node does between two statements. They are named after
the code:

| step | code |
|---|---|
| look for the mark | `Starting._earlier` |
| lock | `Claims.alone_with` |
| claim, release | `Claims.claim`, `Claims.release`; a release whose reply was lost may be done late |
| begin | `Starting._claimed`, then `Runner.accept` and `EventLog.begin`, between which nothing waits |
| append | `Writer.append` and `Committer.take`: one event of one turn a batch |
| commit | `PostgresJournal.commit`; with `licence_held` off in two halves, as without FOR SHARE |
| reply | `Committer.written` shows the batch; for a refusal `Committer._fence` |
| lose the reply | `Line` gives its connection up; the server may do the statement all the same, also later |
| ask | `Batches._settle` with `PostgresJournal.holds`, and the same batch once more |
| give up | `Batches._settle` after `PATIENCE`: `Committer.lose` and `Writer.owe` |
| void | `PostgresJournal.commit` of what follows a batch that was given up |
| bury | `burial.bury` |
| adopt | `Licence.adopt`, `EventLog.take_in`, `TakeOver.adopt` |
| join again | `Membership.round` of a fenced node: `Runner.start_over`, `EventLog.rejoin` |
| crash | the process is killed |
| fail over | the database goes on as its standby knew it; every connection breaks |
| look after a break | `breaks.look_after_break`: a node compares what the database has with what it wrote |
| write again | `breaks.write_again`: it sends once more what the database has lost |

There is no clock: a node may be buried at any time, as one is that is paused or cut off, and a node that is paused is
one that makes no step while others do. So nothing here rests on a lease being long enough. Whatever is durable
counts as shown to a reader at once, since another node may follow as fast as that.

A turn has two events, its first and its last. Each turn ends as soon as its last event is durable, and nothing is saved
beyond its batches until its node is buried.
"""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import NamedTuple


@dataclass(frozen=True)
class Checks:
    """The checks of the protocol. Each can be left out, to see what it is for."""

    licence_in_commit: bool = True
    """A batch is written only by a node that has its licence."""
    licence_held: bool = True
    """A burial waits for the batch that is under way."""
    licence_number_once: bool = True
    """A licence's number is never given again, also not when the database forgets that it was given."""
    licence_in_claim: bool = True
    """Only a node that has its licence claims."""
    licence_in_adoption: bool = True
    """Only a node that has its licence adopts."""
    same_licence: bool = True
    """A start goes on only under the licence with which it claimed."""
    claim_before_begin: bool = True
    """A turn is begun by the node that claimed its conversation."""
    turn_in_claim: bool = True
    """A conversation that nobody has claimed goes to the node whose turn runs there. If that turn waits to be adopted,
    nobody claims it."""
    claim_until_adopted: bool = True
    """Nor does anybody begin a turn where a dead node's turn waits to be adopted, whoever had claimed it before."""
    claim_in_begin: bool = True
    """A turn begins only where no other node has the claim, nor had it after a late release."""
    only_orphans: bool = True
    """Only what has no node is adopted."""
    adoption_again: bool = True
    """After a lost reply to an adoption, what was adopted without this node's knowing is adopted once more."""
    head_in_commit: bool = True
    """The batch in which a turn ends says where the next one begins."""
    mark_under_claim: bool = True
    """The mark is looked for after the conversation was claimed."""
    mark_under_lock: bool = True
    """For a new conversation, which nobody can claim yet, the mark is looked for under its own lock."""
    number_in_commit: bool = True
    """A batch that is there already is not written again."""
    ask_when_lost: bool = True
    """After a lost reply the database is asked, and given the batch again, before the batch counts as lost."""
    void_when_given_up: bool = True
    """A batch that was given up never counts, whenever the database does it."""
    epoch_after_loss: bool = True
    """What follows a batch that was given up is of another epoch."""
    epoch_when_joining: bool = True
    """A node that joins again opens another epoch than before."""
    epoch_when_adopting: bool = True
    """Whoever goes on with another one's turn opens an epoch."""
    look_after_break: bool = True
    """After its connection broke, a node looks whether the database still has all that it wrote."""
    place_when_again: bool = True
    """A beginning is written again only if no other node has claimed its conversation, begun or ended a turn there, or
    locked or used its mark, meanwhile."""


CHECKS = tuple(field.name for field in fields(Checks))


class Order(NamedTuple):
    """What a client asks for. A client that gets no answer sends it again, to any node."""

    mark: str
    conversation: int  # below 0: a new one
    sent: int = 1


class Scope(NamedTuple):
    """How much may happen."""

    orders: tuple[Order, ...]
    nodes: int = 3
    conversations: int = 2
    burials: int = 0
    crashes: int = 0
    joins: int = 0
    replies_lost: int = 0
    adoptions_lost: int = 0
    releases_lost: int = 0
    given_up: int = 0
    failovers: int = 0


class Event(NamedTuple):
    """An event in the log: the turn's stretch, which of its events, who wrote it, and where."""

    stretch: int
    part: int  # 0: the first, 1: the last
    author: int
    epoch: tuple[int, int]
    sequence: int


class Batch(NamedTuple):
    """One event of one turn; none when it is void."""

    node: int
    number: int
    again: int  # above 0: it is there more than once
    conversation: int
    event: Event | None
    begins: bool = False
    mark: str = ""
    after: int = -1  # as CUT: what the stretch has after this position counts no more


class Stretch(NamedTuple):
    number: int
    conversation: int
    mark: str
    first: int
    node: int  # 0: an orphan
    saved: tuple[Event, ...]
    saved_with: int = 0  # the batch of `node` up to which it is saved


class Head(NamedTuple):
    position: int = 0
    node: int = 0


class Database(NamedTuple):
    licences: frozenset[int]
    heads: tuple[Head, ...]
    stretches: frozenset[Stretch] = frozenset()
    batches: frozenset[Batch] = frozenset()
    locks: frozenset[tuple[str, int]] = frozenset()
    numbers: int = 0
    """The last licence that it knows it gave."""


class Op(NamedTuple):
    """The batch that a node has sent. `found`: what the statement found, as far as it was done."""

    batch: Batch
    at: str = "sent"  # sent, looked, done, refused, gap, doubt
    again: bool = False


class Start(NamedTuple):
    order: int
    stage: str  # look, lock, claim, look again, begin
    licence: int = 0


class Turn(NamedTuple):
    """A turn that runs at a node."""

    stretch: int
    conversation: int
    last: int  # the position of its newest event
    epoch: tuple[int, int]
    owed: bool = False


class Node(NamedTuple):
    licence: int
    token: tuple[int, int]  # of its epochs
    up: bool = True
    fenced: bool = False
    broke: bool = False  # its connection broke, and it has not looked yet
    fresh: bool = True  # it has done nothing yet, so one such node is as good as another
    given: int = 0
    turns: tuple[Turn, ...] = ()
    start: Start | None = None
    op: Op | None = None
    voids: tuple[Batch, ...] = ()
    unsure: bool = False  # whether it may have adopted something without knowing
    written: tuple[Batch, ...] = ()  # what it knows to be durable, in case that the database forgets it


class State(NamedTuple):
    database: Database
    standby: Database | None
    nodes: tuple[Node, ...]
    late: frozenset[Batch] = frozenset()  # statements that nobody waits for, and that may still be done
    releases: frozenset[tuple[int, int]] = frozenset()  # of conversations by licences, as late as those statements
    lost: frozenset[Event] = frozenset()  # shown once, and not in the log now
    accepted: frozenset[int] = frozenset()  # stretches of which a client was told
    sent: tuple[int, ...] = ()  # how often each order was sent
    numbers: int = 0  # licences given
    stretches: int = 0  # numbers of stretches given
    burials: int = 0
    crashes: int = 0
    joins: int = 0
    replies_lost: int = 0
    releases_lost: int = 0
    given_up: int = 0
    needless: bool = False  # whether something was given up that the database has and would tell of
    failovers: int = 0
    adoptions_lost: int = 0  # that may still be
    places: tuple[int, ...] = ()  # the conversation of each stretch, by its number


Step = tuple[str, State]
WAITS = -1


def beginning(scope: Scope) -> State:
    licences = range(1, scope.nodes + 1)
    database = Database(frozenset(licences), (Head(),) * scope.conversations, numbers=scope.nodes)
    nodes = tuple(Node(number, (number, 0)) for number in licences)
    standby = database if scope.failovers else None
    return State(
        database,
        standby,
        nodes,
        sent=(0,) * len(scope.orders),
        numbers=scope.nodes,
        adoptions_lost=scope.adoptions_lost,
    )


def text(database: Database, stretch: Stretch) -> tuple[Event, ...]:
    """A stretch's events as a reader of the database has them: what is saved, and what the batches add."""
    if not stretch.node:
        return stretch.saved
    found = list(stretch.saved)
    for batch in sorted(b for b in database.batches if b.node == stretch.node and b.event is not None):
        event = batch.event
        if event is None or event.stretch != stretch.number or batch.number <= stretch.saved_with:
            continue
        if batch.after >= 0:
            found = [one for one in found if one.sequence <= batch.after]
        found.append(event)
    return tuple(found)


@lru_cache(maxsize=100_000)
def texts(database: Database) -> dict[Stretch, tuple[Event, ...]]:
    """The texts of all stretches, as `text` gives them."""
    return {stretch: text(database, stretch) for stretch in database.stretches}


@lru_cache(maxsize=100_000)
def shown(database: Database) -> frozenset[Event]:
    """All events that are in the log."""
    return frozenset(event for events in texts(database).values() for event in events)


def steps(state: State, scope: Scope, checks: Checks) -> Iterator[Step]:
    """All steps that are possible next."""
    yield from _around(state, scope, checks)
    fresh_before = False
    for at, node in enumerate(state.nodes):
        if node.up and not (node.fresh and fresh_before):
            yield from ((f"node {at + 1}: {label}", after) for label, after in _at(state, scope, checks, at, node))
        fresh_before = fresh_before or node.fresh


def _at(state: State, scope: Scope, checks: Checks, at: int, node: Node) -> Iterator[Step]:
    if node.broke and not node.fenced:
        yield from _looking(state, checks, at, node)
        return
    if not node.fenced:
        yield from _starting(state, scope, checks, at, node)
        yield from _adopting(state, checks, at, node)
        if node.op is None:
            yield from _appending(state, checks, at, node)
    elif state.joins < scope.joins:
        yield "joins again", _joined(state, checks, at, node)
    if node.op is not None:
        yield from _committing(state, scope, checks, at, node, node.op)
    if not node.fresh and state.crashes < scope.crashes:
        gone = Node(node.licence, node.token, up=False, fresh=False)
        late = state.late if node.op is None or node.op.at not in ("sent", "looked") else state.late | {node.op.batch}
        yield "crashes", _with(state, at, gone)._replace(crashes=state.crashes + 1, late=late)


def _with(state: State, at: int, node: Node, database: Database | None = None) -> State:
    """The state with another node, and perhaps another database. What is gone from the log was shown all the same."""
    nodes = (*state.nodes[:at], node, *state.nodes[at + 1 :])
    return state._replace(nodes=nodes) if database is None else changed(state._replace(nodes=nodes), database)


def changed(state: State, database: Database) -> State:
    """The state with another database."""
    if database is state.database:
        return state
    now = shown(database)
    lost = (state.lost | shown(state.database)) - now
    return state._replace(database=database, lost=lost)


# -- starting ---------------------------------------------------------------------------------------------------------


def _starting(state: State, scope: Scope, checks: Checks, at: int, node: Node) -> Iterator[Step]:
    database, start = state.database, node.start
    if start is None:
        for number, order in enumerate(scope.orders):
            if state.sent[number] < order.sent:
                sent = (*state.sent[:number], state.sent[number] + 1, *state.sent[number + 1 :])
                stage = "lock" if order.conversation < 0 and checks.mark_under_lock else "look"
                after = node._replace(start=Start(number, stage, node.licence), fresh=False)
                yield f"is asked for a turn, {order.mark}", _with(state, at, after)._replace(sent=sent)
        return
    order = scope.orders[start.order]
    new = order.conversation < 0
    over = node._replace(start=None)
    if start.stage == "lock":
        holder = dict(database.locks).get(order.mark)
        if node.licence in database.licences and (holder is None or holder not in database.licences):
            locks = frozenset({*(lock for lock in database.locks if lock[0] != order.mark), (order.mark, node.licence)})
            after = node._replace(start=start._replace(stage="look", licence=node.licence))
            yield f"locks {order.mark}", _with(state, at, after, database._replace(locks=locks))
    elif start.stage in ("look", "look again"):
        if any(stretch.mark == order.mark for stretch in database.stretches):
            free = _released(_unlocked(database, node, order), over, order.conversation)
            yield f"finds that {order.mark} was started", _with(state, at, over, free)
        else:
            claims = start.stage == "look" and not new and checks.claim_before_begin
            after = node._replace(start=start._replace(stage="claim" if claims else "begin"))
            yield f"looks for {order.mark}: not started", _with(state, at, after)
    elif start.stage == "claim":
        owner = _claimant(database, order.conversation, checks)
        if checks.licence_in_claim and node.licence not in database.licences:
            yield "may not claim: it was buried", _with(state, at, over)
        elif owner in (0, node.licence):
            stage = "look again" if checks.mark_under_claim else "begin"
            after = node._replace(start=Start(start.order, stage, node.licence))
            heads = _head(database, order.conversation, node=node.licence)
            yield f"claims conversation {order.conversation}", _with(state, at, after, database._replace(heads=heads))
        elif database.heads[order.conversation].node == 0:
            heads = _head(database, order.conversation, node=owner)
            label = f"finds a turn in conversation {order.conversation}, whose node has it now"
            yield label, _with(state, at, node, database._replace(heads=heads))
    elif start.stage == "begin" and node.op is None:
        yield from _beginning(state, checks, at, node, start, order)


def _claimant(database: Database, conversation: int, checks: Checks) -> int:
    """The node that has a conversation; 0 if nobody has it, and `WAITS` if a turn there has to be adopted."""
    head = database.heads[conversation]
    if head.node or not checks.turn_in_claim:
        return head.node
    runs = (s.node or WAITS for s in database.stretches if s.conversation == conversation and _seems_to_run(s, head))
    return min(runs, default=0)


def _seems_to_run(stretch: Stretch, head: Head) -> bool:
    """As far as rows say: the head passes what is saved of a turn only with the turn's end."""
    saved = stretch.saved[-1] if stretch.saved else None
    return head.position < stretch.first if saved is None else not saved.part and head.position <= saved.sequence


def _beginning(state: State, checks: Checks, at: int, node: Node, start: Start, order: Order) -> Iterator[Step]:
    if checks.same_licence and start.licence != node.licence:
        yield f"gives {order.mark} up: it is another node now", _with(state, at, node._replace(start=None))
        return
    if node.voids:
        return
    conversation = -1 - state.stretches if order.conversation < 0 else order.conversation
    if any(turn.conversation == conversation for turn in node.turns):
        return  # it is queued here
    head = state.database.heads[conversation].position if conversation >= 0 else 0
    number = state.stretches + 1
    event = Event(number, 0, node.licence, node.token, head + 1)
    batch = Batch(node.licence, node.given + 1, 0, conversation, event, begins=True, mark=order.mark)
    after = node._replace(op=Op(batch), given=node.given + 1, start=start._replace(stage="begun"))
    yield (
        f"begins turn {number} for {order.mark}",
        _with(state, at, after)._replace(stretches=number, places=(*state.places, conversation)),
    )


def _unlocked(database: Database, node: Node, order: Order) -> Database:
    return database._replace(locks=database.locks - {(order.mark, node.licence)})


def _head(database: Database, conversation: int, *, node: int | None = None, position: int = 0) -> tuple[Head, ...]:
    if conversation < 0:
        return database.heads
    head = database.heads[conversation]
    head = Head(max(head.position, position), head.node if node is None else node)
    return (*database.heads[:conversation], head, *database.heads[conversation + 1 :])


# -- writing ----------------------------------------------------------------------------------------------------------


def _appending(state: State, checks: Checks, at: int, node: Node) -> Iterator[Step]:
    if node.voids:
        gone = node.voids[0]
        if node.licence not in state.database.licences:
            yield "finds that it was buried", _with(state, at, _fenced(node))
            return
        database = state.database
        batches = frozenset(b for b in database.batches if (b.node, b.number) != (gone.node, gone.number))
        stretches = database.stretches
        if gone.begins and gone.event is not None:
            stretches = frozenset(s for s in stretches if s.number != gone.event.stretch)
        void = Batch(gone.node, gone.number, 0, gone.conversation, None)
        after = node._replace(voids=node.voids[1:], written=(*node.written, void))
        database = database._replace(batches=batches | {void}, stretches=stretches)
        yield f"makes batch {gone.number} void", _with(state, at, after, database)
        return
    if node.voids:
        return
    for turn in node.turns:
        author = -node.licence if turn.owed else node.licence
        event = Event(turn.stretch, 1, author, turn.epoch, turn.last + 1)
        cut = turn.last if turn.owed else -1
        batch = Batch(node.licence, node.given + 1, 0, turn.conversation, event, after=cut)
        yield (
            f"appends the last event of turn {turn.stretch}",
            _with(state, at, node._replace(op=Op(batch), given=node.given + 1)),
        )


def _missing(database: Database, node: Node) -> list[Batch]:
    """The newest batches of a node that the database has lost."""
    newest = max((b.number for b in database.batches if b.node == node.licence), default=0)
    return [batch for batch in node.written if batch.number > newest]


def _looking(state: State, checks: Checks, at: int, node: Node) -> Iterator[Step]:
    """After a break: missing batches are written again, and stretches that are no longer this node's are let go."""
    missing = _missing(state.database, node)
    ours = {stretch.number for stretch in state.database.stretches if stretch.node == node.licence}
    again = {batch.event.stretch for batch in missing if batch.event is not None and batch.begins}
    known = all(turn.stretch in ours | again for turn in node.turns)
    if node.licence not in state.database.licences or not known:
        yield "finds that the database has forgotten what it was", _with(state, at, _fenced(node))
    elif missing:
        yield from _again(state, checks, at, node, missing[0])
    else:
        start = node.start if node.start is None or node.start.stage == "begun" else None
        yield "finds all that it wrote", _with(state, at, node._replace(broke=False, start=start))


def _again(state: State, checks: Checks, at: int, node: Node, batch: Batch) -> Iterator[Step]:
    database = state.database
    event = batch.event
    if batch.begins and checks.place_when_again and _is_taken(database, batch):
        yield f"finds that another node has the place of batch {batch.number}", _with(state, at, _fenced(node))
        return
    if event is not None and not batch.begins and (event.stretch, node.licence) not in _runners(database):
        yield f"finds that batch {batch.number} is of a turn that is not its own", _with(state, at, _fenced(node))
        return
    after = _done(database, batch, checks)
    yield f"writes batch {batch.number} again", _with(state, at, node, after)


def _is_taken(database: Database, batch: Batch) -> bool:
    """Whether somebody has been where a turn begins."""
    event = batch.event
    assert event is not None
    others = [stretch for stretch in database.stretches if stretch.number != event.stretch]
    holder = dict(database.locks).get(batch.mark, batch.node)
    if any(stretch.mark == batch.mark for stretch in others):
        return True
    if batch.conversation < 0:
        return holder != batch.node and holder in database.licences
    head = database.heads[batch.conversation]
    return head.node not in (0, batch.node) or head.position != event.sequence - 1


def _is_claimed(database: Database, batch: Batch) -> bool:
    """Whether another node has the conversation in which a turn begins, or had it after a late release."""
    event = batch.event
    if event is None or not batch.begins or batch.conversation < 0 or (batch.node, batch.number) in _written(database):
        return False
    head = database.heads[batch.conversation]
    return head.position != event.sequence - 1 if head.node == 0 else head.node != batch.node


def _written(database: Database) -> set[tuple[int, int]]:
    return {(batch.node, batch.number) for batch in database.batches}


def _runners(database: Database) -> set[tuple[int, int]]:
    return {(stretch.number, stretch.node) for stretch in database.stretches}


def _done(database: Database, batch: Batch, checks: Checks) -> Database:
    """The database after a batch was written."""
    there = any(b.node == batch.node and b.number == batch.number for b in database.batches)
    if there and checks.number_in_commit:
        return database
    heads, stretches = database.heads, database.stretches
    event = batch.event
    if event is not None and batch.begins:
        mine = Stretch(event.stretch, batch.conversation, batch.mark, event.sequence, batch.node, (), batch.number - 1)
        if not any((s.conversation, s.first) == (mine.conversation, mine.first) for s in stretches):
            stretches = stretches | {mine}
        heads = _head(database, batch.conversation, node=batch.node)
    elif event is not None and checks.head_in_commit:
        heads = _head(database, batch.conversation, position=event.sequence)
    if there:
        batch = batch._replace(again=1)
    return database._replace(batches=database.batches | {batch}, stretches=stretches, heads=heads)


def _committing(state: State, scope: Scope, checks: Checks, at: int, node: Node, op: Op) -> Iterator[Step]:
    database, batch = state.database, op.batch
    name = f"batch {batch.number}"
    if op.at in ("sent", "looked"):
        refused = node._replace(op=op._replace(at="refused"))
        if op.again and batch.begins and checks.place_when_again and _is_taken(database, batch):
            yield f"{name} finds that another node has its place", _with(state, at, refused)
        elif op.at == "sent" and checks.licence_in_commit and node.licence not in database.licences:
            yield f"{name} finds no licence", _with(state, at, refused)
        elif checks.claim_in_begin and _is_claimed(database, batch):
            yield f"{name} finds that another node has claimed the conversation", _with(state, at, refused)
        elif op.at == "sent" and not checks.licence_held:
            yield f"{name} finds the licence", _with(state, at, node._replace(op=op._replace(at="looked")))
        else:
            after = _done(database, batch, checks)
            yield f"{name} is committed", _with(state, at, node._replace(op=op._replace(at="done")), after)
    elif op.at == "done":
        seen = _shown(state, scope, at, node, batch)
        yield f"shows {name}", seen
        if seen.database is not database and not batch.begins and state.releases_lost < scope.releases_lost:
            unheard = seen._replace(releases=state.releases | {(batch.conversation, node.licence)})
            label = f"shows {name}, and does not hear of the release"
            yield label, unheard._replace(database=database, releases_lost=state.releases_lost + 1)
    elif op.at == "refused":
        yield "learns that it was buried", _with(state, at, _fenced(node))
    elif op.at == "doubt":
        if checks.ask_when_lost:
            there = (batch.node, batch.number) in _written(database)
            label = f"asks for {name}: it is there" if there else f"asks for {name}: it is not there; sends it again"
            asked = op._replace(at="done" if there else "sent", again=True)
            yield label, _with(state, at, node._replace(op=asked))
        if not checks.ask_when_lost or state.given_up < scope.given_up:
            needless = state.given_up >= scope.given_up and (batch.node, batch.number) in _written(database)
            lost = _given_up(state, checks, at, node, batch)
            yield f"gives {name} up", lost._replace(given_up=state.given_up + 1, needless=needless)
    if op.at in ("sent", "done") and state.replies_lost < scope.replies_lost:
        late = state.late | {batch} if op.at == "sent" else state.late
        doubt = _with(state, at, node._replace(op=op._replace(at="doubt")))
        yield f"loses the reply to {name}", doubt._replace(late=late, replies_lost=state.replies_lost + 1)


def _shown(state: State, scope: Scope, at: int, node: Node, batch: Batch) -> State:
    event = batch.event
    assert event is not None
    written = (*node.written, batch) if scope.failovers else ()
    node = node._replace(op=None, written=written)
    state = state._replace(lost=state.lost | ({event} - shown(state.database)))  # it is seen, whatever the log has
    if batch.begins:
        turn = Turn(event.stretch, batch.conversation, event.sequence, event.epoch)
        order = Order(batch.mark, batch.conversation)
        state = state._replace(accepted=state.accepted | {event.stretch})
        node = node._replace(turns=(*node.turns, turn), start=None)
        return _with(state, at, node, _unlocked(state.database, node, order))
    node = node._replace(turns=tuple(turn for turn in node.turns if turn.stretch != event.stretch))
    return _with(state, at, node, _released(state.database, node, batch.conversation))


def _released(database: Database, node: Node, conversation: int) -> Database:
    """As when the last turn of a conversation, or a start there that came to nothing, leaves this node."""
    if conversation < 0 or database.heads[conversation].node != node.licence:
        return database
    if any(turn.conversation == conversation for turn in node.turns) or _claimed_by_start(node):
        return database
    return database._replace(heads=_head(database, conversation, node=0))


def _claimed_by_start(node: Node) -> bool:
    return node.start is not None and node.start.stage in ("look again", "begin", "begun")


def _given_up(state: State, checks: Checks, at: int, node: Node, batch: Batch) -> State:
    """The batch counts as lost. A turn that began with it never was; another one ends with an error, shown at once."""
    event = batch.event
    assert event is not None
    voids = (*node.voids, batch) if checks.void_when_given_up else node.voids
    token = (node.token[0], node.token[1] + 1) if checks.epoch_after_loss else node.token
    node = node._replace(op=None, voids=voids, token=token)
    if batch.begins:
        node = node._replace(start=None)
        return _with(state, at, node, _unlocked(state.database, node, Order(batch.mark, batch.conversation)))
    turns = tuple(
        turn._replace(owed=True, epoch=token) if turn.stretch == event.stretch else turn for turn in node.turns
    )
    owed = Event(event.stretch, 1, -node.licence, token, event.sequence)
    return _with(state, at, node._replace(turns=turns))._replace(lost=state.lost | {owed})


def _fenced(node: Node) -> Node:
    start = node.start if node.start is None or node.start.stage != "begun" else None
    return node._replace(fenced=True, turns=(), op=None, voids=(), written=(), start=start)


# -- going on ---------------------------------------------------------------------------------------------------------


def _adopting(state: State, checks: Checks, at: int, node: Node) -> Iterator[Step]:
    if node.op is not None or node.voids:  # one statement at a time; what it wrote last is then known
        return
    database = state.database
    if checks.licence_in_adoption and node.licence not in database.licences:
        return  # nothing is adopted
    known = {turn.stretch for turn in node.turns}

    def may_be(stretch: Stretch) -> bool:
        if stretch.number in known or _ended(database, stretch):
            return False
        if stretch.node == node.licence:
            return node.unsure
        if not checks.only_orphans:
            return True
        if stretch.node:
            return False
        if stretch.conversation < 0:
            return True
        holder = database.heads[stretch.conversation].node
        waits = checks.claim_until_adopted and holder not in database.licences
        return holder in (0, WAITS, node.licence) or waits

    found = tuple(sorted(filter(may_be, database.stretches)))
    if not found:
        return
    heads = database.heads
    stretches = set(database.stretches)
    turns = list(node.turns)
    for stretch in found:
        events = texts(database)[stretch]
        stretches.remove(stretch)
        stretches.add(stretch._replace(node=node.licence, saved=events, saved_with=node.given))
        epoch = node.token if checks.epoch_when_adopting else events[-1].epoch
        turns.append(Turn(stretch.number, stretch.conversation, events[-1].sequence, epoch))
        heads = _head(database._replace(heads=heads), stretch.conversation, node=node.licence)
    after = database._replace(stretches=frozenset(stretches), heads=heads)
    label = f"adopts {', '.join(f'turn {stretch.number}' for stretch in found)}"
    yield label, _with(state, at, node._replace(turns=tuple(turns), fresh=False, unsure=False), after)
    if state.replies_lost == 0 and state.adoptions_lost and not node.unsure:
        lost = state._replace(adoptions_lost=state.adoptions_lost - 1)
        unsure = node._replace(fresh=False, unsure=checks.adoption_again)
        yield f"{label}, and loses the reply", _with(lost, at, unsure, after)


def _joined(state: State, checks: Checks, at: int, node: Node) -> State:
    database = state.database
    number = (state.numbers if checks.licence_number_once else database.numbers) + 1
    token = (number, 0) if checks.epoch_when_joining else node.token
    after = Node(number, token, fresh=False, start=node.start)
    database = database._replace(licences=database.licences | {number}, numbers=max(number, database.numbers))
    counted = state._replace(numbers=max(number, state.numbers), joins=state.joins + 1)
    return _with(counted, at, after, database)


def _ended(database: Database, stretch: Stretch) -> bool:
    events = texts(database)[stretch]
    return bool(events) and events[-1].part == 1


def _buried(database: Database, dead: int, checks: Checks) -> Database:
    stretches = frozenset(
        stretch._replace(node=0, saved=text(database, stretch), saved_with=0) if stretch.node == dead else stretch
        for stretch in database.stretches
    )
    waiting = {s.conversation for s in stretches if not s.node and not (s.saved and s.saved[-1].part == 1)}
    heads = list(database.heads)
    for conversation, head in enumerate(heads):
        ours = [s.saved[-1].sequence for s in stretches if s.conversation == conversation and not s.node and s.saved]
        position = max([head.position, *ours])
        kept = checks.claim_until_adopted and conversation in waiting
        heads[conversation] = Head(position, 0 if head.node == dead and not kept else head.node)
    return database._replace(
        licences=database.licences - {dead},
        heads=tuple(heads),
        stretches=stretches,
        batches=frozenset(batch for batch in database.batches if batch.node != dead),
        locks=frozenset(lock for lock in database.locks if lock[1] != dead),
    )


def _around(state: State, scope: Scope, checks: Checks) -> Iterator[Step]:
    """Steps that no node does for itself: burials by another node, statements that nobody waits for, a failover."""
    database = state.database
    if state.burials < scope.burials:
        for at, node in enumerate(state.nodes):
            if node.licence in database.licences and not node.fresh and not node.fenced:
                if node.op is not None and node.op.at == "looked" and checks.licence_held:
                    continue  # the burial waits
                after = changed(state, _buried(database, node.licence, checks))
                yield f"node {at + 1} is buried", after._replace(burials=state.burials + 1)
    for batch in sorted(state.late):
        done = database
        label = f"batch {batch.number} of licence {batch.node}, for which nobody waits, finds no licence"
        if batch.begins and checks.place_when_again and _is_taken(database, batch):
            label = f"batch {batch.number} of licence {batch.node}, for which nobody waits, finds its place taken"
        elif checks.claim_in_begin and _is_claimed(database, batch):
            label = f"batch {batch.number} of licence {batch.node}, for which nobody waits, finds another node's claim"
        elif batch.node in database.licences or not checks.licence_in_commit:
            done = _done(database, batch, checks)
            label = f"batch {batch.number} of licence {batch.node} is done, for which nobody waits"
        yield label, changed(state, done)._replace(late=state.late - {batch})
    for conversation, licence in sorted(state.releases):
        heads = database.heads
        if heads[conversation].node == licence:
            heads = _head(database, conversation, node=0)
        label = f"conversation {conversation} is released by licence {licence}, which no longer waits for it"
        late = state._replace(releases=state.releases - {(conversation, licence)})
        yield label, changed(late, database._replace(heads=heads))
    if state.standby is not None and state.failovers < scope.failovers and state.standby != database:
        yield "the standby has all", state._replace(standby=database)
        after = changed(state, state.standby)
        nodes = tuple(_cut_off(node, checks) for node in after.nodes)
        yield (
            "the database fails over, and has lost what its standby had not",
            after._replace(
                standby=None, nodes=nodes, late=frozenset(), releases=frozenset(), failovers=state.failovers + 1
            ),
        )


def _cut_off(node: Node, checks: Checks) -> Node:
    """The node after its connection broke."""
    op = node.op if node.op is None or node.op.at == "refused" else node.op._replace(at="doubt")
    return node._replace(op=op, broke=checks.look_after_break and node.up)
