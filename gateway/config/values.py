"""Checks of single settings: pure functions that turn what the operator wrote into a value, or raise ValueError."""

import base64
import ipaddress
import os
import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

_HOST_NAME = re.compile(r"(?=.{1,253}\Z)[a-z0-9]([a-z0-9_-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9_-]*[a-z0-9])?)*", re.ASCII)
_ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://(\[[0-9a-f:.]+\]|[^\[\]:/?#@]+)(?::([0-9]{1,5}))?", re.ASCII)
_DEFAULT_PORTS = {"http": "80", "https": "443"}


def commas(given: object) -> object:
    """`a, b` is two values; a TOML list is one already."""
    return [part for word in given.split(",") if (part := word.strip())] if isinstance(given, str) else given


def joined(given: object) -> object:
    """A TOML list means the same as words separated by commas."""
    return ",".join(given) if isinstance(given, list) and all(isinstance(part, str) for part in given) else given


def empty_is_none(given: object) -> object:
    """Compose files and unit files pass unset variables on as empty ones."""
    return None if given == "" else given


def lower(given: object) -> object:
    return empty_is_none(given.lower() if isinstance(given, str) else given)


def no_flag(given: object) -> object:
    """TOML's `port = true` would become 1."""
    if isinstance(given, bool):
        raise ValueError("true and false are not numbers")
    return given


def only_true(given: object) -> bool:
    return str(given).lower() == "true"


def bearer(token: SecretStr | None) -> SecretStr | None:
    """Accepts only what RFC 6750 allows in a bearer token. Quotes are often copied from compose and unit files, and
    backticks from web pages; a line break would forge another header."""
    if token is not None and not re.fullmatch(r"[A-Za-z0-9._~+/-]+=*", token.get_secret_value()):
        raise ValueError("not a bearer token")
    return token


def host_name(text: str) -> str:
    """A host name or an address in its usual spelling: lower case, IPv6 without brackets, no dot at the end."""
    text = text.lower().removesuffix(".")
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError:
        if bare is not text or not _HOST_NAME.fullmatch(text):
            raise ValueError("not a host name") from None
        return text


def host_names(text: str) -> str:
    """One host or several, without spaces and duplicates; `*` stays as it is."""
    names = [part.strip() for part in text.split(",")]
    return ",".join(dict.fromkeys(name if name == "*" else host_name(name) for name in names))


def origin(text: str) -> str:
    """An origin as browsers write it: lower case, without the default port (RFC 6454, section 6.2)."""
    match = _ORIGIN.fullmatch(text.lower())
    if match is None:
        raise ValueError("not an origin")
    scheme, host, port = match.groups()
    host_name(host)
    if port is not None and int(port) > 65535:
        raise ValueError("not a port")
    return f"{scheme}://{host}" + (f":{int(port)}" if port and port != _DEFAULT_PORTS.get(scheme) else "")


def http_url(text: str) -> str:
    """A base URL to which paths are appended, so it has no slash at its end."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or re.search(r"[\s@?#]", text):
        raise ValueError("not a base URL")
    _ = parts.port  # raises ValueError beyond 65535
    return text.rstrip("/")


def proxy_url(url: SecretStr | None) -> SecretStr | None:
    """A tunnelling proxy: only its address, perhaps with a user and a password."""
    if url is None:
        return None
    text = url.get_secret_value()
    parts = urlsplit(text)
    if parts.scheme != "http" or not parts.hostname or not re.fullmatch(r"[!-~]+", text):
        raise ValueError("not a proxy")
    if parts.path.strip("/") or parts.query or parts.fragment or text.count("@") > 1:
        raise ValueError("more than a proxy's address")
    host_name(f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname)
    _ = parts.port  # raises ValueError beyond 65535
    if ":" in unquote(parts.username or ""):
        raise ValueError("a colon in the user, which HTTP's Basic can't carry")
    # As HTTP's Basic carries it; a UnicodeError is a ValueError.
    unquote(parts.netloc, "utf-8", "strict").encode("latin-1")
    return url


def proxy_secrets(url: str) -> list[str]:
    """A proxy's password in every form in which it may appear: quoted, unquoted, and encoded for HTTP's Basic."""
    parts = urlsplit(url)
    if not parts.username:
        return []
    user, password = unquote(parts.username), unquote(parts.password or "")
    sent = base64.b64encode(f"{user}:{password}".encode("latin-1")).decode()
    return [secret for secret in (parts.password or "", password, sent) if secret]


def readable_file(path: Path | None) -> Path | None:
    if path is not None and (path.is_dir() or not os.access(path, os.R_OK)):
        raise ValueError("cannot be read")
    return path


def creatable_folder(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists, must be a folder that can be written."""
    if "\0" in str(path):
        raise ValueError("not a path")
    folder = path.absolute()
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK):
        raise ValueError("cannot be written")
    return path
