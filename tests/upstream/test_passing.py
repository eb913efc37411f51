"""Requests that are passed on: what is learned from Coze's answer, which is handed back as it is."""

import pytest

from gateway.errors import UpstreamError
from gateway.upstream.passed import PassedRequest
from tests.upstream.conftest import Connect
from tests.upstream.connecting import connecting
from tests.upstream.servers import json_answer, serving
from tests.upstream.test_proxy import BASIC
from tests.upstream.test_uploads import Renewing

BOTS = PassedRequest("GET", "/v1/bots", [])


async def test_a_token_that_coze_refuses_is_renewed_for_the_next_request_since_each_is_sent_once(
    connect: Connect,
) -> None:
    refusal = json_answer(b'{"code":700012006,"msg":"no"}', "401 Unauthorized")
    async with serving(refusal, json_answer(b"{}")) as server, connect(server.url, token=Renewing()) as coze:
        for status in (401, 200):
            answer = await coze.pass_on(BOTS)
            assert answer.status == status
            answer.close()
        assert [request.headers["authorization"] for request in server.requests] == ["Bearer token-0", "Bearer token-1"]


async def test_a_proxy_s_refusal_of_what_is_passed_on_is_not_coze_s_answer(connect: Connect) -> None:
    async with (
        connecting(BASIC) as proxy,
        serving(json_answer(b"{}")) as server,
        connect(server.url, proxy=f"http://u:wrong@127.0.0.1:{proxy.port}") as coze,
    ):
        with pytest.raises(UpstreamError, match=r"GATEWAY_UPSTREAM_PROXY.* 407"):
            await coze.pass_on(BOTS)
    assert server.requests == []
