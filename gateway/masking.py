"""Masking: text without tokens and keys. `upstream.mask` hides what is personal too, in Coze's raw bytes."""

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
_FIELD = re.compile(r"(?:token|secret|password|authorization|cookie|api_?key)s?$", re.IGNORECASE)


def mask(text: str) -> str:
    """`text` with `***` for bearer tokens, Coze's tokens, JWTs, users in URLs and named secrets."""
    return _SECRETS.sub(lambda found: f"{found['scheme'] or found['named'] or found['user'] or ''}***", text)


def mask_field(name: str) -> str | None:
    """`***` when a field of this name holds a secret, whatever its value looks like."""
    return "***" if _FIELD.search(name) else None
