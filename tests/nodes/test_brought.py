"""Batches that Redis brings: late, twice, in any order, or never, and from a node that is no more."""

import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

import pytest

from gateway.errors import GatewayError
from gateway.events import Text
from gateway.nodes.message import BatchMessage
from gateway.reading.subscription import Subscription
from gateway.telemetry.ledger import Ledger
from tests.databases import PostgresServer
from tests.nodes.test_following import Node

WORDS = [f"word {number} " for number in range(20)]


class Speaker(Node):
    """A node whose batches are kept as they would be sent, and that notes which nodes it has to read in PostgreSQL."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        self.missed: set[int] = set()
        super().__init__(url, ledger, missed=self.missed.add)
        self.told: list[BatchMessage] = []
        self._readers: list[Subscription] = []
        self.journal._watch = self

    def committed(self, node: int, number: int, begun: Sequence[str], body: bytes) -> None:
        self.told.append(BatchMessage(node, number, 0.0, body))

    async def left(self) -> None: ...

    async def reads(self) -> Subscription:
        """Somebody who reads the turn here until the test ends."""
        self._readers.append(await self.reader())
        return self._readers[-1]

    async def close(self) -> None:
        for reader in self._readers:
            reader.close()
        await super().close()

    async def read_missed(self) -> None:
        while self.missed:
            await self.following.pull(self.missed.pop())


Start = Callable[[], Awaitable[Speaker]]


@pytest.fixture
async def start(postgres: PostgresServer, ledger: Ledger) -> AsyncIterator[Start]:
    url = await postgres.make()
    nodes: list[Speaker] = []

    async def start() -> Speaker:
        node = Speaker(url, ledger)
        nodes.append(node)
        await node.log.open()
        return node

    yield start
    for node in nodes:
        await node.close()


async def text(reader: Subscription) -> str:
    found = ""
    while entries := await reader.take():
        found += "".join(getattr(entry.event, "content", "") for entry in entries)
    return found


async def test_a_batch_that_is_the_next_one_is_shown_without_a_look_at_the_database(start: Start) -> None:
    writes, reads = await start(), await start()
    writer = await writes.begin("one ")
    reader = await reads.reads()
    assert await text(reader) == "one "
    before = len(writes.told)
    await writes.say(writer, "two ", "three ")
    first, second = writes.told[before:]
    reads.following.came(first)
    assert await text(reader) == "two "
    reads.following.came(first)
    reads.following.came(second)
    assert await text(reader) == "three "
    assert not reads.missed


async def test_a_gap_is_read_in_the_database_and_so_is_what_is_only_told_of(start: Start) -> None:
    writes, reads = await start(), await start()
    writer = await writes.begin("one ")
    reader = await reads.reads()
    before = len(writes.told)
    await writes.say(writer, "two ", "three ", "four ", "five ")
    _, _, third, fourth = writes.told[before:]
    reads.following.came(third)
    assert reads.missed
    assert await text(reader) == "one "
    await writes.say(writer, "six ")
    await reads.read_missed()
    assert await text(reader) == "two three four five six "
    reads.following.came(fourth)
    await writes.say(writer, "seven")
    reads.following.came(BatchMessage(fourth.node, writes.told[-1].number, 0.0))
    await reads.read_missed()
    assert await text(reader) == "seven"


async def test_a_batch_that_the_database_lacks_is_not_waited_for(start: Start) -> None:
    writes, reads = await start(), await start()
    writer = await writes.begin("one ")
    reader = await reads.reads()
    node, number = writes.told[-1].node, writes.told[-1].number
    reads.following.came(BatchMessage(node, number + 5, 0.0))
    await reads.read_missed()
    assert not reads.missed
    await writes.say(writer, "two")
    reads.following.came(writes.told[-1])
    assert await text(reader) == "one two"


@pytest.mark.parametrize("seed", range(8))
async def test_the_text_is_whole_and_each_piece_comes_once_however_batches_come(start: Start, seed: int) -> None:
    rng = random.Random(seed)
    writes, reads = await start(), await start()
    writer = await writes.begin()
    reader = await reads.reads()
    begun = len(writes.told)
    await writes.say(writer, *WORDS)
    coming = [message for message in writes.told[begun:] for _ in range(rng.choice((0, 1, 1, 1, 2)))]
    if seed % 2:
        rng.shuffle(coming)
    found = ""
    for message in coming:
        reads.following.came(message)
        if rng.random() < 0.3:
            await reads.read_missed()
        found += await text(reader)
        assert "".join(WORDS).startswith(found)
    await reads.read_missed()
    await reads.following.look()
    assert found + await text(reader) == "".join(WORDS)


async def test_a_batch_that_comes_after_its_node_was_buried_changes_nothing(start: Start) -> None:
    dies, reads, goes_on = await start(), await start(), await start()
    writer = await dies.begin("one ")
    reader = await reads.reads()
    begun = len(dies.told)
    await dies.say(writer, "two ", "three ")
    await dies.die()
    reads.following.came(dies.told[begun])  # it was committed, so the burial has it
    adopted = await goes_on.adopt()
    await goes_on.say(adopted, "four ")
    await reads.following.look()
    for late in dies.told:
        reads.following.came(late)
    await goes_on.say(adopted, "five")
    reads.following.came(goes_on.told[-1])
    await reads.read_missed()
    assert await text(reader) == "one two three four five"


async def test_a_node_that_was_fenced_tells_nobody_of_a_batch(start: Start) -> None:
    fenced = await start()
    writer = await fenced.begin("one ")
    told = len(fenced.told)
    await fenced.die()
    writer.append(Text("message", "two"))
    with pytest.raises(GatewayError, match="taken over"):
        await fenced.log.committed()
    assert len(fenced.told) == told
