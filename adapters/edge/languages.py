"""The language that a person asked for: picks one of ours by Accept-Language (RFC 9110, 12.5.4)."""

import re
from functools import lru_cache
from typing import Final

from aiohttp import web

from gateway.errors import Language

_OURS: Final[dict[str, Language]] = {"zh": "zh", "en": "en", "es": "es"}
_RANGE = re.compile(
    r"\s*([A-Za-z]{1,8})(?:-[A-Za-z0-9-]{1,40})?\s*(?:;\s*[qQ]\s*=\s*([01](?:\.[0-9]{0,3})?)\s*)?", re.ASCII
)
_LONGEST = 256
"""How many characters of the header are read. A browser sends fewer than 100."""


def language(request: web.BaseRequest) -> Language:
    """The best of zh, en and es; en when the header is missing, malformed, or names other languages only."""
    asked = request.headers.get("Accept-Language")
    return "en" if asked is None else best_language(asked[:_LONGEST])


@lru_cache(maxsize=256)
def best_language(asked: str) -> Language:
    """The language with the highest q, and of several with the same q the first one. q=0 excludes a language."""
    best: Language = "en"
    weight = 0.0
    for part in asked.split(","):
        if (match := _RANGE.fullmatch(part)) is None or (ours := _OURS.get(match[1].lower())) is None:
            continue
        q = min(float(match[2]), 1.0) if match[2] else 1.0
        if q > weight:
            best, weight = ours, q
    return best
