"""Long answers: given in slices, whole over every transport, and never more of them in memory than is allowed."""

import asyncio
import contextlib
import json
import socket
from functools import partial
from typing import Any

import pytest

from adapters import binding
from adapters import serving as app
from adapters.transports import sockets
from gateway.errors import Code, GatewayError
from gateway.log.segments import LAST, MESSAGE, WHOLE
from gateway.log.stretch import Stretch
from gateway.reading import unsent
from gateway.reading.frames import LARGE, PORTION, Frame, Frames
from gateway.reading.unsent import Unsent
from tests.transports.conftest import Serve, Served
from tests.waiting import until

GIANT = "/fault plain rate:0 giant:1500000 pieces:40 -- "
MANY = "/fault plain rate:0 pieces:20000 -- "


def folded(events: list[dict[str, Any]]) -> str:
    """The text of a turn that was read from its beginning to its end, which must be what its last event says."""
    text = ""
    for event in events:
        if event["event"] == "message":
            text = event["content"] if event.get("replace") else text + event["content"]
    assert events[0]["event"] == "started"
    assert events[-1]["event"] == "completed"
    assert text == events[-1]["content"]
    return text


async def by_sse(served: Served, turn: str) -> list[dict[str, Any]]:
    async with served.session.get(f"{served.url}/api/coze/turns/{turn}/events") as response:
        lines = (await response.text()).split("\n")
    return [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]


async def by_websocket(served: Served, turn: str) -> list[dict[str, Any]]:
    async with served.session.ws_connect(f"{served.url}/api/coze/turns/{turn}/ws", max_msg_size=0) as socket_:
        events = [json.loads(message.data) async for message in socket_]
        assert socket_.close_code == 1000
    return events


async def by_polls(served: Served, turn: str) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = []
    after = ""
    while True:
        _, _, answer = await served.get(f"/api/coze/turns/{turn}/poll?wait=0{after}")
        size = sum(len(event.get("content", "")) for event in answer["events"])
        assert size <= 2 * PORTION or len(answer["events"]) == 1
        events += answer["events"]
        if answer["ended"]:
            return events
        after = f"&after={answer['next']}"


@pytest.mark.parametrize("read", [by_sse, by_websocket, by_polls])
@pytest.mark.parametrize("message", [GIANT, MANY], ids=["one large piece", "many pieces"])
async def test_a_late_reader_gets_a_long_answer_whole(served: Served, read: Any, message: str) -> None:
    turn = (await served.start(message + "late")).topic.removeprefix("turns/")
    state = await served.ended(turn, within=30)
    assert folded(await read(served, turn)) == state["content"]


async def test_topics_and_answers_of_a_shared_socket_never_mix_with_a_large_frame(served: Served) -> None:
    turns = [(await served.start(GIANT + str(n))).topic.removeprefix("turns/") for n in range(3)]
    whole = {turn: (await served.ended(turn, within=30))["content"] for turn in turns}
    events: dict[str, list[dict[str, Any]]] = {turn: [] for turn in turns}
    pongs: list[dict[str, Any]] = []
    async with served.session.ws_connect(f"{served.url}/api/coze/ws", max_msg_size=0) as socket_:
        for turn in turns:
            await socket_.send_json({"type": "subscribe", "topic": f"turns/{turn}"})
            await socket_.send_json({"type": "ping"})
            await socket_.ping()
        while len(pongs) < 3 or not all(got and got[-1]["event"] == "completed" for got in events.values()):
            said = await socket_.receive_json(timeout=10)
            if "events" in said:
                events[said["topic"].removeprefix("turns/")] += said["events"]
            elif said["type"] == "pong":
                pongs.append(said)
    assert {turn: folded(got) for turn, got in events.items()} == whole


async def test_a_reader_who_is_slow_at_the_end_of_a_turn_is_waited_for(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sockets, "_CLOSE_WAIT", 0.01)
    turn = (await served.start(GIANT + "slow")).topic.removeprefix("turns/")
    state = await served.ended(turn, within=30)
    async with served.session.ws_connect(f"{served.url}/api/coze/turns/{turn}/ws", max_msg_size=0) as socket_:
        await asyncio.sleep(0.3)  # its goodbye is long due, and most of it is still to be read
        events = [json.loads(message.data) async for message in socket_]
    assert folded(events) == state["content"]


async def test_a_page_of_messages_is_bounded_and_the_rest_is_the_next_page(served: Served) -> None:
    first = (await served.start("/fault plain rate:0 giant:200000 -- a")).topic.removeprefix("turns/")
    conversation = (await served.ended(first, within=30))["conversationId"]
    for name in "bc":
        door = await served.start(f"/fault plain rate:0 giant:200000 -- {name}", conversationId=conversation)
        await served.ended(door.topic.removeprefix("turns/"), within=30)
    pages: list[list[Any]] = []
    before, more = "", True
    while more:
        _, _, page = await served.get(f"/api/coze/conversations/{conversation}/messages?limit=200{before}")
        assert page["messages"]
        assert sum(len(m["content"]) for m in page["messages"]) <= 256 * 1024
        pages.insert(0, page["messages"])
        before, more = f"&before={page['messages'][0]['id']}", page["hasMore"]
    assert len(pages) == 3
    found = [message for page in pages for message in page]
    assert [message["role"] for message in found] == ["user", "assistant"] * 3
    assert len({message["id"] for message in found}) == 6


@pytest.fixture
def small_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel takes little for a client that does not read; left alone it takes megabytes on loopback."""
    bind = binding.bind

    async def bound(*given: Any) -> list[socket.socket]:
        sockets_ = await bind(*given)
        for one in sockets_:
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 16 * 1024)
        return sockets_

    monkeypatch.setattr(app, "bind", bound)


def stuck(served: Served, path: str) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.connect(("127.0.0.1", int(served.url.rsplit(":", 1)[1])))
    client.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    return client


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("path", ["/events", ""])
async def test_a_client_that_reads_nothing_gives_way_to_one_that_reads(serve: Serve, path: str) -> None:
    served = await serve(max_unsent_bytes=2 * 1024 * 1024)
    turns = [(await served.start(GIANT + str(n))).topic.removeprefix("turns/") for n in range(2)]
    whole = [(await served.ended(turn, within=30))["content"] for turn in turns]
    with contextlib.closing(stuck(served, f"/api/coze/turns/{turns[0]}{path}")):
        await until(lambda: served.services.hub.unsent.held)
        async with asyncio.timeout(10):
            assert folded(await by_sse(served, turns[1])) == whole[1]
    await served.balanced()
    assert served.services.hub.unsent.held == 0


@pytest.mark.usefixtures("small_buffers")
@pytest.mark.parametrize("path", ["turns/{turn}/poll", "turns/{turn}", "conversations/{conversation}/messages"])
async def test_a_place_is_held_until_its_answer_is_read(serve: Serve, path: str) -> None:
    served = await serve(max_connections=10, max_unsent_bytes=2**30)
    turn = (await served.start(MANY + "seat")).topic.removeprefix("turns/")
    conversation = (await served.ended(turn, within=30))["conversationId"]
    connections = served.services.connections
    path = "/api/coze/" + path.format(turn=turn, conversation=conversation)
    clients = [stuck(served, path) for _ in range(10)]
    try:
        await until(lambda: connections.open >= 10)
        await asyncio.sleep(0.2)  # no place may be given back meanwhile
        assert connections.open == 10
        status, headers, problem = await served.get(path)
        assert (status, problem["code"]) == (503, "overloaded")
        assert headers["Retry-After"]
    finally:
        for client in clients:
            client.close()
    await served.balanced()
    assert (await served.get(path))[0] == 200


@pytest.mark.usefixtures("small_buffers")
async def test_all_that_is_unsent_is_given_back_when_its_readers_have_left(serve: Serve) -> None:
    served = await serve()
    turn = (await served.start(GIANT + "left")).topic.removeprefix("turns/")
    await served.ended(turn, within=30)
    hub = served.services.hub
    async with contextlib.AsyncExitStack() as stack:
        for _ in range(20):
            stack.enter_context(contextlib.closing(stuck(served, f"/api/coze/turns/{turn}/events")))
        await until(lambda: len(hub._heartbeats._hearts) >= 20 and hub.unsent.held)
        assert hub.unsent.held < 20 * 512 * 1024 + 4_000_000  # the large frame is there once
    await served.balanced()
    assert hub.unsent.held == 0
    assert len(hub._serving._frames._large) == 0
    left = [timer for timer in asyncio.get_running_loop()._scheduled if not timer.cancelled()]  # type: ignore[attr-defined]
    assert not [timer for timer in left if any(room in repr(timer) for room in ("lastmile", "sockets", "stall"))]


async def test_what_is_reserved_is_bounded_but_one_thing_alone_always_finds_room() -> None:
    room = Unsent(100)
    with room.reserve(500):
        with pytest.raises(GatewayError) as refused:
            room.reserve(1)
        assert refused.value.code is Code.OVERLOADED
        assert refused.value.retry_after
    first, second = room.reserve(60), room.reserve(40)
    with pytest.raises(GatewayError):
        room.reserve(1)
    first.close()
    first.close()
    room.reserve(60).close()
    second.close()
    assert room.held == 0


async def test_the_longest_stalled_client_is_cut_first_and_none_that_has_only_just_stalled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    room, cut = Unsent(100), list[str]()
    holds = [room.note(40, partial(cut.append, name)) for name in "abc"]
    assert room.held == 120
    room.reserve(30).close()
    assert cut == []
    monkeypatch.setattr(unsent, "_STUCK_FOR", 0.0)
    room.reserve(30).close()
    assert cut == ["a", "b"]
    assert room.held == 40
    for hold in holds:
        hold.close()
    room.close()


def test_kept_frames_are_bounded_in_bytes_and_large_ones_live_with_their_readers() -> None:
    frames = Frames()
    for number in range(200):
        frames.keep("log", number, Frame(bytes(100_000), 1, number))
    assert frames.size <= 4 * 1024 * 1024
    assert frames.get(0) is None
    assert frames.get(199) is not None
    large = frames.keep("log", "large", Frame(bytes(LARGE + 1), 1, 1))
    assert frames.get("large") is large
    del large
    assert frames.get("large") is None


def test_slices_of_a_stretch_are_whole_and_end_at_the_same_places_wherever_they_begin() -> None:
    stretch = Stretch(1, "k", "e", 1, "t")
    stretch.apply(WHOLE, b'"event":"started"')
    for number in range(3000):
        stretch.apply(MESSAGE, f"{number} " + "x" * (number % 50))
    stretch.apply(WHOLE, b'"event":"completed"')
    whole = stretch.read(after=0)
    ends: list[set[int]] = []
    for after in (0, 1, 700, 1500):
        at, found, mine = after, [], set()
        while entries := stretch.read(after=at, most=5000):
            found += entries
            assert sum(len(entry.body) for entry in entries) <= 2 * 5000 + 100
            at = entries[-1].sequence
            mine.add(at)
        assert at == stretch.last
        text = "".join(json.loads(b"{%b}" % entry.body).get("content", "") for entry in found)
        expected = stretch.read(after=after)
        assert text == "".join(json.loads(b"{%b}" % entry.body).get("content", "") for entry in expected)
        ends.append(mine)
    assert len(whole) == 3
    assert ends[0] == ends[1]
    assert {end for end in ends[0] if end > 1700} == {end for end in ends[3] if end > 1700}


def test_a_slice_before_the_last_event_does_not_make_the_whole_text_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[object] = []
    body = Stretch._body

    def noted(segment: Any) -> Any:
        made.append(segment)
        return segment

    monkeypatch.setattr(Stretch, "_body", lambda self, segment: body(self, noted(segment)))
    stretch = Stretch(1, "k", "e", 1, "t")
    stretch.apply(WHOLE, b'"event":"started"')
    for _ in range(40):
        stretch.apply(MESSAGE, "x" * 1000)
    stretch.apply(LAST, b'"event":"completed","content":""')
    at = 0
    while entries := stretch.read(after=at, most=5000):
        at = entries[-1].sequence
    assert at == stretch.last
    assert len(made) == 2
