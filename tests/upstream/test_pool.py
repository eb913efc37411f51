"""Connections that are used again: only while Coze surely keeps them, and by bursts together."""

import asyncio
import time

from gateway.upstream.pool import KEEP, Pool
from gateway.upstream.protocol import ChatRef
from tests.upstream.conftest import Connect
from tests.upstream.servers import Peer, json_answer, sample, serving
from tests.waiting import until

REF = ChatRef("1", "2")
STATE = json_answer(sample("retrieve.json"))


def closing_after(seconds: float, closed: list[float]) -> "object":
    """Answers, and closes the connection when nothing more has come for so long."""

    async def play(peer: Peer) -> None:
        await peer.send(STATE)
        asked = peer.request

        def close() -> None:
            if peer.request is asked:
                closed.append(time.monotonic())
                peer.writer.close()

        asyncio.get_running_loop().call_later(seconds, close)

    return play


async def test_it_learns_from_closings_how_long_coze_keeps_an_idle_connection(connect: Connect) -> None:
    closed: list[float] = []
    async with serving(closing_after(0.3, closed)) as server, connect(server.url) as coze:  # type: ignore[arg-type]
        pool = coze._exchanges._session.connector
        assert isinstance(pool, Pool)
        assert pool.reusable_for == KEEP
        for _ in range(5):
            await coze.retrieve(REF)
        assert server.connections == 1  # a burst shares one
        await until(lambda: pool.reusable_for < KEEP)
        assert 0.1 < pool.reusable_for < 0.25
        await coze.retrieve(REF)
        await coze.retrieve(REF)
        assert server.connections == 2
        (idle,) = pool._idle.values()
        await until(lambda: time.monotonic() - idle > pool.reusable_for)
        if not closed[1:]:
            await coze.retrieve(REF)
            assert server.connections == 3  # it was still open, and not used any more
        assert len(pool._watched) <= 2


async def test_an_end_that_the_loop_has_not_seen_yet_is_seen_before_a_message_is_written(connect: Connect) -> None:
    peers: list[Peer] = []

    async def play(peer: Peer) -> None:
        peers.append(peer)
        await peer.send(STATE)

    async with serving(play) as server, connect(server.url) as coze:
        for times in range(1, 20):
            await coze.retrieve(REF)
            assert server.connections == times
            peers[-1].writer.close()  # its FIN is with the kernel, and the loop is busy until the next request
            await asyncio.sleep(0)


async def test_what_is_closed_with_an_error_while_idle_is_no_line_in_the_log(connect: Connect) -> None:
    peers: list[Peer] = []

    async def play(peer: Peer) -> None:
        peers.append(peer)
        await peer.send(STATE)

    async with serving(play) as server, connect(server.url) as coze:
        pool = coze._exchanges._session.connector
        assert isinstance(pool, Pool)
        await coze.retrieve(REF)
        peers[-1].reset()
        await until(lambda: not pool._idle)
        assert pool._watched == set()
        await coze.retrieve(REF)
        assert server.connections == 2
