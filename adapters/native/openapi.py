"""The OpenAPI 3.1 description of every route of the gateway's own API. It is written by hand in `openapi.json`; tests
compare it with the code."""

import json
from functools import lru_cache
from importlib import resources
from typing import Any

from gateway import __version__
from gateway.config.settings import Settings


def document(settings: Settings) -> bytes:
    """The description with this gateway's version and its own limit for a message."""
    return _filled_in(settings.max_message_chars)


@lru_cache(maxsize=8)
def _filled_in(message_chars: int) -> bytes:
    description: dict[str, Any] = json.loads(resources.files("adapters.native").joinpath("openapi.json").read_bytes())
    description["info"]["version"] = __version__
    fields = description["components"]["schemas"]["ChatBody"]["properties"]
    fields["message"]["maxLength"] = message_chars
    fields["context"]["items"]["properties"]["content"]["maxLength"] = message_chars
    return json.dumps(description, ensure_ascii=False, separators=(",", ":")).encode()
