"""Refusals: the answers to messages that are not accepted, because their fault plans say so."""

from aiohttp import web

from gateway.simulator import replies
from gateway.simulator.faults import Fault, FaultPlan, Fire
from gateway.simulator.player import reset

_MSG = "The simulated Coze was told to answer so."
_CODES = {401: 4100, 429: 4009, 504: 5000}


def refusal(request: web.Request, log_id: str, plan: FaultPlan, fire: Fire) -> web.StreamResponse:
    """Carries out the plan's first fault among those that refuse the message."""
    for fault in (Fault.REFUSE, Fault.BAD_HTTP, Fault.BIG_HEADER):
        if fault in plan:
            fire(fault)
            return _below_http(request, fault, plan)
    if Fault.REDIRECT in plan:
        fire(Fault.REDIRECT)
        return web.Response(status=307, headers={"Location": plan.text(Fault.REDIRECT)})
    headers = {}
    if Fault.RETRY_AFTER in plan:
        fire(Fault.RETRY_AFTER)
        headers["Retry-After"] = plan.text(Fault.RETRY_AFTER).replace("_", " ")
    for fault in (Fault.STATUS, Fault.HTML, Fault.CODE):
        if fault in plan:
            fire(fault)
    status = plan.number(Fault.STATUS, 200)
    if Fault.HTML in plan:
        return replies.page(status, headers)
    code = plan.number(Fault.CODE, _CODES.get(status, 5000))
    return replies.problem(log_id, code, _MSG, status=status, headers=headers)


def _below_http(request: web.Request, fault: Fault, plan: FaultPlan) -> web.StreamResponse:
    """Bypasses aiohttp and leaves it a connection that is already closing, on which its own answer is lost."""
    transport = request.transport
    if transport is None:
        return web.Response()
    match fault:
        case Fault.BAD_HTTP:
            transport.write(b"SPDY/9 OK fine\r\n\x00\x01nothing: like\nHTTP\r\n\r\n")
            transport.close()
        case Fault.BIG_HEADER:
            transport.write(b"HTTP/1.1 200 OK\r\nX-Filler: %b\r\n" % (b"x" * plan.number(fault)))
            transport.write(b"Content-Type: text/event-stream\r\nContent-Length: 0\r\n\r\n")
            transport.close()
        case _:
            reset(transport)
    return web.Response()
