"""Masking: removes tokens and keys from text. `upstream.mask` also hides personal data, in Coze's raw bytes."""

import re

# Each level of JSON within JSON puts more backslashes before a quote, or writes it as \u0022; a query writes %22. A
# value ends at the quote that has as many backslashes as its opening quote; without one it is masked to the end of the
# line. A `token` that is a short number is a count of tokens that Coze's model has used. Parts that must not be
# backtracked are in `(?>…)`, as a possessive quantifier after a group matches too much in Python before 3.11.5.
_SECRETS = re.compile(
    r"""
    (?P<named> (?: (?<=[a-z_-])token | token(?! \\*+ ["'] : \s*+ (?> (?: \\*+ ["'] )? ) [0-9]{1,7}+ ["',}\\\s] )
        | secret | password | authorization | api[_-]?key | private_?key )
        (?> (?: \\*+ (?: ["'] | u002[27] ) | %22 )? ) \s*+ (?: [=:] | %3[ad] ) [\s\[]*+ )
        (?: (?P<open> \\*+ (?: ["'] | u002[27] ) | %22 ) (?> (?: (?! (?<!\\) (?P=open) ) [^\r\n] )+ )
          | (?: (?: bearer | basic ) \s++ )? [^\s"',;&]+ )
  | (?P<scheme> bearer (?: \s++ | %20 | \+ ) ) [^\s"',;&]+
  | (?P<user> :// ) [^\s/@"']+ (?=@)
  | \b(?:pat|sat|czs|cztei|czu)_[A-Za-z0-9_-]+
  | \beyJ[A-Za-z0-9_-]{4,}(?:\.[A-Za-z0-9_-]*){1,4}
    """,
    re.VERBOSE | re.IGNORECASE,
)
_FIELD = re.compile(r"(?:token|secret|password|authorization|cookie|api[_-]?key|private_?key)s?$", re.IGNORECASE)


def mask(text: str) -> str:
    """`text` with `***` for bearer tokens, Coze's tokens, JWTs, users in URLs and named secrets."""
    return _SECRETS.sub(_starred, text)


def mask_field(name: str) -> str | None:
    """`***` if a field of this name holds a secret, whatever its value looks like."""
    return "***" if _FIELD.search(name) else None


def _starred(found: re.Match[str]) -> str:
    return f"{found['named'] or found['scheme'] or found['user'] or ''}{found['open'] or ''}***"
