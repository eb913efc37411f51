"""What stands in `deploy/`, and the image: checked without a container engine; nginx is started for real."""

import asyncio
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest
import yaml

from gateway.config.loading import load
from gateway.telemetry.words import Closing
from tests.composing import DEPLOY, KNOWN, NODES, ONE, composed, environment, gateways, instructions, last_stage
from tests.conftest import Require
from tests.processes import ROOT, GatewayProcess
from tests.test_metrics import everything_happened, samples

ANOTHER = 12345  # a user's number that nobody here has
OPERATIONS = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
EACH = pytest.mark.parametrize("file", [ONE, NODES], ids=["one", "nodes"])
UNIT, NODES_UNIT = DEPLOY / "coze-gateway.service", DEPLOY / "nodes" / "coze-gateway@.service"
UNITS = pytest.mark.parametrize("file", [UNIT, NODES_UNIT], ids=["one", "nodes"])
Start = Callable[..., Awaitable[GatewayProcess]]


def test_the_image_runs_as_nobody_and_stops_by_the_signal_that_drains() -> None:
    stage = last_stage()
    user, group = map(int, stage["USER"].split(":"))
    assert user >= 10_000
    assert group >= 10_000
    assert stage["STOPSIGNAL"] == "SIGTERM"
    assert json.loads(stage["ENTRYPOINT"]) + json.loads(stage["CMD"]) == ["coze-gateway", "serve"]


def test_the_image_takes_only_what_the_ignore_file_lets_through_and_installs_by_hash() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    copied = {
        source
        for word, rest in instructions()
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    }
    assert copied == let_through
    assert all((ROOT / source).exists() for source in copied)
    assert any(word == "RUN" and "--require-hashes" in rest for word, rest in instructions())


async def test_the_images_health_check_tells_a_living_gateway_from_a_dead_one(start_gateway: Start) -> None:
    command = json.loads(last_stage()["HEALTHCHECK"].partition("CMD ")[2])
    assert command[0] == "python"
    gateway = await start_gateway(GATEWAY_ALLOWED_HOSTS="gateway.example")

    async def status() -> int:
        port = gateway.url.rpartition(":")[2]
        check = await asyncio.create_subprocess_exec(
            sys.executable, *command[1:], env=os.environ | {"GATEWAY_PORT": port}, stderr=asyncio.subprocess.DEVNULL
        )
        return await check.wait()

    assert await status() == 0
    await gateway.kill()
    assert await status() != 0


@EACH
def test_composes_settings_are_accepted_and_its_patience_is_longer_than_the_drain(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    addresses = []
    for name, gateway in gateways(file).items():
        with monkeypatch.context() as patched:
            for variable, value in (environment(gateway) | {"GATEWAY_DATA_DIR": str(tmp_path)}).items():
                patched.setenv(variable, value)
            settings = load().settings  # refuses an unknown setting
        assert int(gateway["stop_grace_period"].removesuffix("s")) > settings.drain_seconds + 5
        addresses.append((f"{name}:{settings.admin_port}", f"server {name}:{settings.port}"))
    scraping = yaml.safe_load((file.parent / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    assert scraping[0]["static_configs"][0]["targets"] == [admin for admin, _ in addresses]
    nginx = (file.parent / "nginx.conf").read_text(encoding="utf-8")
    assert set(re.findall(r"server [\w-]+:\d+", nginx)) == {server for _, server in addresses}


@EACH
def test_compose_publishes_on_loopback_only_and_names_only_what_exists(file: Path) -> None:
    whole = composed(file)
    for name, service in whole["services"].items():
        assert service.keys() <= KNOWN, name
        assert "image" in service or "build" in service, name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        for waited, how in service.get("depends_on", {}).items():
            other = whole["services"][waited]
            assert how == {"condition": "service_healthy"}
            assert "healthcheck" in other or "build" in other, f"{waited} tells nobody that it is healthy"
        for volume in service.get("volumes", []):
            source = volume.split(":")[0]
            known = (file.parent / source).is_file() if source.startswith(".") else source in whole["volumes"]
            assert known, source
        if "build" in service:
            assert (file.parent / service["build"] / "Dockerfile").is_file()


def test_the_alerts_ask_only_for_metrics_and_reasons_that_exist() -> None:
    from gateway.telemetry.ledger import Ledger

    known = {name for name, _ in samples(everything_happened(Ledger()))} | {"up"}
    text = (DEPLOY / "alerts.yml").read_text(encoding="utf-8")
    rules = [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 8
    for rule in rules:
        assert set(re.findall(r"\b(?:gateway_\w+|up)\b", rule["expr"])) <= known, rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert {"summary", "action"} == set(rule["annotations"])
    reasons = re.findall(r'closed_total\{reason="(\w+)"', text)
    assert reasons
    assert set(reasons) <= {reason.value for reason in Closing}


def unit(file: Path) -> dict[str, list[str]]:
    """The systemd unit's directives, each with its values in order."""
    found: dict[str, list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        name, separator, value = line.partition("=")
        if separator and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


@UNITS
def test_the_unit_gives_the_drain_its_time_and_does_not_restart_a_wrong_setting(file: Path) -> None:
    directives = unit(file)
    defaults = load().settings
    assert directives["KillSignal"] == ["SIGTERM"]
    assert int(directives["TimeoutStopSec"][0]) > defaults.drain_seconds + 5
    assert int(directives["LimitNOFILE"][0]) > 2 * defaults.max_connections
    assert directives["RestartPreventExitStatus"] == ["2"]
    command, *arguments = directives["ExecStart"][0].split()
    assert f"python3 -m venv {command.removesuffix('/bin/coze-gateway')}\n" in OPERATIONS
    assert arguments[:3] == ["serve", "--config", "%d/gateway.toml"]
    assert directives["LoadCredential"] == ["gateway.toml:/etc/coze-gateway/gateway.toml"]


def test_the_units_keep_their_data_where_systemd_makes_a_folder() -> None:
    one, nodes = unit(UNIT), unit(NODES_UNIT)
    assert one["Environment"] == [f"GATEWAY_DATA_DIR=/var/lib/{one['StateDirectory'][0]}"]
    assert f"GATEWAY_DATA_DIR=%t/{nodes['RuntimeDirectory'][0]}" in nodes["Environment"]
    assert nodes["ExecStart"][0].endswith(" --port %i")


@UNITS
def test_systemd_finds_nothing_wrong_with_the_unit(file: Path, require: Require, tmp_path: Path) -> None:
    text = file.read_text(encoding="utf-8").replace("/opt/coze-gateway/bin/coze-gateway", "/bin/true")
    (tmp_path / file.name).write_text(text, encoding="utf-8")
    instance = str(tmp_path / file.name.replace("@", "@3001"))
    verify = [require("systemd-analyze"), "verify", "--recursive-errors=no", instance]
    verified = subprocess.run(verify, capture_output=True, text=True, timeout=60, check=False)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


async def test_the_documented_backup_is_taken_while_answers_run_and_restores_them(
    start_gateway: Start, require: Require, tmp_path: Path
) -> None:
    require("sqlite3")
    data = tmp_path / "data"
    folders = {"GATEWAY_DATA_DIR": str(data), "BACKUP": str(tmp_path / "backup")}
    (tmp_path / "backup").mkdir()
    back_up, restore = re.findall(r"```sh\n((?:sqlite3|rm -f) .*?)```", OPERATIONS, re.DOTALL)

    async def shell(commands: str) -> None:
        process = await asyncio.create_subprocess_exec("sh", "-euc", commands, env=os.environ | folders)
        assert await process.wait() == 0

    gateway = await start_gateway(GATEWAY_SIMULATOR_RATE="100")
    async with aiohttp.ClientSession() as session:
        async with session.post(f"{gateway.url}/api/coze/chat", json=QUESTION) as answer:
            before = await answer.json()
        async with session.post(f"{gateway.url}/api/coze/chat/stream", json=QUESTION) as answer:
            running = answer.headers["X-Turn-Id"]
            await answer.content.readuntil(b'"event":"message"')
            await shell(back_up)
        async with session.post(f"{gateway.url}/api/coze/chat", json=QUESTION) as answer:
            after = await answer.json()
    await gateway.kill()
    if os.geteuid() == 0:
        os.chown(data, ANOTHER, -1)  # as under systemd, where the gateway is not root and whoever restores is
    await shell(restore)
    assert {file.stat().st_uid for file in data.glob("*.db")} == {data.stat().st_uid}
    assert {stat.filemode(file.stat().st_mode) for file in data.glob("*.db")} == {"-rw-------"}
    gateway = await start_gateway(GATEWAY_SIMULATOR_RATE="100")
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{gateway.url}/api/coze/turns/{before['turnId']}") as answer:
            assert (await answer.json())["content"] == before["content"]
        async with session.get(f"{gateway.url}/api/coze/turns/{after['turnId']}") as answer:
            assert answer.status == 404
        async with session.get(f"{gateway.url}/api/coze/turns/{running}/events") as answer:
            heard = [json.loads(line[6:]) async for line in answer.content if line.startswith(b"data: ")]
    assert heard[-1]["event"] == "completed"
    assert heard[-1]["content"] == before["content"]


QUESTION = {"userId": "test-user", "message": "你好", "botId": "7566252531572473891"}
