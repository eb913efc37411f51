"""Files: they are uploaded and looked up. Their bytes are counted, and of a file only what Coze tells of it is kept."""

import asyncio
import re
from collections.abc import Callable

from aiohttp import BodyPartReader, web
from multidict import CIMultiDict, CIMultiDictProxy

from gateway.simulator import replies
from gateway.simulator.faults import TAKING_NOTHING, Fault, FaultPlan, UnknownFault, parse_plan
from gateway.simulator.ids import IdMint
from gateway.simulator.objects import Json
from gateway.simulator.refusals import refusal
from gateway.simulator.requests import CozeProblem
from gateway.simulator.tally import Tally

_FILES_AT_MOST = 10_000
_BYTES_AT_MOST = 512 * 2**20
_PIECE = 64 * 1024
_KINDS = re.compile(
    r"[^.]*|.+\.(docx?|xlsx?|pptx?|pdf|numbers|csv|txt|md|cpp|py|java|c|jpe?g|jpg2|png|gif|webp|hei[cf]|bmp|pcd|tiff"
    r"|wav|mp[34]|flac|m4[av]|aac|ogg|wma|midi|avi|mov|3gpp?|flv|webm|wmv|rmvb|mkv|rar|zip|7z|gz(ip)?|bz2)",
    re.IGNORECASE | re.DOTALL,
)
"""The names of files that Coze takes. One of its own SDKs sends a name without an ending."""

_BOUNDARY = re.compile(r'boundary="?([^";]+)', re.IGNORECASE)
_NAMES = re.compile(rb'form-data; *name="?file"?; *filename="((?:[^"\\]|\\.)+)"', re.IGNORECASE)


class Files:
    """The routes of files. A file whose name begins with `fault NAME[:VALUE] …` is treated as a message with `/fault …`
    would be. `received` counts the bytes of all files, also of those that broke off."""

    def __init__(
        self, *, mint: IdMint, tally: Tally, clock: Callable[[], float], authorize: Callable[[web.Request], None]
    ) -> None:
        self.received = 0
        self._mint = mint
        self._tally = tally
        self._clock = clock
        self._authorize = authorize
        self._files: dict[str, Json] = {}

    @property
    def table(self) -> list[web.RouteDef]:
        return [web.post("/v1/files/upload", self._upload), web.get("/v1/files/retrieve", self._retrieve)]

    async def _upload(self, request: web.Request) -> web.StreamResponse:
        self._tally.called("upload")
        self._authorize(request)
        name, boundary = await _opened(request)
        plan = _plan(name)
        self._tally.posted(name)
        if plan.asks_any(TAKING_NOTHING) and self._tally.posts_of(name) <= plan.number(Fault.TIMES, 2**31):
            return refusal(request, request[replies.LOG_ID], plan, self._tally.fire)
        if Fault.NO_HEAD in plan:
            self._tally.fire(Fault.NO_HEAD)
            await asyncio.Event().wait()
        size = await self._measured(BodyPartReader(boundary, CIMultiDictProxy(CIMultiDict()), request.content))
        if (await request.content.readline()).rstrip() != boundary + b"--":
            raise CozeProblem(4301, "Only one file can be uploaded at a time.")
        if Fault.SLOW_HEAD in plan:
            self._tally.fire(Fault.SLOW_HEAD)
            await asyncio.sleep(plan.number(Fault.SLOW_HEAD) / 1000)
        return replies.success(request[replies.LOG_ID], self._kept(name, size))

    async def _retrieve(self, request: web.Request) -> web.StreamResponse:
        self._tally.called("file")
        self._authorize(request)
        if (found := self._files.get(request.query.get("file_id", ""))) is None:
            raise CozeProblem(4200, "The file does not exist.")
        return replies.success(request[replies.LOG_ID], found)

    async def _measured(self, part: BodyPartReader) -> int:
        size = 0
        while piece := await part.read_chunk(_PIECE):
            size += len(piece)
            self.received += len(piece)
            if size > _BYTES_AT_MOST:
                raise CozeProblem(4302, "The file has over 512 MB.")
        if size == 0:
            raise CozeProblem(4300, "The file is empty.")
        return size

    def _kept(self, name: str, size: int) -> Json:
        if len(self._files) >= _FILES_AT_MOST:
            del self._files[next(iter(self._files))]
        now = self._clock()
        identity = self._mint.new(now)
        made = self._files[identity] = {"id": identity, "bytes": size, "file_name": name, "created_at": int(now)}
        return made


async def _opened(request: web.Request) -> tuple[str, bytes]:
    """The file's name, and the line that ends it. Only the file is left to be read."""
    found = _BOUNDARY.search(request.headers.get("Content-Type", ""))
    if request.content_type != "multipart/form-data" or found is None:
        raise CozeProblem(4000, "Request parameter error: the body is not multipart/form-data.")
    boundary = b"--" + found[1].encode()
    head = await request.content.readuntil(b"\r\n\r\n") if request.can_read_body else b""
    named = _NAMES.search(head)
    if named is None or not head.startswith(boundary + b"\r\n"):
        raise CozeProblem(4304, "The form has no file in a field named file.")
    name = named[1].decode("utf-8", "replace")
    if not _KINDS.fullmatch(name):
        raise CozeProblem(4303, "Files of this type are not taken.")
    return name, boundary


def _plan(name: str) -> FaultPlan:
    try:
        return parse_plan(f"/{name}" if name.startswith("fault ") else "")
    except UnknownFault as error:
        raise CozeProblem(4000, str(error)) from error
