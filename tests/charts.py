"""The Helm chart of `deploy/`, rendered by Helm itself, and the plain manifests that it was rendered into."""

import json
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema_rs
import pytest
import yaml

from tests.conftest import CI
from tests.processes import ROOT

CHART = ROOT / "deploy" / "helm" / "coze-gateway"
PLAIN = ROOT / "deploy" / "kubernetes" / "coze-gateway.yaml"
RENDERED = ("template", "coze-gateway", str(CHART.relative_to(ROOT)), "--namespace", "coze-gateway")
"""How the plain manifests are made of the chart."""

TOOLS = Path(sys.prefix) / "tools"
Manifest = dict[str, Any]


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs Helm. Without it the test is left out, or fails where CI=true."""
    if not (program := TOOLS / "helm").exists():
        message = "Helm is missing: make tools"
        if CI:
            pytest.fail(message, pytrace=False)
        pytest.skip(message)
    return subprocess.run([program, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def rendered(*flags: str) -> list[Manifest]:
    done = helm(*RENDERED, *flags)
    assert done.returncode == 0, done.stderr
    return manifests(done.stdout)


def manifests(text: str) -> list[Manifest]:
    return [manifest for manifest in yaml.safe_load_all(text) if manifest]


def only(found: list[Manifest], kind: str) -> Manifest:
    (one,) = [manifest for manifest in found if manifest["kind"] == kind]
    return one


@cache
def _schemas(version: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((TOOLS / f"kubernetes-{version}.json").read_text(encoding="utf-8"))
    return read


def mistakes(manifest: Manifest, version: str) -> list[str]:
    """What that version of Kubernetes would not accept, by its schema, in which every field is known."""
    whole = _schemas(version)
    validator = jsonschema_rs.Draft202012Validator({**whole["kinds"][manifest["kind"]], "$defs": whole["$defs"]})
    kind = manifest["kind"]
    return [f"{kind} {list(error.instance_path)}: {error.message}" for error in validator.iter_errors(manifest)]
