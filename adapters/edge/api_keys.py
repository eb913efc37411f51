"""API keys: how they are made, and the file that holds their hashes."""

import hashlib
import re
import secrets
from pathlib import Path
from typing import Final

from adapters.edge.callers import ALL, Shops
from gateway.ids import LONGEST_NAME

KEY_PREFIX: Final = "gwk_"
_KEY_LINE = re.compile(r"([!-~]{1,64})\s+([0-9A-Fa-f]{64})\s+(\S.*)", re.ASCII)


def make_key(name: str, shops: str = ALL) -> tuple[str, str]:
    """A new API key, and its line for `GATEWAY_API_KEYS_FILE`, which holds only the key's hash. Raises ValueError."""
    key = f"{KEY_PREFIX}{secrets.token_urlsafe(32)}"
    line = f"{name} {hashlib.sha256(key.encode()).hexdigest()} {shops}"
    if (match := _KEY_LINE.fullmatch(line)) is None or match[1] != name or name.startswith("#"):
        raise ValueError("a name has 1 to 64 visible ASCII characters, and there is at least one shop, or *")
    if not all(0 < len(shop.strip()) <= LONGEST_NAME for shop in shops.split(",")):
        raise ValueError(f"a shop has 1 to {LONGEST_NAME} characters")
    return key, line


def read_api_keys(path: Path) -> dict[str, tuple[str, Shops]]:
    """Reads the file of keys, one `NAME SHA256-HEX SHOPS` per line, into {hash: (name, shops)}.

    Blank and `#` lines are skipped. Raises ValueError with the number of every wrong line, but never with a line's
    content.
    """
    keys: dict[str, tuple[str, Shops]] = {}
    names: set[str] = set()
    wrong: list[str] = []
    for number, line in enumerate(path.read_text("utf-8").split("\n"), start=1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if (match := _KEY_LINE.fullmatch(line)) is None:
            wrong.append(f"line {number} is not NAME SHA256-HEX SHOPS")
            continue
        name, digest, shops = match[1], match[2].lower(), frozenset(part.strip() for part in match[3].split(","))
        if digest in keys or name in names:
            wrong.append(f"line {number} repeats a key or a name")
        if not all(0 < len(shop) <= LONGEST_NAME for shop in shops):
            wrong.append(f"line {number} has a shop with no characters, or more than {LONGEST_NAME}")
        keys[digest] = (name, ALL if ALL in shops else shops)
        names.add(name)
    if wrong or not keys:
        raise ValueError(f"GATEWAY_API_KEYS_FILE: {'; '.join(wrong) or 'holds no key'}")
    return keys
