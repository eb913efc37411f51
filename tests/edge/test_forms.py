"""Forms with a file: what is taken, what is refused, and that what goes on is what came."""

import asyncio
import json
from typing import Any

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adapters.edge.failures import InvalidRequest
from adapters.edge.forms import PIECE, _rewritten
from tests.edge.conftest import Client, Serve, talk

B = "----WebKitFormBoundary7MA4YWxkTrZu0gW"
MULTIPART = f"multipart/form-data; boundary={B}"


def head(disposition: str = 'form-data; name="file"; filename="a.png"', kind: str = "image/png") -> bytes:
    return f"--{B}\r\nContent-Disposition: {disposition}\r\nContent-Type: {kind}\r\n\r\n".encode()


def form(content: bytes, start: bytes = head(), end: bytes = f"\r\n--{B}--\r\n".encode()) -> bytes:
    return start + content + end


async def post(client: Client, body: Any, content_type: str = MULTIPART) -> tuple[int, bytes, Any]:
    answer = await client.post("/files", data=body, headers={"Content-Type": content_type})
    return answer.status, await answer.read(), answer.headers


async def refused(client: Client, body: Any, content_type: str = MULTIPART) -> tuple[int, set[str]]:
    status, answer, _ = await post(client, body, content_type)
    problem = json.loads(answer)
    return status, {error["field"] for error in problem.get("errors", [])} or {problem["code"]}


async def in_pieces(body: bytes, size: int) -> Any:
    for at in range(0, len(body), size):
        yield body[at : at + size]
        await asyncio.sleep(0)


CONTENTS = {
    "a byte": b"x",
    "line ends": b"\r\n" * 100,
    "nearly its boundary": f"\r\n--{B[:-1]}X\r\n--\r\n-".encode() * 3,
    "a piece": b"p" * PIECE,
    "some pieces and more": bytes(range(256)) * 1000,
    "an end like a boundary's beginning": b"x" * (PIECE - 10) + b"\r\n------Web",
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
@pytest.mark.parametrize("end", ["--\r\n", "--", "--\r\nwhat is behind a form\r\n"])
async def test_what_goes_on_is_what_came_with_its_length(serve: Serve, content: bytes, end: str) -> None:
    client = await serve()
    body = form(content, end=f"\r\n--{B}{end}".encode())
    status, passed, headers = await post(client, body)
    assert (status, passed) == (200, body)
    assert headers["X-Form-Length"] == str(len(body))
    assert headers["Content-Type"] == MULTIPART
    status, passed, headers = await post(client, in_pieces(body, 997))  # in chunks, whose sum nobody knows
    assert (status, passed, headers["X-Form-Length"]) == (200, body, "None")


async def test_forms_of_other_programs_are_taken(serve: Serve) -> None:
    client = await serve()
    written = aiohttp.FormData()
    written.add_field("file", b"x" * 100_000, filename="a b.png", content_type="image/png")
    answer = await client.post("/files", data=written)
    assert answer.status == 200
    assert (await answer.read()).count(b"x") == 100_000
    quoted = 'multipart/form-data; charset=utf-8; boundary="a b(c)=?"'
    body = b"--a b(c)=?\r\ncontent-disposition:form-data;filename=a.png;name=file\r\n\r\nDATA\r\n--a b(c)=?--"
    status, passed, headers = await post(client, body, quoted)
    assert (status, headers["Content-Type"]) == (200, 'multipart/form-data; boundary="a b(c)=?"')
    assert b'filename="a.png"\r\nContent-Type: application/octet-stream\r\n\r\nDATA\r\n--a b(c)=?--' in passed


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ('filename="你好，世界 🌍.png"', "你好，世界 🌍.png"),
        ('filename="ملف.pdf"', "ملف.pdf"),
        ('filename="a;b;c=d.png"', "a;b;c=d.png"),
        ('filename="say %22hi%22.png"', "say %22hi%22.png"),
        (r'filename="say \"hi\" \\o.png"', r"say %22hi%22 \o.png"),
        (r'filename="C:\dir\a.png"', r"C:\dir\a.png"),
        ("filename*=UTF-8''%E4%BD%A0%0D%0AX-Evil%3A%20y.png", "你__X-Evil: y.png"),
        ("filename=\"plain.png\"; filename*=utf-8'zh'%E4%BD%A0.png", "你.png"),
        ('filename="a\x00b\x07\rc.png"', "a_b__c.png"),
        ('filename="first.png"; filename="second.png"', "first.png"),
    ],
)
async def test_names_of_any_script_go_along_as_browsers_write_them(serve: Serve, written: str, name: str) -> None:
    body = form(b"x", head(f'form-data; name="file"; {written}', "text/plain; charset=x"))
    status, passed, _ = await post(await serve(), body)
    assert status == 200
    expected = (
        f'--{B}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\nContent-Type: text/plain\r\n'
    )
    assert passed.startswith(expected.encode() + b"\r\nx\r\n--")


@pytest.mark.parametrize(
    ("body", "status", "fields"),
    [
        (form(b""), 422, {"file"}),
        (form(b"x", head('form-data; name="file"')), 422, {"file"}),
        (form(b"", head('form-data; name="file"; filename=""')), 422, {"file"}),
        (form(b"x", head('form-data; name="picture"; filename="a.png"')), 422, {"file", "picture"}),
        (form(b"x", head('form-data; filename="; name=\\"file\\""')), 422, {"file"}),
        (form(b"x", head("attachment")), 422, {"file"}),
        (form(b"x", head() + b"x" + f"\r\n--{B}\r\n".encode() + head()), 422, {""}),
        (form(b"x", end=f"\r\n--{B}--\r\n".encode() + b"x" * 2000), 422, {""}),
        (form(b"x", end=f"\r\n--{B}x--\r\n".encode()), 422, {""}),
        (form(b"x" * 200_000, end=b""), 422, {"file"}),
        (form(b"x" * 200_000, end=f"\r\n--{B[:-1]}".encode()), 422, {"file"}),
        (head(), 422, {"file"}),
        (head()[:-2], 422, {"file"}),
        (b"", 422, {"file"}),
        (f"--{B}--\r\n".encode(), 422, {"file"}),
        (b"\0\xff" * 3000, 422, {"file"}),
        (head(kind="x" * 9000), 400, {""}),
        (b'{"file": "a"}', 422, {"file"}),
    ],
)  # fmt: skip
async def test_what_is_no_form_with_one_file_is_refused_by_name(
    serve: Serve, body: bytes, status: int, fields: set[str]
) -> None:
    client = await serve()
    assert await refused(client, body) == (status, fields)
    assert (await refused(client, in_pieces(body, 1000)))[0] == status


@pytest.mark.parametrize(
    "content_type",
    ["application/json", "multipart/mixed; boundary=x", "multipart/form-data-x; boundary=x", "image/png", ""],
)
async def test_other_content_types_are_415(serve: Serve, content_type: str) -> None:
    assert await refused(await serve(), form(b"x"), content_type) == (415, {"unsupported_media_type"})


@pytest.mark.parametrize(
    "parameters", ["", "; boundary=", '; boundary=""', "; boundary=" + "x" * 71, '; boundary="ä"', '; boundary="x "']
)
async def test_a_boundary_is_needed(serve: Serve, parameters: str) -> None:
    assert await refused(await serve(), form(b"x"), "multipart/form-data" + parameters) == (422, {"Content-Type"})


async def test_a_compressed_form_is_refused_unopened(serve: Serve) -> None:
    client = await serve()
    answer = await client.post("/files", data=b"x", headers={"Content-Type": MULTIPART, "Content-Encoding": "gzip"})
    assert answer.status == 415


async def test_the_bound_holds_to_the_byte(serve: Serve) -> None:
    client = await serve(max_upload_bytes=100_000)
    for end in (f"\r\n--{B}--\r\n", f"\r\n--{B}--"):
        most, more = (form(b"x" * size, end=end.encode()) for size in (100_000, 100_001))
        assert (await post(client, most))[0] == 200
        assert (await post(client, in_pieces(most, 5000)))[0] == 200
        assert await refused(client, more) == (413, {"too_large"})
        assert await refused(client, in_pieces(more, 5000)) == (413, {"too_large"})


async def test_a_length_over_the_bound_is_refused_before_any_of_the_file_comes(serve: Serve) -> None:
    start = b"POST /files HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\n" % MULTIPART.encode()
    client = await serve(max_upload_bytes=1000)
    assert (await talk(client, start + b"Content-Length: 20000\r\n\r\n")).startswith(b"HTTP/1.1 413")
    length = len(form(b"x" * 1003))
    assert (await talk(client, start + b"Content-Length: %d\r\n\r\n" % length + head())).startswith(b"HTTP/1.1 413")


async def test_an_endless_file_is_cut_at_the_bound(serve: Serve) -> None:
    client = await serve(max_upload_bytes=1_000_000)
    sent = 0

    async def endless() -> Any:
        nonlocal sent
        yield head()
        while True:
            sent += 10_000
            yield b"x" * 10_000

    try:
        answer = await client.post("/files", data=endless(), headers={"Content-Type": MULTIPART})
        assert answer.status == 413
    except ConnectionError:
        pass  # the connection was closed while the client still wrote: as good
    assert sent < 20_000_000


@pytest.mark.parametrize("sent", [b"", head(), head() + b"x" * 200_000], ids=["nothing", "a head", "some of it"])
async def test_a_client_that_stops_sending_is_cut_at_its_deadline(serve: Serve, sent: bytes) -> None:
    client = await serve(body_deadline=0.3)
    start = b"POST /files HTTP/1.1\r\nHost: localhost\r\nContent-Type: %b\r\n" % MULTIPART.encode()
    assert (await talk(client, start + b"Content-Length: 999999\r\n\r\n" + sent)).startswith(b"HTTP/1.1 408")


@given(st.binary(max_size=300) | st.text(max_size=200).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_head_is_taken_or_refused(raw: bytes) -> None:
    for given_ in (
        raw,
        f"--{B}\r\n".encode() + raw,
        f"--{B}\r\nContent-Disposition: form-data; name=file; ".encode() + raw,
    ):
        try:
            written = _rewritten(given_ + b"\r\n\r\n", B)
        except InvalidRequest:
            continue
        assert written.count(b"\r\n") == 4
        assert written.endswith(b"\r\n\r\n")
