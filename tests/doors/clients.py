"""Coze's own clients for Python, and what is asked with them."""

import json
import warnings
from typing import Any

with warnings.catch_warnings(record=True) as _raised:
    # cozepy imports a module of authlib that warns, and switches that very warning on again as it does.
    import cozepy
for _warning in _raised:
    if "authlib.jose" not in str(_warning.message):
        warnings.warn_explicit(_warning.message, _warning.category, _warning.filename, _warning.lineno)

__all__ = ["CUTS", "QUESTION", "asked", "cozepy", "cut_after", "records", "text_of"]

QUESTION = "你好，请介绍一下你自己"

CUTS = (0, 1, 2, 3, 5, 8, 13, 21, 29, 30, 31, 34, 38, 41, 44, 50, 55, 60, 66, 70)
"""Twenty places in an answer at which Coze's stream is cut, as numbers of pieces: in the reasoning, at its end, in each
of the two answers, between them and after them."""


def cut_after(pieces: int) -> str:
    """A message whose answer is cut there."""
    return f"/fault drop-after:{pieces} reasoning multi {QUESTION}"


def asked(message: str, user: str = "u", **more: Any) -> dict[str, Any]:
    question = cozepy.Message.build_user_question_text(message)
    return {"bot_id": "7561209983316475943", "user_id": user, "additional_messages": [question], **more}


def records(text: str) -> list[tuple[str, Any]]:
    """The records of a stream in Coze's exact form: names and data. Empty lines between them are heartbeats."""
    lines = [line for line in text.split("\n") if line]
    found = []
    for event, data in zip(lines[::2], lines[1::2], strict=True):
        assert f"{event}\n{data}\n\n" in text
        assert event.startswith("event:"), event
        assert data.startswith("data:"), data
        found.append((event.removeprefix("event:"), json.loads(data.removeprefix("data:"))))
    return found


def text_of(events: list[cozepy.ChatEvent]) -> str:
    """The pieces of the answers' text, joined."""
    deltas = [e.message for e in events if e.event == cozepy.ChatEventType.CONVERSATION_MESSAGE_DELTA]
    return "".join(message.content for message in deltas if message is not None)
