"""What the gateway has no route for goes to Coze as it came, and the answer comes back as Coze gave it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from adapters.serving import drain
from tests.doors.hosting import hosted
from tests.transports.conftest import Serve, Served
from tests.waiting import until

GET, POST, PUT, DELETE = "GET", "POST", "PUT", "DELETE"
PATHS: dict[str, tuple[str, ...]] = {
    "/open_api/knowledge/document/create": (POST,),
    "/open_api/knowledge/document/delete": (POST,),
    "/open_api/knowledge/document/list": (POST,),
    "/open_api/knowledge/document/update": (POST,),
    "/open_api/v2/chat": (POST,),
    "/v1/api_apps": (GET, POST),
    "/v1/api_apps/75": (PUT, DELETE),
    "/v1/api_apps/75/events": (GET, POST, DELETE),
    "/v1/apps": (GET,),
    "/v1/apps/75/collaborators": (POST,),
    "/v1/apps/75/collaborators/76": (DELETE,),
    "/v1/audio/live/75": (GET,),
    "/v1/audio/rooms": (POST,),
    "/v1/audio/speech": (POST,),
    "/v1/audio/transcriptions": (POST,),
    "/v1/audio/voiceprint_groups": (GET, POST),
    "/v1/audio/voiceprint_groups/75": (PUT, DELETE),
    "/v1/audio/voiceprint_groups/75/features": (GET, POST),
    "/v1/audio/voiceprint_groups/75/features/76": (PUT, DELETE),
    "/v1/audio/voiceprint_groups/75/speaker_identify": (POST,),
    "/v1/audio/voices": (GET,),
    "/v1/audio/voices/clone": (POST,),
    "/v1/bot/create": (POST,),
    "/v1/bot/get_online_info": (GET,),
    "/v1/bot/publish": (POST,),
    "/v1/bot/update": (POST,),
    "/v1/bots": (GET,),
    "/v1/bots/75": (GET,),
    "/v1/bots/75/collaboration_mode": (POST,),
    "/v1/bots/75/collaborators": (POST,),
    "/v1/bots/75/collaborators/76": (DELETE,),
    "/v1/bots/75/unpublish": (POST,),
    "/v1/bots/75/versions": (GET,),
    "/v1/commerce/benefit/benefits/get": (GET,),
    "/v1/commerce/benefit/bill_tasks": (GET,),
    "/v1/commerce/benefit/limitations": (POST,),
    "/v1/connectors/75/bots/76": (PUT,),
    "/v1/connectors/75/install": (POST,),
    "/v1/connectors/75/user_configs": (POST,),
    "/v1/conversation/create": (POST,),
    "/v1/conversation/message/create": (POST,),
    "/v1/conversation/message/delete": (POST,),
    "/v1/conversation/message/list": (POST,),
    "/v1/conversation/message/modify": (POST,),
    "/v1/conversation/message/retrieve": (GET,),
    "/v1/conversation/retrieve": (GET,),
    "/v1/conversations": (GET,),
    "/v1/conversations/75": (PUT, DELETE),
    "/v1/conversations/75/clear": (POST,),
    "/v1/conversations/75/messages/76/feedback": (POST, DELETE),
    "/v1/datasets": (GET, POST),
    "/v1/datasets/75": (PUT, DELETE),
    "/v1/datasets/75/images": (GET,),
    "/v1/datasets/75/images/76": (PUT,),
    "/v1/datasets/75/process": (POST,),
    "/v1/enterprises/75/members": (POST,),
    "/v1/enterprises/75/members/76": (PUT, DELETE),
    "/v1/enterprises/75/organizations": (POST,),
    "/v1/entities/copy_tasks": (POST,),
    "/v1/entities/copy_tasks/75": (GET,),
    "/v1/files/retrieve": (GET,),
    "/v1/files/upload": (POST,),
    "/v1/folders": (GET,),
    "/v1/folders/75": (GET,),
    "/v1/organizations/75": (PUT,),
    "/v1/organizations/75/members": (POST,),
    "/v1/organizations/75/members/76": (PUT,),
    "/v1/organizations/75/people": (GET,),
    "/v1/space/published_bots_list": (GET,),
    "/v1/templates/75/duplicate": (POST,),
    "/v1/users/me": (GET,),
    "/v1/variables": (GET, PUT),
    "/v1/workflow/run": (POST,),
    "/v1/workflows": (GET,),
    "/v1/workflows/75": (GET,),
    "/v1/workflows/75/collaboration_mode": (POST,),
    "/v1/workflows/75/collaborators": (POST,),
    "/v1/workflows/75/collaborators/76": (DELETE,),
    "/v1/workflows/75/run_histories/76": (GET,),
    "/v1/workflows/75/run_histories/76/execute_nodes/77": (GET,),
    "/v1/workflows/75/versions": (GET,),
    "/v1/workflows/resume": (POST,),
    "/v1/workspaces": (GET, POST),
    "/v1/workspaces/75": (PUT,),
    "/v1/workspaces/75/members": (GET, POST, DELETE),
}
"""Coze's paths that are passed on, as its SDKs and its documents name them. Its published OpenAPI description has 82
paths: 72 of these, the eight that the gateway answers itself, and two pages (`/chat_sdk`, `/uibuilder`) that are no
part of the API."""


@dataclass
class Peer:
    """A Coze that repeats what it was sent."""

    url: str = ""
    bodies: list[int] = field(default_factory=list)
    """How much of each body has come."""
    begun: asyncio.Event = field(default_factory=asyncio.Event)
    gone: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.StreamResponse:
        self.bodies.append(0)
        try:
            return await self._answer(request)
        except (asyncio.CancelledError, ConnectionError):
            self.gone.set()
            raise

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        text = b""
        async for piece in request.content.iter_any():
            self.bodies[-1] += len(piece)
            self.begun.set()
            text = (text + piece)[:100]
        said = {"method": request.method, "path": request.raw_path, "headers": dict(request.headers)}
        headers = {"X-Tt-Logid": "2026log", "X-Of-Coze": "yes", "Set-Cookie": "a=b"}
        if "X-Listed" in request.query:
            headers |= {"Connection": "keep-alive, X-Of-Coze"}
        return web.json_response(said | {"body": text.decode("latin-1")}, headers=headers, status=203)


@pytest.fixture
async def peer() -> AsyncIterator[Peer]:
    peer = Peer()
    app = web.Application(client_max_size=2**30)
    app.router.add_route("*", "/{rest:.*}", peer.answer)
    async with hosted(app, handler_cancellation=True) as peer.url:
        yield peer


@pytest.fixture
async def served(peer: Peer, serve: Serve) -> Served:
    return await serve(coze_api_token="pat_gateway", coze_api_base=peer.url)


async def ask(served: Served, method: str, path: str, **more: Any) -> tuple[int, Any, Any]:
    headers = {"Authorization": "Bearer pat_caller"} | more.pop("headers", {})
    url = URL(served.url + path, encoded=True)
    async with served.session.request(method, url, headers=headers, **more) as response:
        return response.status, response.headers, await response.json(content_type=None)


async def test_every_path_of_coze_is_passed_on_as_it_came(served: Served) -> None:
    for path, methods in PATHS.items():
        for method in methods:
            body = {} if method == GET else {"json": {"a": "好"}}
            target = f"{path}?page_num=1&name=%E5%A5%BD%2F"
            status, headers, said = await ask(served, method, target, headers={"Agw-Js-Conv": "str"}, **body)
            assert status == 203, path
            assert (said["method"], said["path"]) == (method, target)
            assert said["headers"]["Authorization"] == "Bearer pat_caller"
            assert said["headers"]["Agw-Js-Conv"] == "str"
            assert headers["X-Tt-Logid"] == "2026log"
            assert headers["X-Of-Coze"] == "yes"
            assert "Set-Cookie" not in headers
            if body:
                assert said["headers"]["Content-Length"] == str(len(said["body"].encode("latin-1")))
    assert len(PATHS) >= 72


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/models", "/v1/models/x", "/v1/responses", "/v2/x"])
async def test_what_is_not_coze_s_is_not_passed_on(served: Served, peer: Peer, path: str) -> None:
    status, _, _ = await ask(served, GET, path)
    assert status == 404
    assert peer.bodies == []


async def test_headers_that_are_about_the_connection_by_their_senders_own_word_stay_here(served: Served) -> None:
    sent = {"Connection": "keep-alive, X-Of-Client", "X-Of-Client": "1", "X-Other": "2"}
    _, headers, said = await ask(served, GET, "/v1/bots?X-Listed=1", headers=sent)
    assert "X-Of-Client" not in said["headers"]
    assert said["headers"]["X-Other"] == "2"
    assert "X-Of-Coze" not in headers


async def test_a_method_that_is_about_the_connection_is_not_passed_on(served: Served, peer: Peer) -> None:
    status, _, said = await ask(served, "TRACE", "/v1/bots")
    assert (status, said["code"]) == (405, 4000)
    assert peer.bodies == []


async def test_a_body_that_is_too_large_is_413_before_coze_has_it(peer: Peer, serve: Serve) -> None:
    served = await serve(coze_api_token="pat", coze_api_base=peer.url, max_upload_bytes=1000)
    status, _, said = await ask(served, POST, "/v1/files/upload", data=b"x" * 1001)
    assert (status, said["code"]) == (413, 4000)
    assert peer.bodies == []

    async def unmeasured() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 100

    status, _, said = await ask(served, POST, "/v1/files/upload", data=unmeasured())
    assert (status, said["code"]) == (413, 4000)


async def test_a_client_that_leaves_ends_the_request_to_coze(served: Served, peer: Peer) -> None:
    more = asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        await more.wait()

    upload = asyncio.create_task(ask(served, POST, "/v1/files/upload", data=half()))
    await asyncio.wait_for(peer.begun.wait(), 10)
    upload.cancel()
    await asyncio.wait([upload])
    await asyncio.wait_for(peer.gone.wait(), 10)
    await served.balanced()


@pytest.mark.parametrize("method", [GET, DELETE, PUT])
async def test_what_is_passed_on_is_sent_once_also_if_coze_closes_before_its_answer(serve: Serve, method: str) -> None:
    heads: list[bytes] = []

    async def closing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
            heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    async with await asyncio.start_server(closing, "127.0.0.1", 0) as server:
        served = await serve(
            coze_api_token="pat", coze_api_base=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        )
        assert (await ask(served, method, "/v1/bots"))[2] == {}
        assert (await ask(served, method, "/v1/bots/75"))[2]["code"] == 5000
    assert [head.split(b" ")[1] for head in heads] == [b"/v1/bots", b"/v1/bots/75"]


async def test_a_drain_waits_for_what_is_passed_on_and_passes_nothing_more_on(peer: Peer, serve: Serve) -> None:
    served = await serve(coze_api_token="pat", coze_api_base=peer.url, drain_seconds=20)
    more = asyncio.Event()

    async def half() -> AsyncIterator[bytes]:
        yield b"x" * 1000
        await more.wait()
        yield b"y"

    upload = asyncio.create_task(ask(served, POST, "/v1/files/upload", data=half()))
    await asyncio.wait_for(peer.begun.wait(), 10)
    draining = asyncio.create_task(drain(served.services.settings, served.services))
    await until(lambda: served.services.turns.draining)
    status, headers, said = await ask(served, GET, "/v1/bots")
    assert (status, said["code"]) == (503, 4009)
    assert headers["Retry-After"]
    done, _ = await asyncio.wait([draining], timeout=1)  # without anything to wait for, it takes less
    assert not done
    more.set()
    assert (await upload)[0] == 203
    await asyncio.wait_for(draining, 5)
    assert peer.bodies == [1001]


async def test_a_closed_door_passes_nothing(peer: Peer, serve: Serve) -> None:
    served = await serve(coze_api_token="pat", coze_api_base=peer.url, doors=())
    for path in ("/v3/chat", "/v1/workflow/run", "/v1/conversations"):
        status, _, _ = await ask(served, POST, path, json={})
        assert status == 404
    assert peer.bodies == []


async def test_the_gateway_s_own_token_in_the_query_is_not_passed_on(served: Served) -> None:
    async with served.session.get(f"{served.url}/v1/bots?access_token=pat_query&a=1") as response:
        said = await response.json(content_type=None)
    assert said["path"] == "/v1/bots?a=1"
    assert said["headers"]["Authorization"] == "Bearer pat_query"


async def test_a_coze_that_is_away_is_told_in_coze_s_form(serve: Serve) -> None:
    served = await serve(coze_api_token="pat", coze_api_base="http://127.0.0.1:9")
    _, headers, said = await ask(served, GET, "/v1/bots")
    assert said["code"] == 5000
    assert headers["X-Tt-Logid"] == said["detail"]["logid"]


async def test_nothing_of_a_large_body_is_kept(served: Served, peer: Peer) -> None:
    async def large() -> AsyncIterator[bytes]:
        for _ in range(60 * 16):
            yield b"x" * 65536

    async with aiohttp.ClientSession() as session:
        headers = {"Authorization": "Bearer x", "Content-Length": str(60 * 2**20)}
        async with session.post(f"{served.url}/v1/files/upload", data=large(), headers=headers) as response:
            assert response.status == 203
    assert peer.bodies == [60 * 2**20]
