"""The command line as operators meet it: real processes, exit statuses, and what they say."""

import json
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from tests.processes import ROOT, GatewayProcess, clean_environment

RECORDING = ROOT / "tests" / "coze" / "chat-plain.sse"


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        env=clean_environment() | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_check_config_prints_the_configuration_and_succeeds(tmp_path: Path) -> None:
    done = run("check-config", "--port", "0", folder=tmp_path, COZE_API_TOKEN="pat_hidden_token")
    assert (done.returncode, done.stderr) == (0, "")
    assert "port = 0 " in done.stdout
    assert "hidden" not in done.stdout


def test_check_config_says_on_stderr_which_names_it_ignores(tmp_path: Path) -> None:
    done = run("check-config", folder=tmp_path, GATEWAY_PORT="tcp://10.0.0.1:80", COZE_API_TOKN="pat_hidden")
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "not settings, so ignored (Kubernetes or Docker set it): GATEWAY_PORT",
        "COZE_API_TOKN is no setting and is ignored; perhaps COZE_API_TOKEN was meant",
    ]
    assert "port = 3000" in done.stdout


async def test_the_start_warns_of_names_that_it_ignores(
    start_gateway: Callable[..., Awaitable[GatewayProcess]],
) -> None:
    gateway = await start_gateway(GATEWAY_SERVICE_HOST="10.0.0.1", COZE_TOKEN="pat_hidden")
    links, similar = await gateway.logged("config.links_ignored"), await gateway.logged("config.similar_name")
    assert (links["level"], similar["level"]) == ("warning", "warning")
    assert "GATEWAY_SERVICE_HOST" in links["why"]
    assert "COZE_API_TOKEN" in similar["why"]
    assert "hidden" not in "".join(gateway.text)


@pytest.mark.parametrize("command", ["check-config", "serve"])
def test_a_wrong_setting_stops_with_status_2_and_one_line_on_stderr(tmp_path: Path, command: str) -> None:
    done = run(command, folder=tmp_path, GATEWAY_PORTT="1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "GATEWAY_PORTT: no such setting; the nearest is GATEWAY_PORT\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [[], ["sreve"], ["serve", "--prot", "1"], ["simulate", "--pace", "fast"], ["simulate", "--replay", "none.sse"]],
)
def test_a_mistaken_command_line_is_status_2_without_a_trace(tmp_path: Path, arguments: list[str]) -> None:
    done = run(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert "usage: coze-gateway" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_taken_port_is_one_line_that_says_so(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        done = run("simulate", "--port", str(taken.getsockname()[1]), folder=tmp_path)
    assert done.returncode == 1
    (line,) = map(json.loads, done.stderr.splitlines())
    assert line["event"] == "gateway.failed"
    assert "address already in use" in line["why"]


@pytest.mark.parametrize("command", ["check-config", "serve"])
@pytest.mark.parametrize(
    ("way", "setting", "content"),
    [
        ("api-key", "GATEWAY_API_KEYS_FILE", "name 12 *"),
        ("jwt", "GATEWAY_JWKS_FILE", '{"keys": [{"kty": "hidden"}'),
        ("jwt", "GATEWAY_JWT_SECRET_FILE", ""),
    ],
)
def test_keys_that_cannot_be_used_are_a_mistake_too(
    tmp_path: Path, command: str, way: str, setting: str, content: str
) -> None:
    (tmp_path / "keys").write_text(content)
    done = run(command, folder=tmp_path, **{"GATEWAY_AUTH": way, setting: "keys"})
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{setting}: ")
    assert "hidden" not in line


async def test_a_second_gateway_on_the_same_data_is_refused_with_a_sentence(
    start_gateway: Callable[..., Awaitable[GatewayProcess]], tmp_path: Path
) -> None:
    await start_gateway()
    second = await GatewayProcess.start(
        "serve", "--port", "0", environment={"GATEWAY_DATA_DIR": str(tmp_path / "data")}
    )
    line = await second.logged("gateway.failed", within=20)
    assert await second.ended() == 1
    assert "another gateway" in line["why"]


def test_a_recording_without_records_is_one_line_that_says_so(tmp_path: Path) -> None:
    (tmp_path / "empty.sse").touch()
    done = run("simulate", "--replay", "empty.sse", folder=tmp_path)
    assert done.returncode == 1
    assert "empty.sse can't be replayed" in json.loads(done.stderr)["why"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_simulate_serves_cozes_format_until_it_is_told_to_stop(number: signal.Signals) -> None:
    simulator = await GatewayProcess.start("simulate", "--replay", str(RECORDING), "--pace", "1000")
    try:
        url = await simulator.ready()
        body = {"bot_id": "1", "user_id": "u", "stream": True, "additional_messages": []}
        headers = {"Authorization": "Bearer any"}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{url}/v3/chat", json=body, headers=headers) as got,
        ):
            assert got.status == 200
            assert "event:conversation.chat.created" in (await got.text()).replace("event: ", "event:")
        simulator.send_signal(number)
        assert await simulator.ended() == 0
        assert [line["event"] for line in simulator.lines] == ["simulator.ready"]
    finally:
        await simulator.kill()


def test_the_command_line_imports_no_server_before_it_needs_one(tmp_path: Path) -> None:
    code = "import gateway.__main__, gateway.config_load, sys; sys.exit('aiohttp' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30, check=True)
