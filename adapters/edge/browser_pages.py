"""Browser pages: explanations for people who open an address of the API in a browser. Programs never get them."""

from html import escape

import msgspec
from aiohttp import web

from adapters.edge.failures import PROBLEM_TYPE, Handler, request_id
from adapters.edge.guard import PAGE
from adapters.edge.languages import language
from adapters.services import SERVICES
from gateway.sentences import words

_NAVIGATION = "text/html,application/xhtml+xml"
"""The beginning of every browser's Accept header when a person opens an address. Libraries that accept text/html send
other headers."""

_KEPT = ("Allow", "Retry-After", "WWW-Authenticate")


def navigates(request: web.BaseRequest) -> bool:
    """Whether a browser sent this request because a person opened the address."""
    headers = request.headers
    return (
        headers.get("Accept", "").startswith(_NAVIGATION)
        and request.method == "GET"
        and headers.get("Sec-Fetch-Mode", "navigate") == "navigate"
        and "Upgrade" not in headers
    )


@web.middleware
async def explaining(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns a problem into a page for a person. It is the outermost middleware, so that it sees every problem."""
    response = await handler(request)
    if isinstance(response, web.Response) and response.content_type == PROBLEM_TYPE and navigates(request):
        return _explained(request, response)
    return response


def not_a_page(request: web.Request) -> web.Response:
    """The answer to a person who opened an address where only programs can listen."""
    said = words(language(request))
    return _page(request, 406, said.for_programs, said.stream)


async def home(request: web.Request) -> web.Response:
    """Leads to the page on which the gateway can be tried: by a redirect, or, if a token is needed there, through a
    small page that says so."""
    if not request.app[SERVICES].settings.auth:
        return web.Response(status=302, headers={"Location": PAGE.removeprefix("/")})
    said = words(language(request))
    return _page(request, 200, said.home, said.needs_token)


def _explained(request: web.Request, problem: web.Response) -> web.Response:
    assert isinstance(problem.body, bytes)
    fields = msgspec.json.decode(problem.body)
    said = words(language(request))
    page = _page(request, problem.status, said.for_programs, fields["detail"], fields["code"])
    page.headers.update({name: problem.headers[name] for name in _KEPT if name in problem.headers})
    return page


def _page(request: web.Request, status: int, heading: str, text: str, code: str = "") -> web.Response:
    chosen = language(request)
    said = words(chosen)
    # The address is relative, because a proxy may serve the gateway under a path.
    page = "../" * (request.rel_url.raw_path.count("/") - 1) + PAGE.removeprefix("/")
    note = f"<p><code>{status} {escape(code)}</code> · <code>{request_id(request)}</code></p>" if code else ""
    html = (
        f'<!doctype html><html lang="{chosen}"><head><meta charset="utf-8"><title>{escape(heading)}</title>'
        '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark"></head>'
        f"<body><main><h1>{escape(heading)}</h1><p>{escape(text)}</p>{note}"
        f'<p><a href="{page}">{escape(said.to_page)}</a></p></main></body></html>'
    )
    headers = {"Vary": "Accept, Accept-Language"}
    return web.Response(text=html, status=status, content_type="text/html", charset="utf-8", headers=headers)
