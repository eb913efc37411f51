"""Mistakes: everything that is wrong in a body's fields, by each field's name."""

import re
from collections.abc import Mapping
from difflib import get_close_matches
from itertools import islice
from typing import Final

import msgspec
from msgspec import Struct

from adapters.edge.failures import Mistake

MOST: Final = 20
"""The most mistakes named in one answer: a body with 10,000 unknown fields must not be answered with 10,000 entries."""

_SUGGESTIONS: Final = 3
"""The most unknown fields for which a known name is suggested, because each is compared with every known name."""

_SHOWN: Final = 64
"""How many characters of an unknown field's name are repeated to the client."""

_UNKNOWN = "is not a known field"
_PATH = re.compile(r" - at `\$(.*)`", re.DOTALL)


def mistakes_in(fields: object, kind: type[Struct]) -> list[Mistake]:
    """Every field's mistake, because decoding the whole body names only the first one."""
    if not isinstance(fields, Mapping):
        return [Mistake("", "is not a JSON object")]
    wrong = []
    known = set()
    for field in msgspec.structs.fields(kind):
        name = field.encode_name
        known.add(name)
        if name not in fields:
            if field.required:
                wrong.append(Mistake(name, "is required"))
            continue
        try:
            msgspec.convert(fields[name], field.type)
        except msgspec.ValidationError as error:
            text = str(error)
            path = _PATH.search(text)
            wrong.append(Mistake(name + (path[1] if path else ""), _PATH.sub("", text)))
    strange = (str(name)[:_SHOWN] for name in fields if name not in known)
    for number, name in enumerate(islice(strange, MOST)):
        wrong.append(Mistake(name, _unknown(name, known) if number < _SUGGESTIONS else _UNKNOWN, True))
    return wrong


def _unknown(name: str, known: set[str]) -> str:
    """Suggests the name that was probably meant, as the settings do."""
    near = get_close_matches(name.lower(), [field.lower() for field in known], n=1)
    meant = next((field for field in known if near and field.lower() == near[0]), None)
    return f"{_UNKNOWN}; did you mean {meant}?" if meant else _UNKNOWN
