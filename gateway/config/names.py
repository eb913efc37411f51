"""Names in the environment: which are settings, which are misspelt, and which were set by Kubernetes or Docker.

A service or a linked container named `gateway` gives every container beside it variables such as
`GATEWAY_PORT=tcp://10.0.0.7:80` and `GATEWAY_SERVICE_HOST` (Kubernetes: "Discovering services"; Docker: "Legacy
container links"). They are not settings, and an operator can't always prevent them.
"""

import difflib
import re
from collections.abc import Collection, Mapping
from typing import NamedTuple

_LINK = re.compile(r"(?:tcp|udp|sctp)://\S+:[0-9]{1,5}", re.IGNORECASE)
_OF_A_LINK = re.compile(
    r"""(?:GATEWAY|COZE)_(?:[A-Z0-9_]+_)?
        (?: SERVICE_HOST | SERVICE_PORT(?:_[A-Z0-9_]+)?
          | PORT_[0-9]{1,5}_(?:TCP|UDP|SCTP)(?:_(?:PROTO|ADDR|START|END|PORT(?:_START|_END)?))? )""",
    re.VERBOSE,
)
_ALIAS = re.compile(r"/[^/\s]+/[^/\s]+")
_OTHERS = "COZE_JWT_OAUTH_"
"""The prefix of variables of Coze's own SDKs that look like ours (`COZE_JWT_OAUTH_PRIVATE_KEY_FILE_PATH`)."""

_SIMILAR = 0.83


class Names(NamedTuple):
    """The names that may be meant for the gateway, sorted by kind. Each list is in alphabetical order."""

    settings: list[str]
    unknown: list[str]
    """Unknown `GATEWAY_…` names, which are mistakes."""
    links: list[str]
    """Names that Kubernetes or Docker set, which are ignored."""
    similar: list[tuple[str, str]]
    """Unknown `COZE_…` names, each with the setting that was perhaps meant. All others are ignored."""


def sort_names(environment: Mapping[str, str], known: Collection[str]) -> Names:
    """Sorts the environment's `GATEWAY_…` and `COZE_…` names, and all `known` ones, by kind."""
    found = Names([], [], [], [])
    linked = tuple(_prefixes(environment))
    for name in sorted(environment):
        if _is_of_a_link(name, environment[name], linked):
            found.links.append(name)
        elif name in known:
            found.settings.append(name)
        elif name.startswith("GATEWAY_"):
            found.unknown.append(name)
        elif name.startswith("COZE_") and (meant := _meant(name, known)):
            found.similar.append((name, meant))
    return found


def remarks(names: Names) -> list[tuple[str, str]]:
    """What the operator should know about the names, although nothing is wrong: events of log lines, with sentences."""
    said = []
    if names.links:
        source = "Kubernetes or Docker set it" if len(names.links) == 1 else "Kubernetes or Docker set them"
        said.append(("config.links_ignored", f"not settings, so ignored ({source}): {', '.join(names.links)}"))
    for name, meant in names.similar:
        said.append(("config.similar_name", f"{name} is not a setting and is ignored; perhaps you meant {meant}"))
    return said


def _is_of_a_link(name: str, value: str, linked: tuple[str, ...]) -> bool:
    if not name.startswith(("GATEWAY_", "COZE_")):
        return False
    if name.endswith("_PORT") and _LINK.fullmatch(value):
        return True
    return _OF_A_LINK.fullmatch(name) is not None or name.startswith(linked)


def _prefixes(environment: Mapping[str, str]) -> list[str]:
    """The prefixes of names that a Docker link sets beside its ports: `GATEWAY_NAME=/page/gateway`, `GATEWAY_ENV_…`."""
    links = [name.removesuffix("_NAME") for name, value in environment.items() if _is_alias(name, value)]
    return [f"{link}_{rest}" for link in links for rest in ("NAME", "ENV_")]


def _is_alias(name: str, value: str) -> bool:
    """`value` is the path of the link, whose last part is the link's name."""
    if not name.endswith("_NAME") or not _ALIAS.fullmatch(value):
        return False
    alias = re.sub(r"[^A-Z0-9]", "_", value.rpartition("/")[2].upper())
    return name == f"{alias}_NAME"


def _meant(name: str, known: Collection[str]) -> str | None:
    if name.startswith(_OTHERS):
        return None
    ours = [setting for setting in known if setting.startswith("COZE_")]
    return next(iter(difflib.get_close_matches(name, ours, n=1, cutoff=_SIMILAR)), None)
