"""Files at the simulated Coze: counted, told of again, refused with Coze's codes."""

from typing import Any

import aiohttp
import pytest

from tests.simulator.caller import Caller


def form(*files: tuple[str, str, bytes]) -> aiohttp.FormData:
    data = aiohttp.FormData(quote_fields=False)
    for field, name, content in files:
        data.add_field(field, content, filename=name)
    return data


async def upload(caller: Caller, *files: tuple[str, str, bytes], **options: Any) -> tuple[int, Any]:
    return await caller.ask("POST", "/v1/files/upload", data=form(*files), **options)


async def test_a_file_is_counted_and_can_be_looked_up(caller: Caller) -> None:
    status, answer = await upload(caller, ("file", "你好;世界.png", b"x" * 300_000))
    file = answer["data"]
    assert (status, answer["code"], answer["msg"]) == (200, 0, "")
    assert (file["bytes"], file["file_name"], file["id"].isdecimal()) == (300_000, "你好;世界.png", True)
    assert caller.simulator.bytes_received == 300_000
    _, again = await caller.ask("GET", "/v1/files/retrieve", params={"file_id": file["id"]})
    assert again["data"] == file
    assert caller.simulator.requests == {"upload": 1, "file": 1}


@pytest.mark.parametrize(
    ("files", "code"),
    [
        ([("file", "a.png", b"")], 4300),
        ([("file", "a.png", b"x"), ("file", "b.png", b"y")], 4301),
        ([("file", "a.exe", b"x")], 4303),
        ([("picture", "a.png", b"x")], 4304),
        ([("file", "fault code:4009 -- a.png", b"x")], 4009),
        ([("file", "fault nonsense:1 a.png", b"x")], 4000),
    ],
)
async def test_what_coze_would_not_take_is_refused_with_its_code(
    caller: Caller, files: list[tuple[str, str, bytes]], code: int
) -> None:
    status, answer = await upload(caller, *files)
    assert (status, answer["code"], bool(answer["detail"]["logid"])) == (200, code, True)


async def test_what_is_no_form_or_comes_without_a_token_is_refused(caller: Caller) -> None:
    assert (await caller.ask("POST", "/v1/files/upload", json={}))[1]["code"] == 4000
    status, answer = await upload(caller, ("file", "a.png", b"x"), token="invalid")
    assert (status, answer["code"]) == (401, 700012006)
    assert (await caller.ask("GET", "/v1/files/retrieve", params={"file_id": "7"}))[1]["code"] == 4200
