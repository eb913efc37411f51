"""The Helm chart and its plain manifests: Helm, Kubernetes's schemas and the gateway accept what they say."""

import asyncio
import json
from pathlib import Path

import pytest
import yaml

from gateway.config.loading import load
from gateway.config.settings import Settings, env_name
from tests.charts import CHART, PLAIN, RENDERED, Manifest, helm, manifests, mistakes, only, rendered
from tests.composing import last_stage
from tests.databases import PostgresServer
from tests.faults.reading import client
from tests.processes import GatewayProcess

EVERYTHING = (
    "--set=autoscaling.enabled=true,serviceMonitor.enabled=true,serviceMonitor.labels.release=prometheus",
    "--set=image.pullSecrets[0].name=registry,nodeSelector.disk=fast,podLabels.team=chat,podAnnotations.note=x",
    "--set=tolerations[0].operator=Exists,service.type=LoadBalancer,service.annotations.note=x,existingFilesSecret=",
    "--set=settings.GATEWAY_MAX_UNSENT_BYTES=50000000,settings.GATEWAY_RETRY_UNCERTAIN=true",
    "--set=settings.GATEWAY_SEND_TIMEOUT=1.5,spread.hosts=DoNotSchedule,disruption.maxUnavailable=25%",
    '--set-json=affinity={"nodeAffinity":{}}',
)
BOTH = pytest.mark.parametrize("flags", [(), EVERYTHING], ids=["as it stands", "with everything"])
OF_OTHERS = {"ServiceMonitor"}
"""Kinds that Kubernetes itself does not know."""


def plain() -> list[Manifest]:
    return manifests(PLAIN.read_text(encoding="utf-8"))


def settings_of(found: list[Manifest]) -> dict[str, str]:
    data: dict[str, str] = only(found, "ConfigMap")["data"]
    assert all(isinstance(value, str) for value in data.values()), data
    return data


def pod(found: list[Manifest]) -> Manifest:
    template: Manifest = only(found, "Deployment")["spec"]["template"]
    return template


def test_helm_finds_nothing_wrong() -> None:
    done = helm("lint", "--strict", str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[WARNING]" not in done.stdout


def test_the_plain_manifests_are_what_helm_makes_of_the_chart() -> None:
    header, _, text = PLAIN.read_text(encoding="utf-8").partition("---\n")
    assert f"helm {' '.join(RENDERED)}\n" in header
    assert f"---\n{text}" == helm(*RENDERED).stdout


@BOTH
@pytest.mark.parametrize("version", ["1.29", "1.37"])
def test_kubernetes_knows_each_field(flags: tuple[str, ...], version: str) -> None:
    found = rendered(*flags)
    known = [manifest for manifest in found if manifest["kind"] not in OF_OTHERS]
    assert len(found) >= 4
    assert [mistake for manifest in known for mistake in mistakes(manifest, version)] == []
    wrong = json.loads(json.dumps(only(found, "Deployment")))
    wrong["spec"]["template"]["spec"]["containers"][0]["readinessProb"] = {}
    assert mistakes(wrong, version), "a misspelt field is let through"


@BOTH
def test_what_selects_pods_selects_these_and_everything_belongs_together(flags: tuple[str, ...]) -> None:
    found = rendered(*flags)
    labels = pod(found)["metadata"]["labels"].items()
    ports = {port["name"] for port in pod(found)["spec"]["containers"][0]["ports"]}
    deployment = only(found, "Deployment")
    assert deployment["spec"]["selector"]["matchLabels"].items() <= labels
    assert only(found, "PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels
    for spread in pod(found)["spec"]["topologySpreadConstraints"]:
        assert spread["labelSelector"]["matchLabels"].items() <= labels
    services = [manifest for manifest in found if manifest["kind"] == "Service"]
    for service in services:
        assert service["spec"]["selector"].items() <= labels
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    if flags:
        assert "replicas" not in deployment["spec"]
        target = only(found, "HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]
        assert (target["kind"], target["name"]) == ("Deployment", deployment["metadata"]["name"])
        monitor = only(found, "ServiceMonitor")["spec"]
        wanted = monitor["selector"]["matchLabels"].items()
        selected = [service for service in services if wanted <= service["metadata"]["labels"].items()]
        assert [port["name"] for one in selected for port in one["spec"]["ports"]] == [monitor["endpoints"][0]["port"]]
        assert selected[0]["metadata"]["labels"][monitor["jobLabel"]] == "coze-gateway"  # the alerts' job


@BOTH
def test_the_settings_are_accepted_and_a_pod_is_given_longer_than_its_drain(
    flags: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = rendered(*flags) if flags else plain()
    (tmp_path / "jwt.secret").write_text("s" * 40, encoding="utf-8")
    named = settings_of(found) | {"GATEWAY_DATA_DIR": str(tmp_path), "GATEWAY_HOST": "0.0.0.0"}
    assert pod(found)["spec"]["containers"][0]["env"][0]["name"] == "GATEWAY_NODE_NAME"
    for name, value in named.items():
        monkeypatch.setenv(name, value.replace("/etc/coze-gateway", str(tmp_path)))
    settings = load().settings
    allowed = pod(found)["spec"]["terminationGracePeriodSeconds"]
    assert allowed >= settings.drain_pause_seconds + settings.drain_seconds + 10
    if flags:
        assert (settings.max_unsent_bytes, settings.send_timeout, settings.retry_uncertain) == (50_000_000, 1.5, True)


def test_a_secret_setting_or_one_that_the_chart_makes_itself_is_refused_among_the_settings() -> None:
    schema = json.loads((CHART / "values.schema.json").read_text(encoding="utf-8"))
    refused = [name for name, allowed in schema["properties"]["settings"]["properties"].items() if allowed is False]
    assert set(refused) <= {env_name(field) for field in Settings.model_fields}
    for name in ("COZE_API_TOKEN", "GATEWAY_DATABASE_URL", "GATEWAY_PORT", "gateway_auth"):
        assert name in refused or name.islower()
        done = helm(*RENDERED, f"--set=settings.{name}=x")
        assert done.returncode != 0
        assert name in done.stderr


def test_the_image_is_this_versions() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text(encoding="utf-8"))
    from gateway import __version__

    assert chart["appVersion"] == __version__
    assert pod(plain())["spec"]["containers"][0]["image"].endswith(f":{__version__}")
    user, group = map(int, last_stage()["USER"].split(":"))
    security = pod(plain())["spec"]["securityContext"]
    assert (security["runAsUser"], security["runAsGroup"], security["fsGroup"]) == (user, group, group)


async def test_a_node_with_these_settings_passes_its_probes_and_tells_of_its_drain_while_it_still_answers(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    found = plain()
    own = {
        "GATEWAY_AUTH": "none",
        "GATEWAY_ADMIN_HOST": "127.0.0.1",
        "GATEWAY_ADMIN_PORT": "0",
        "GATEWAY_DATA_DIR": str(tmp_path),
        "GATEWAY_PORT": "0",
        "GATEWAY_DATABASE_URL": await postgres.make(),
        "GATEWAY_DRAIN_PAUSE_SECONDS": "2",
        "GATEWAY_ALLOWED_HOSTS": "chat.example",
    }
    settings = {name: value for name, value in settings_of(found).items() if "JWT" not in name} | own
    probes = {name: probe for name, probe in pod(found)["spec"]["containers"][0].items() if name.endswith("Probe")}
    assert probes.keys() == {"startupProbe", "readinessProbe", "livenessProbe"}
    assert {probe["httpGet"]["port"] for probe in probes.values()} == {"admin"}
    node = await GatewayProcess.start("serve", environment=settings)
    try:
        url = await node.ready(within=60)
        admin = str((await node.logged("gateway.admin_ready"))["url"]).rstrip("/")
        async with client() as session:

            async def passes(probe: str) -> bool:
                headers = {"Host": "10.1.2.3:9100"}  # as the kubelet asks: the pod's address
                async with session.get(admin + probes[probe]["httpGet"]["path"], headers=headers) as answer:
                    return 200 <= answer.status < 400

            assert [await passes(probe) for probe in probes] == [True] * 3
            stopping = asyncio.create_task(node.terminate())
            await node.logged("gateway.draining")
            assert [await passes(probe) for probe in ("readinessProbe", "livenessProbe")] == [False, True]
            question = {"userId": "u", "botId": "b", "message": "/fault plain pieces:3 rate:0 -- late"}
            async with session.post(f"{url}/api/coze/chat", json=question, headers={"Host": "chat.example"}) as answer:
                assert answer.status == 200, await answer.text()
            assert await stopping == 0
    finally:
        await node.kill()
