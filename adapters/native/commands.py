"""The commands that a client sends over the shared socket: the fields that they have in common."""

from itertools import islice
from typing import Any

from adapters.edge.failures import InvalidRequest, Mistake
from adapters.transports.listening import Topic, topic_from

COMMANDS = ("subscribe", "unsubscribe", "chat", "run", "cancel", "ping")
RequestId = str | int | float | None


def request_id_of(command: dict[str, Any]) -> RequestId:
    given = command.pop("requestId", None)
    if given is not None and (isinstance(given, bool) or not isinstance(given, str | int | float)):
        raise InvalidRequest([Mistake("requestId", "must be a string or a number")])
    if isinstance(given, str) and len(given) > 256:
        raise InvalidRequest([Mistake("requestId", "may have 256 characters at most")])
    return given


def topic_asked(command: dict[str, Any]) -> Topic:
    given = command.pop("topic", None)
    if not isinstance(given, str):
        raise InvalidRequest([Mistake("topic", "is required: turns/ID, conversations/ID or shops/ID")])
    kind, _, name = given.partition("/")
    return topic_from(kind, name)


def nothing_more(command: dict[str, Any]) -> None:
    if command:
        raise InvalidRequest(
            [Mistake(str(name)[:128], "is not a field of this command") for name in islice(command, 20)]
        )
