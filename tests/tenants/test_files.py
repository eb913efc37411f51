"""Files of shops that have credentials of their own."""

from pathlib import Path
from typing import Any

import aiohttp

from tests.tenants.shops import Shops, shops
from tests.upstream.servers import json_answer, serving

STORED = json_answer(b'{"code":0,"msg":"","data":{"id":"7361","bytes":1,"file_name":"a.png","created_at":1}}')


async def upload(given: Shops, **query: str) -> tuple[int, Any]:
    form = aiohttp.FormData()
    form.add_field("file", b"x", filename="a.png")
    url = f"{given.gateway.url}/api/coze/files"
    async with given.gateway.session.post(url, params=query, data=form) as answer:
        return answer.status, await answer.json(content_type=None)


async def test_a_file_goes_to_coze_with_its_shops_credentials_whatever_bots_the_shop_may_ask(tmp_path: Path) -> None:
    async with serving(STORED) as coze, shops(tmp_path, coze_api_base=coze.url) as given:
        assert [(await upload(given, shopId=shop))[0] for shop in ("a", "b")] == [200, 200]
        status, problem = await upload(given)
        assert (status, [error["field"] for error in problem["errors"]]) == (422, ["shopId"])
        assert (await upload(given, shopId="c"))[0] == 404
        assert [request.headers["authorization"] for request in coze.requests] == [
            "Bearer token-of-a",
            "Bearer token-of-b",
        ]
