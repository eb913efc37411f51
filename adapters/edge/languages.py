"""The language that a person asked for: Accept-Language (RFC 9110, 12.5.4) into one of ours."""

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
"""Characters of the header that are looked at: a browser's own is under 100."""


def language(request: web.BaseRequest) -> Language:
    """The best of zh, en and es; en when the header is missing, is junk or asks for others only."""
    asked = request.headers.get("Accept-Language")
    return "en" if asked is None else best_language(asked[:_LONGEST])


@lru_cache(maxsize=256)
def best_language(asked: str) -> Language:
    """The language with the highest q; of equals the first one named. q=0 means: not this one."""
    best: Language = "en"
    weight = 0.0
    for part in asked.split(","):
        if (match := _RANGE.fullmatch(part)) is None or (ours := _OURS.get(match[1].lower())) is None:
            continue
        q = min(float(match[2]), 1.0) if match[2] else 1.0
        if q > weight:
            best, weight = ours, q
    return best
