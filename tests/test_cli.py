"""The command line as operators meet it: real processes, exit statuses, and what they say."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
import pytest

from adapters.edge.auth import Authenticator
from gateway.config.settings import Settings
from tests.processes import ROOT, GatewayProcess, clean_environment

RECORDING = ROOT / "tests" / "coze" / "chat-plain.sse"


def run(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "gateway", *arguments],
        env=clean_environment() | environment,
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=90,  # ten at once have to share the processors
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
        "COZE_API_TOKN is not a setting and is ignored; perhaps you meant COZE_API_TOKEN",
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


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"secret\n", ["holds 6 bytes, which can be guessed"]),
        (b'"0123456789abcdef0123456789abcdef"\n', ["in quotes"]),
        (b"\xef\xbb\xbf0123456789abcdef0123456789abcdef\r\n", ["byte order mark"]),
        (b"0123456789abcdef0123456789abcdef\r\n", []),
    ],
)
def test_a_secret_that_is_probably_not_what_was_meant_is_told_of(
    tmp_path: Path, content: bytes, said: list[str]
) -> None:
    (tmp_path / "secret").write_bytes(content)
    done = run("check-config", folder=tmp_path, GATEWAY_AUTH="jwt", GATEWAY_JWT_SECRET_FILE="secret")
    assert done.returncode == 0
    assert "0123" not in done.stderr
    for line, words in zip(done.stderr.splitlines(), said, strict=True):
        assert words in line


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
    code = "import gateway.__main__, gateway.config.loading, sys; sys.exit('aiohttp' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=30, check=True)


def test_make_key_prints_a_key_and_a_line_that_lets_its_holder_in(tmp_path: Path) -> None:
    done = run("make-key", "shop-backend", "--shops", "shop-1, shop-2", folder=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    key, line = (text.strip() for text in done.stdout.splitlines() if text.startswith("  "))
    assert line.startswith("shop-backend ")
    assert key not in line
    (tmp_path / "keys").write_text(f"{line}\n")
    settings = Settings(auth=("api-key",), api_keys_file=tmp_path / "keys")
    caller = Authenticator.from_settings(settings).caller_of(key)
    assert (caller.key_name, caller.shops) == ("shop-backend", frozenset({"shop-1", "shop-2"}))
    assert key not in run("make-key", "shop-backend", folder=tmp_path).stdout  # each is a new one


@pytest.mark.parametrize("arguments", [("a b",), ("#a",), ("",), ("a", "--shops", "x,,y"), ("a", "--shops", "")])
def test_a_key_that_the_file_could_not_hold_is_not_made(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = run("make-key", *arguments, folder=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


def test_a_sample_of_all_settings_is_printed(tmp_path: Path) -> None:
    done = run("check-config", "--sample", folder=tmp_path, GATEWAY_PORT="nonsense")
    assert (done.returncode, done.stderr) == (0, "")
    assert "#port = 3000  # GATEWAY_PORT" in done.stdout


def test_an_interrupt_while_it_is_still_starting_prints_no_traceback(tmp_path: Path) -> None:
    environment = clean_environment() | {"GATEWAY_DATA_DIR": str(tmp_path / "data")}
    command = [sys.executable, "-X", "importtime", "-m", "gateway", "serve", "--port", "0"]
    with subprocess.Popen(command, env=environment, cwd=ROOT, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        for line in process.stderr:
            if line.rstrip().endswith(" aiohttp.http_exceptions"):
                break
        process.send_signal(signal.SIGINT)
        rest = process.stderr.read()
        assert process.wait(20) == -signal.SIGINT
    assert "Traceback" not in rest


# -- on a terminal ------------------------------------------------------------------------------------------------


def on_terminal(folder: Path, *signals: signal.Signals, **environment: str) -> str:
    """What a person reads who starts the gateway, waits until it is ready, and then sends signals."""
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "gateway", "serve", "--port", "0"],
        env=clean_environment() | {"GATEWAY_DATA_DIR": str(folder / "data")} | environment,
        cwd=folder,
        stdin=slave,
        stdout=slave,
        stderr=slave,
    )
    os.close(slave)
    text = ""
    waiting = list(signals)
    with process, os.fdopen(master, "rb", buffering=0) as terminal:
        while True:
            try:
                data = terminal.read(65536)
            except OSError:  # the other end is closed
                break
            text += data.decode("utf-8", "replace")
            if "Ctrl-C" in text and waiting:
                process.send_signal(waiting.pop(0))
        process.wait(20)
    return text.replace("\r\n", "\n")


def test_on_a_terminal_the_start_ends_with_what_a_person_wants_to_know(tmp_path: Path) -> None:
    text = on_terminal(tmp_path, signal.SIGINT)
    url = re.search(r"Page +(http://127\.0\.0\.1:[0-9]+)/sse-stream-test\.html\n", text)
    assert url, text
    assert text.count("http://127.0.0.1:") == 2  # the ready line's, and the page's: no other one to mistake for it
    assert "Answers  are simulated" in text
    assert "Stop     Ctrl-C" in text
    assert "stopping, 0 answers running; press Ctrl-C again to stop at once" in text


def test_with_a_token_the_terminal_names_the_coze_that_answers(tmp_path: Path) -> None:
    base = "http://127.0.0.1:9"
    text = on_terminal(tmp_path, signal.SIGTERM, COZE_API_TOKEN="pat_hidden_one", COZE_API_BASE=base)
    assert f"Answers  come from {base}" in text
    assert "hidden" not in text


async def test_piped_there_is_nothing_but_json(start_gateway: Callable[..., Awaitable[GatewayProcess]]) -> None:
    gateway = await start_gateway()
    assert await gateway.terminate() == 0
    assert len(gateway.lines) == len(gateway.text)
    assert "simulator.ready" not in [line["event"] for line in gateway.lines]


async def test_before_a_drain_the_gateway_takes_work_for_a_pause_in_which_it_is_not_ready(
    start_gateway: Callable[..., Awaitable[GatewayProcess]],
) -> None:
    gateway = await start_gateway(GATEWAY_DRAIN_PAUSE_SECONDS="3")
    body = {"userId": "u", "botId": "b", "message": "/fault plain pieces:2 rate:0 -- hi"}
    async with aiohttp.ClientSession() as session:
        gateway.send_signal(signal.SIGTERM)
        line = await gateway.logged("gateway.draining")
        assert line["pause"] == 3
        async with session.get(f"{gateway.url}/readyz") as response:
            assert response.status == 503
            assert "stopping" in (await response.json())["reasons"][0]
        async with session.post(f"{gateway.url}/api/coze/chat", json=body) as response:
            assert response.status == 200
    assert await gateway.ended() == 0


def test_a_start_imports_nothing_that_only_some_settings_need() -> None:
    """Each took 0.1 to 0.5 s of every start."""
    others = {"alembic", "cryptography", "jwt", "sqlalchemy.dialects.postgresql", "gateway.simulator"}
    code = f"import sys, gateway.__main__, adapters.serving; print(sorted({others!r} & set(sys.modules)))"
    command = [sys.executable, "-c", code]
    assert subprocess.check_output(command, env=clean_environment(), text=True).strip() == "[]"
