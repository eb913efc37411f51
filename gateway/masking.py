"""Masking: text without tokens and keys, and on demand without e-mail addresses and telephone numbers."""

import re

_SECRETS = re.compile(
    r"""
    (?P<scheme> \bbearer\s+ ) [^\s"',;&]+
  | (?P<named> \b(?:access_token|refresh_token|id_token|gateway_token|client_secret|api_?key|password)
        ["']?\s*[=:]\s*["']? ) [^\s"',;&]+
  | (?P<user> :// ) [^\s/@"']+ (?=@)
  | \b(?:pat|sat|czs|cztei|czu)_[A-Za-z0-9_-]{4,}
  | \beyJ[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*){1,4}
    """,
    re.VERBOSE | re.IGNORECASE,
)
_PERSONAL = re.compile(
    r"""
    [\w.+%-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}
  | \+[0-9][0-9\ ().-]{6,17}[0-9]
  | (?<![0-9A-Za-z_])1[3-9][0-9](?:[\ -]?[0-9]{4}){2}(?![0-9])
    """,
    re.VERBOSE,
)
_FIELD = re.compile(r"(?:token|secret|password|authorization|cookie|api_?key)s?$", re.IGNORECASE)


def mask(text: str, *, personal: bool = False) -> str:
    """`text` with `***` for bearer tokens, Coze's tokens, JWTs, users in URLs and named secrets.

    With `personal`, also for e-mail addresses and telephone numbers (international, and mainland China's mobiles).
    """
    text = _SECRETS.sub(lambda found: f"{found['scheme'] or found['named'] or found['user'] or ''}***", text)
    return _PERSONAL.sub("***", text) if personal else text


def mask_field(name: str) -> str | None:
    """`***` when a field of this name holds a secret, whatever its value looks like."""
    return "***" if _FIELD.search(name) else None
