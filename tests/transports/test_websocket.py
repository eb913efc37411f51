"""WebSocket beyond its events: heartbeats, close codes, what a client may and may not say."""

import asyncio
import json
import socket as sockets

import aiohttp
import pytest

from tests.transports.conftest import Serve, Served
from tests.transports.raw import BINARY, CLOSE, PING, PONG, TEXT, RawSocket, frame, never_reading
from tests.transports.readers import Door, everything, websocket
from tests.waiting import until

ENDLESS = "/fault plain pieces:100000 rate:50 -- endless"


@pytest.fixture
async def running(served: Served) -> Door:
    return await served.start(ENDLESS)


async def test_a_turn_s_socket_closes_with_1000_after_the_last_event(served: Served) -> None:
    door = await served.start("/fault plain pieces:10 rate:100 -- ws")
    assert (await everything(websocket, door))[-1]["event"] == "completed"  # the reader checks the code
    raw = await RawSocket.open(served.url, f"/api/coze/{door.topic}/ws")
    assert await raw.closed() == 1000
    raw.send(CLOSE, (1000).to_bytes(2, "big"))
    await raw.at_end(within=1)
    await raw.hang_up()


async def test_pings_are_answered_and_pings_come(serve: Serve) -> None:
    served = await serve(heartbeat_interval=0.2)
    conversation = (await served.ask("/fault plain pieces:2 rate:0 -- x"))[0]["conversationId"]
    for path in (f"/api/coze/conversations/{conversation}/ws", "/api/coze/ws"):
        raw = await RawSocket.open(served.url, path)
        raw.send(TEXT, b'{"type":"ping"}')
        raw.send(PING, b"are you there")
        got = [await raw.receive(within=1), await raw.receive(within=1)]
        assert (TEXT, b'{"type":"pong"}') in got
        assert (PONG, b"are you there") in got
        for _ in range(3):
            assert (await raw.receive(within=1)).opcode == PING
            raw.send(PONG)
        await raw.hang_up()


async def test_a_peer_that_answers_no_ping_is_cut(serve: Serve) -> None:
    served = await serve(heartbeat_interval=0.2, send_timeout=0.5)
    conversation = (await served.ask("/fault plain pieces:2 rate:0 -- x"))[0]["conversationId"]
    raw = await RawSocket.open(served.url, f"/api/coze/conversations/{conversation}/ws")
    await raw.at_end(within=2 * 0.2 + 0.5 + 0.5)
    await raw.hang_up()
    await served.balanced()


BREACHES = (
    (frame(TEXT, b'{"type":"hello"}'), 1008),
    (frame(TEXT, b"not json"), 1008),
    (frame(TEXT, b'{"type":"ping","more":1}'), 1008),
    (frame(TEXT, b"[" * 60_000), 1008),
    (frame(BINARY, b"\0\1"), 1008),
    (frame(TEXT, b"\xff\xfe"), 1007),
    (frame(TEXT, b"x" * 70_000), 1009),
    (frame(0x3, b"x"), 1002),
    (frame(TEXT, b"x", reserved=4), 1002),
    (frame(PING, b"x" * 126), 1002),
    (frame(PING, b"x", final=False), 1002),
    (frame(0x0, b"x"), 1002),
    (frame(TEXT, b"x", final=False) + frame(TEXT, b"y"), 1002),
    (frame(CLOSE, b"\x03"), 1002),
    (frame(CLOSE, (1005).to_bytes(2, "big")), 1002),
    (frame(CLOSE, (1000).to_bytes(2, "big") + b"\xff"), 1007),
)


async def test_what_breaks_the_rules_is_told_so_by_the_close_code(served: Served, running: Door) -> None:
    async def breach(sent: bytes, code: int) -> None:
        raw = await RawSocket.open(served.url, f"/api/coze/{running.topic}/ws")
        raw.writer.write(sent)
        assert await raw.closed() == code, sent[:20]
        raw.send(CLOSE, code.to_bytes(2, "big"))
        await raw.at_end(within=3)
        await raw.hang_up()

    await asyncio.gather(*(breach(*case) for case in BREACHES))


async def test_a_message_in_fragments_and_frames_in_single_bytes_are_understood(served: Served, running: Door) -> None:
    raw = await RawSocket.open(served.url, f"/api/coze/{running.topic}/ws")
    sent = frame(TEXT, b'{"type"', final=False) + frame(PING, b"between") + frame(0x0, b':"ping"}')
    for byte in sent:
        raw.writer.write(bytes([byte]))
        await raw.writer.drain()
        await asyncio.sleep(0)
    wanted = {(PONG, b"between"), (TEXT, b'{"type":"pong"}')}
    async with asyncio.timeout(5):
        while wanted:
            wanted.discard(await raw.receive())
    await raw.hang_up()


async def test_a_client_s_goodbye_is_answered_and_the_connection_ends(served: Served, running: Door) -> None:
    for payload in (b"", (1000).to_bytes(2, "big"), (1001).to_bytes(2, "big") + "再见".encode()):
        raw = await RawSocket.open(served.url, f"/api/coze/{running.topic}/ws")
        raw.send(CLOSE, payload)
        assert await raw.closed() == (int.from_bytes(payload[:2], "big") or 1000)
        await raw.at_end(within=1)
        await raw.hang_up()
    await until(lambda: not served.services.ledger.count("subscription"), within=1)


async def test_a_client_that_ignores_the_close_is_cut_soon(served: Served) -> None:
    events = await served.ask("/fault plain pieces:2 rate:0 -- x")
    raw = await RawSocket.open(served.url, f"/api/coze/turns/{events[0]['turnId']}/ws")
    assert await raw.closed() == 1000
    await raw.at_end(within=4)
    await raw.hang_up()


async def test_a_refused_handshake_is_a_plain_answer_or_a_close_code_that_says_to_come_back(serve: Serve) -> None:
    served = await serve(max_connections=1)
    door = await served.start(ENDLESS)
    for headers, status in (({"Origin": "https://evil.example"}, 403), ({"Sec-WebSocket-Version": "9"}, 426)):
        with pytest.raises(aiohttp.WSServerHandshakeError) as refused:
            await served.session.ws_connect(f"{served.url}/api/coze/{door.topic}/ws", headers=headers)
        assert refused.value.status in (status, 400)
    async with served.session.ws_connect(f"{served.url}/api/coze/{door.topic}/ws"):
        for path in (f"/api/coze/{door.topic}/ws", "/api/coze/ws"):
            async with served.session.ws_connect(f"{served.url}{path}") as socket:
                message = await socket.receive()
                assert (message.type, message.data) == (aiohttp.WSMsgType.CLOSE, 1013)
    status, _, problem = await served.get(f"/api/coze/{door.topic}/ws")
    assert (status, problem["code"]) == (400, "invalid_request")


async def test_a_reset_in_the_middle_of_a_frame_leaves_nothing_behind(served: Served, running: Door) -> None:
    key = b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n"
    for number in range(100):
        way = (
            b"ws HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" + key
            if number % 2
            else b"events HTTP/1.1\r\n"
        )
        request = f"GET /api/coze/{running.topic}/".encode() + way + b"Host: 127.0.0.1\r\n\r\n"
        client = never_reading(served.url, request)
        await asyncio.sleep(0.002)  # as long as some of its request takes
        client.send(frame(TEXT, json.dumps({"type": "ping"}).encode())[:7])
        client.setsockopt(sockets.SOL_SOCKET, sockets.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    await until(lambda: not served.services.ledger.count("subscription"), within=5)
