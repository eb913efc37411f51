"""A workflow: what one stream of a run says, as Coze's nodes would say it."""

from collections.abc import Iterator

import msgspec
from msgspec import Struct, structs

from gateway.simulator.composer import compose
from gateway.simulator.faults import Fault, parse_plan
from gateway.simulator.objects import SURROGATE_MARK, Chat, Frame, Json, Outcome, Status, debug_url
from gateway.simulator.script import Part, Script

_QUESTION = "请问要查询哪个城市、哪一天的天气？"
_PING: Json = {"content": "{}"}


class Run(Struct, frozen=True):
    """One stream of a run: up to its end or its interrupt, or from the answer to that to its end.

    A run has no record: it can't be asked for, and nothing tells what its broken stream would have said.
    """

    script: Script

    @property
    def begins(self) -> float:
        return self.script.begins

    @property
    def ends(self) -> float:
        return self.script.ends

    @property
    def outcome(self) -> Outcome:
        return self.script.outcome

    def frames(self) -> Iterator[Frame]:
        """The well-formed stream, in order and in time."""
        script, chat = self.script, self.script.chat
        answers = [part for part in script.parts if (part.type, part.content_type) == ("answer", "text")]
        if Fault.FAILED_FIRST not in parse_plan(chat.message):
            yield Frame(0.0, "ping", _PING)
            for number, part in enumerate(answers):
                yield from self._node(part, number)
        match script.outcome.status:
            case "completed":
                yield Frame(script.over, "ping", _PING)
                output = msgspec.json.encode({"output": "\n\n".join(part.content for part in answers)}).decode()
                end = {"token": 0, "cost": "0.00", "usage": script.usage}
                yield Frame(script.over, "message", _said(output, "900001", "End", "End", 0, last=True) | end)
                yield Frame(script.over, "done", {"node_execute_uuid": "", "debug_url": debug_url(chat)})
            case "requires_action":
                question = _said(_QUESTION, "121334", "问答", "Question", 0, last=True)
                yield Frame(script.over, "message", question, piece=True, last=True)
                asked = {"data": "", "event_id": event_id_of(chat), "type": 2}
                yield Frame(script.over, "interrupt", {"interrupt_data": asked, "node_title": "问答"})
            case "failed":
                yield self._failure()
            case _:
                pass

    def _node(self, part: Part, number: int) -> Iterator[Frame]:
        node_id, step = str(158711 + number), self.script.step
        pieces = part.pieces or ((part.content,) if part.content and not part.cut else ())
        for at, piece in enumerate(pieces):
            last = at == len(pieces) - 1
            said = _said(piece, node_id, "输出", "Message", at, last=last and not part.cut)
            yield Frame(part.at + (len(part.reasoning) + at) * step, "message", said, piece=True, last=last)

    def _failure(self) -> Frame:
        outcome, plan = self.script.outcome, parse_plan(self.script.chat.message)
        at = 0.0 if Fault.FAILED_FIRST in plan else self.script.over
        if Fault.FAILED_FLAT in plan:
            return Frame(at, "error", {"code": outcome.code, "msg": outcome.msg, "detail": {"logid": ""}})
        return Frame(at, "error", {"error_code": outcome.code, "error_message": outcome.msg} if outcome.code else {})

    def messages(self, until: float) -> list[Json]:
        return []

    def state(self, status: Status) -> Json:
        return {}


def event_id_of(chat: Chat) -> str:
    """The id of a run's interrupt."""
    return f"{chat.id}/2769808280134765896"


def whole_run(message: str, *, answer: str | None = None) -> str:
    """All that a run says whose first text parameter is `message`; with `answer`, from the answer to its interrupt
    on."""
    chat = Chat("1", "1", "", message, 0.0, 0, 0, workflow_id="1", run=True)
    if answer is not None:
        chat = structs.replace(chat, resumed_at=0.0, outputs=(("1", answer),))
    said = (frame.data for frame in Run(compose(chat)).frames() if frame.event == "message")
    text = "".join(data["content"] for data in said if isinstance(data, dict))
    return text.replace(SURROGATE_MARK, "\ufffd") if Fault.SURROGATE in parse_plan(message) else text


def _said(content: str, node_id: str, title: str, kind: str, number: int, *, last: bool) -> Json:
    return {
        "content": content,
        "content_type": "text",
        "node_execute_uuid": "",
        "node_id": node_id,
        "node_is_finish": last,
        "node_seq_id": str(number),
        "node_title": title,
        "node_type": kind,
    }
