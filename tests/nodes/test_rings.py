"""Rings arrive, however much they have to tell, and whatever else is said on their channel."""

from collections.abc import AsyncIterator

import psycopg
import pytest

from gateway.nodes.rings import Ring, Rings
from gateway.telemetry.ledger import Ledger
from tests.databases import PostgresServer
from tests.waiting import until

CHANNEL = "coze_gateway"


class Heard:
    """Rings of one node, and what it hears."""

    def __init__(self, url: str, ledger: Ledger) -> None:
        self.url = url
        self.heard: list[Ring] = []
        self.rings = Rings(url, ledger=ledger, heard=self.heard.append)
        self.rings.alone = False
        self.rings.start()

    async def listens(self) -> None:
        async def heard() -> bool:
            self.rings.adopt()
            return bool(self.heard)

        await until(heard, within=10)


@pytest.fixture
async def one(postgres: PostgresServer, ledger: Ledger) -> AsyncIterator[Heard]:
    made = Heard(await postgres.make(), ledger)
    await made.listens()
    yield made
    await made.rings.close()


async def test_who_has_post_is_told_once_however_many_questions_there_are(one: Heard) -> None:
    for number in range(2000):
        one.rings.post(1_000_000_000 + number % 2)
    await until(lambda: any(ring.post == [1_000_000_000, 1_000_000_001] for ring in one.heard))


async def test_a_ring_tells_of_as_many_logs_as_it_can_carry_and_of_all_else(one: Heard) -> None:
    keys = [f"shop:{'商' * 120}{number}" for number in range(60)]
    one.rings.committed(7, 3, keys)
    one.rings.post(9)
    await until(lambda: any((ring.node, ring.batch, ring.post) == (7, 3, [9]) for ring in one.heard))
    (ring,) = [ring for ring in one.heard if ring.batch == 3]
    assert ring.begun == keys[: len(ring.begun)]
    assert len(ring.begun) >= 5


@pytest.mark.parametrize("said", ["", "no ring", "00", "93c0c0c0"])
async def test_what_somebody_else_says_on_the_channel_makes_nobody_deaf(one: Heard, said: str) -> None:
    with psycopg.connect(one.url, autocommit=True) as connection:
        connection.execute("SELECT pg_notify(%s, %s)", (CHANNEL, said))
    one.rings.post(9)
    await until(lambda: any(ring.post == [9] for ring in one.heard))
