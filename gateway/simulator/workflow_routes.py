"""The routes of chatflows and workflows."""

import msgspec
from aiohttp import web

from gateway.simulator.chats import Chats
from gateway.simulator.faults import parse_plan
from gateway.simulator.requests import CozeProblem, body_object, json_body, parse_chatflow, parse_run
from gateway.simulator.routes import Routes
from gateway.simulator.workflow import event_id_of


class WorkflowRoutes:
    """The handlers that chats don't have; what they have in common is that of `routes`."""

    def __init__(self, routes: Routes, chats: Chats) -> None:
        self._routes = routes
        self._chats = chats

    @property
    def table(self) -> list[web.RouteDef]:
        return [
            web.post("/v1/workflows/chat", self._chat),
            web.post("/v1/workflow/stream_run", self._run),
            web.post("/v1/workflow/stream_resume", self._resume),
        ]

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        self._routes.tally.called("chat")
        return await self._routes.answer(request, parse_chatflow(await json_body(request)))

    async def _run(self, request: web.Request) -> web.StreamResponse:
        self._routes.tally.called("run_workflow")
        return await self._routes.answer(request, parse_run(await json_body(request)))

    async def _resume(self, request: web.Request) -> web.StreamResponse:
        routes = self._routes
        routes.tally.called("resume_workflow")
        given = body_object(await json_body(request))
        routes.authorize(request, code=4100)
        event_id, answer = str(given.get("event_id", "")), given.get("resume_data")
        run_id = event_id.partition("/")[0]
        run = self._chats.get(run_id, run_id)
        if run is None or event_id_of(run) != event_id or run.workflow_id != given.get("workflow_id"):
            raise CozeProblem(4314, "No such execution of this workflow.")
        if run.resumed_at is not None:
            raise CozeProblem(4315, "The execution of this workflow is over.")
        if not isinstance(answer, str) or given.get("interrupt_type") != 2:
            raise CozeProblem(4000, "Request parameter error: resume_data is a string, interrupt_type is 2.")
        run = msgspec.structs.replace(run, resumed_at=routes.clock(), outputs=((event_id, answer),))
        self._chats.keep(run)
        return await routes.play(request, run, parse_plan(run.message))
