"""The compose files of `deploy/`, read as Compose reads them; without a container engine."""

import re
from pathlib import Path
from typing import Any

import yaml

from tests.processes import ROOT

DEPLOY = ROOT / "deploy"
ONE = DEPLOY / "compose.yaml"
NODES = DEPLOY / "nodes" / "compose.yaml"


def composed(file: Path) -> dict[str, Any]:
    """The file, with the defaults in place of variables."""
    text = re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", file.read_text(encoding="utf-8"))
    assert "${" not in text
    read: dict[str, Any] = yaml.safe_load(text)
    return read


def services(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = composed(file)["services"]
    return found


def gateways(file: Path) -> dict[str, Any]:
    """The services that are gateways."""
    return {name: service for name, service in services(file).items() if name.startswith("gateway")}


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions in order, continuation lines joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text(encoding="utf-8"))
    return [
        (word, rest.strip())
        for line in text.splitlines()
        if line.strip() and not line.startswith("#")
        for word, _, rest in [line.partition(" ")]
    ]


def last_stage() -> dict[str, str]:
    """The last stage's instructions in the Dockerfile, by name."""
    stages: list[dict[str, str]] = []
    for word, rest in instructions():
        if word == "FROM":
            stages.append({})
        if stages:
            stages[-1][word] = rest
    assert len(stages) == 2
    return stages[-1]


def environment(service: dict[str, Any]) -> dict[str, str]:
    """The settings that the container's process sees: the image's and the service's."""
    own = {name: "" if value is None else str(value) for name, value in service["environment"].items()}
    return dict(re.findall(r"(GATEWAY_\w+)=(\S+)", last_stage()["ENV"])) | own


KNOWN = {
    "build", "cap_drop", "command", "depends_on", "environment", "healthcheck", "hostname", "image", "networks",
    "ports", "read_only", "restart", "security_opt", "shm_size", "stop_grace_period", "stop_signal", "tmpfs",
    "ulimits", "user", "volumes",
}  # fmt: skip
"""The words of Compose's specification that our services use: a misspelt one is an error there."""
