"""Clients who break off, vanish, or never read: cut by a deadline of their own, and nobody else notices."""

import asyncio
import os
import random
import re
import time
from pathlib import Path

import aiohttp

from gateway.simulator import whole_text
from tests.faults.coze import BASELINE_KINDS, gateway, ledger, patience, simulated
from tests.faults.network import cable, connected, get, read_head, reset
from tests.faults.proxy import proxied
from tests.faults.reading import TRANSPORTS, Reader, client
from tests.processes import GatewayProcess
from tests.waiting import until

CLOSED = int(os.environ.get("CLOSED", "900"))
CONNECTIONS = ("connection", "websocket")
ENDLESS = "/fault endless rate:400 -- go on"


async def _open(session: aiohttp.ClientSession, url: str, kinds: tuple[str, ...] = CONNECTIONS) -> int:
    held = await ledger(session, url)
    return sum(held.get(kind, 0) for kind in kinds)


async def _closed(session: aiohttp.ClientSession, url: str, transport: str) -> dict[str, int]:
    """Why connections of `transport` closed, and how many."""
    async with session.get(f"{url}/metrics") as response:
        lines = re.findall(r"^gateway_connections_closed_total\{(.*)\} (\S+)$", await response.text(), re.M)
    found = [(dict(re.findall(r'(\w+)="(\w+)"', labels)), int(float(value))) for labels, value in lines]
    return {labels["reason"]: value for labels, value in found if labels["transport"] == transport}


async def _until_open(session: aiohttp.ClientSession, url: str, count: int, *, within: float) -> float:
    began = time.monotonic()

    async def met() -> bool:
        return await _open(session, url) == count

    await until(met, within=within)
    return time.monotonic() - began


def _descriptors(process: GatewayProcess) -> int:
    return len(os.listdir(f"/proc/{process.pid}/fd"))


def _memory_kib(process: GatewayProcess) -> int:
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024


async def test_thousands_of_connections_closed_in_six_ways_leave_nothing_behind(tmp_path: Path) -> None:
    async with (
        simulated(rate=20) as coze,
        gateway(tmp_path, coze.url, GATEWAY_SEND_TIMEOUT="1", GATEWAY_TURN_TIMEOUT="600") as process,
        client() as session,
    ):
        reader = Reader()
        asking = asyncio.create_task(reader.ask(session, process.url, ENDLESS))
        await reader.until(lambda r: r.text)
        events, sockets = f"/api/coze/turns/{reader.turn_id}/events", f"/api/coze/turns/{reader.turn_id}/ws"
        chance = random.Random(6)
        done = dict.fromkeys(("fin", "rst", "half-close", "mid-head", "mid-frame", "vanished"), 0)

        def one(way: str, websocket: bool) -> None:
            sock = connected(process.url, receive_buffer=4096 if way == "vanished" else 0)
            head = get(sockets, websocket=True) if websocket else get(events)
            if way == "mid-head":
                sock.sendall(head[: chance.randrange(1, len(head) - 2)])
                (reset if chance.random() < 0.5 else type(sock).close)(sock)
            else:
                sock.sendall(head)
                read_head(sock)
                match way:
                    case "fin":
                        sock.close()
                    case "rst":
                        reset(sock)
                    case "half-close":
                        sock.shutdown(1)
                        while sock.recv(65536):
                            pass
                        sock.close()
                    case "mid-frame":
                        if websocket:
                            sock.sendall(b"\x81\xfe\x01\x00\x00\x00")
                        sock.recv(1)
                        reset(sock)
                    case "vanished":
                        reset(sock)
            done[way] += 1

        async def round_of(count: int) -> None:
            ways = [way for _ in range(count // len(done)) for way in done]
            limit = asyncio.Semaphore(16)

            async def bounded(way: str) -> None:
                async with limit:
                    await asyncio.to_thread(one, way, chance.random() < 0.5)

            await asyncio.gather(*(bounded(way) for way in ways))
            await _until_open(session, process.url, 1, within=patience(10))

        await round_of(CLOSED // 3)
        await asyncio.sleep(1)  # what is freed late is measured with the rest
        before, tasks, memory = (
            _descriptors(process),
            await _open(session, process.url, ("task",)),
            _memory_kib(process),
        )
        await round_of(CLOSED - CLOSED // 3)
        await asyncio.sleep(1)  # the same as before
        assert _descriptors(process) <= before + 4
        assert await _open(session, process.url, ("task",)) == tasks
        assert _memory_kib(process) - memory < 1 * CLOSED + 4096
        assert set(done.values()) == {CLOSED // 3 // 6 + (CLOSED - CLOSED // 3) // 6}
        assert not reader.over  # who stayed did not notice
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)
        assert "Traceback" not in "\n".join(process.text)


async def test_a_websocket_that_answers_no_ping_is_cut(tmp_path: Path) -> None:
    async with (
        simulated() as coze,
        gateway(tmp_path, coze.url, GATEWAY_SEND_TIMEOUT="1") as process,
        client() as session,
    ):
        reader = Reader()
        await reader.ask(session, process.url, "/fault plain rate:0 pieces:4 -- hello")
        await _until_open(session, process.url, 0, within=patience(5))
        sock = connected(process.url)
        sock.sendall(get(f"/api/coze/conversations/{reader.conversation_id}/ws", websocket=True))
        assert b" 101 " in read_head(sock)
        await _until_open(session, process.url, 1, within=patience(2))
        took = await _until_open(session, process.url, 0, within=patience(5))
        assert 0.5 < took < 2 * 0.5 + 1 + patience(1)
        sock.close()


async def test_a_client_that_never_reads_is_cut_and_slows_nobody(tmp_path: Path) -> None:
    async with (
        simulated() as coze,
        gateway(tmp_path, coze.url, GATEWAY_SEND_TIMEOUT="2", GATEWAY_TURN_TIMEOUT="60") as process,
        client() as session,
    ):
        reader = Reader()
        asking = asyncio.create_task(reader.ask(session, process.url, "/fault endless rate:3000 -- go on"))
        await reader.until(lambda r: r.text)
        memory = _memory_kib(process)
        asleep = []
        for websocket in (False, True) * 10:
            sock = connected(process.url, receive_buffer=4096)
            where = "ws" if websocket else "events"
            sock.sendall(get(f"/api/coze/turns/{reader.turn_id}/{where}", websocket=websocket))
            asleep.append(sock)
        await _until_open(session, process.url, 21, within=patience(5))
        grown = _memory_kib(process) - memory
        await _until_open(session, process.url, 1, within=patience(15))
        assert grown < 20 * 512 + 16384
        for transport in ("sse", "websocket"):  # they are there, and answer the kernel's probes
            assert await _closed(session, process.url, transport) == {"slow": 10}
        gaps = [later - earlier for earlier, later in zip(reader.times, reader.times[1:], strict=False)]
        assert max(gaps) < patience(1)
        for sock in asleep:
            sock.close()
        asking.cancel()
        await asyncio.gather(asking, return_exceptions=True)


async def test_a_peer_whose_cable_is_pulled_is_noticed(tmp_path: Path) -> None:
    with cable() as network:
        environment = {
            "GATEWAY_SEND_TIMEOUT": "2",
            "GATEWAY_HOST": network.address,
            "GATEWAY_ALLOW_ANONYMOUS": "true",
            "GATEWAY_ADMIN_PORT": "0",
        }
        async with simulated() as coze, gateway(tmp_path, coze.url, **environment) as process, client() as session:
            operators = str((await process.logged("gateway.admin_ready"))["url"])
            reader = Reader()
            await reader.ask(session, process.url, "/fault plain rate:0 pieces:4 -- hello")
            base = f"/api/coze/conversations/{reader.conversation_id}"
            host = process.url.removeprefix("http://").encode()
            for request, status in (
                (get(f"{base}/events"), "200"),
                (get(f"{base}/ws", websocket=True), "101"),
                (get(f"{base}/poll?wait=60&after=0").replace(b"after=0", b"after=" + reader.position.encode()), "")
                if reader.position
                else (b"", ""),
            ):
                if not status:
                    continue
                asked = request.replace(b"Host: 127.0.0.1", b"Host: " + host)
                assert await asyncio.to_thread(network.listen, process.url, asked) == status
            await _until_open(session, operators, 2, within=patience(5))
            network.pull()
            took = await _until_open(session, operators, 0, within=patience(15))
            assert took < 2 * 0.5 + 2 + patience(2)
            for transport in ("sse", "websocket"):
                assert (await _closed(session, operators, transport))["half_open"] == 1
            assert (await ledger(session, operators)).get("subscription", 0) == 0


async def test_the_line_between_client_and_gateway_may_break_at_any_byte(tmp_path: Path) -> None:
    message = "/fault plain pieces:120 rate:40 -- a bad line"
    chance = random.Random(3)
    async with (
        simulated() as coze,
        gateway(tmp_path, coze.url) as process,
        proxied(process.url) as line,
        client() as session,
    ):
        reader = Reader()
        asking = asyncio.create_task(reader.ask(session, line.url, message))
        await reader.until(lambda r: r.text)
        others = []
        for transport in TRANSPORTS:
            other = Reader(reader.book)
            other.turn_id = reader.turn_id
            others.append(asyncio.create_task(other.finish(session, lambda: line.url, transports=(transport,))))
        for _ in range(12):
            await asyncio.sleep(chance.uniform(0.05, 0.3))  # any moment
            line.cut_all(chance.choice(("close", "reset")))
        await asyncio.gather(asking, return_exceptions=True)  # cut by FIN it just ends
        async with asyncio.timeout(patience(10)):
            await reader.finish(session, lambda: line.url)
            await asyncio.gather(*others)
        assert line.fired["reset"] + line.fired["close"] >= 12
        assert reader.text == whole_text(message)
        assert reader.last["recovered"] is False
        assert coze.posts_of(message) == 1
        left = await _until_open(session, process.url, 0, within=patience(5))
        assert left < patience(5)
        open_now = await ledger(session, process.url)
        assert {kind: open_now.get(kind, 0) for kind in BASELINE_KINDS} == dict.fromkeys(BASELINE_KINDS, 0)


async def test_a_thousand_come_back_at_once_and_all_have_the_same_text(tmp_path: Path) -> None:
    message = "/fault plain pieces:200 rate:25 -- a crowd"
    count = int(os.environ.get("CROWD", "300"))
    async with simulated() as coze, gateway(tmp_path, coze.url) as process, client() as session:
        reader = Reader()
        asking = asyncio.create_task(reader.ask(session, process.url, message))
        await reader.until(lambda r: len(r.events) > 10)
        positions = [(p, t) for p, t in reader.book.texts.items() if t]
        chance = random.Random(1)
        crowd = []
        for number in range(count):
            one = Reader(reader.book)
            one.turn_id = reader.turn_id
            one.position, one.text = chance.choice(positions)
            crowd.append((one, TRANSPORTS[number % 3]))
        began = time.monotonic()
        async with asyncio.timeout(patience(30)):
            listening = [asyncio.create_task(one.listen(session, process.url, how)) for one, how in crowd]
            await asyncio.gather(*(one.until(lambda r: r.events, within=patience(20)) for one, _ in crowd))
            caught_up = time.monotonic() - began
            await asyncio.gather(asking, *listening)
        assert caught_up < patience(5)
        assert all(one.last == reader.last and one.resets == 0 for one, _ in crowd)
        assert reader.text == whole_text(message)


async def test_a_turn_that_everyone_has_left_is_cancelled_when_it_was_asked_to_be(tmp_path: Path) -> None:
    async with (
        simulated(rate=20) as coze,
        gateway(tmp_path, coze.url, GATEWAY_ABANDON_SECONDS="0.5") as process,
        client() as session,
    ):
        readers = {}
        for choice in ("continue", "cancel"):
            reader = readers[choice] = Reader()
            message = f"/fault plain pieces:60 -- {choice}"
            asking = asyncio.create_task(reader.ask(session, process.url, message, onDisconnect=choice))
            await reader.until(lambda r: r.text)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
        await until(lambda: coze.requests["cancel"], within=patience(10))
        for choice, ends in (("continue", "completed"), ("cancel", "cancelled")):
            async with asyncio.timeout(patience(10)):
                await readers[choice].finish(session, lambda: process.url)
            assert readers[choice].last["event"] == ends
        assert coze.requests["cancel"] == 1

        async def balanced() -> bool:
            open_now = await ledger(session, process.url)
            return not any(open_now.get(kind, 0) for kind in BASELINE_KINDS)

        await until(balanced, within=patience(5))
