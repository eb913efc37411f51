"""Settings as operators write them: the contract's names, and mistakes that name themselves."""

import os
import re
import tomllib
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.config.loading import ConfigError, Configuration, describe, load
from gateway.config.sample import MEANINGS, sample
from gateway.config.settings import Settings, env_name, is_loopback
from gateway.config.values import origin

CONTRACT = Path(__file__).parent.parent / "docs" / "contract.md"


@pytest.fixture(autouse=True)
def no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith(("GATEWAY_", "COZE_", "USE_SSE")):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


def toml(folder: Path, text: str) -> str:
    (folder / "gateway.toml").write_text(text, encoding="utf-8")
    return str(folder / "gateway.toml")


def mistakes(flags: dict[str, str] | None = None, file: str | None = None) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load(flags, file)
    return str(caught.value).splitlines()


def test_every_setting_that_the_contract_names_exists_and_no_other() -> None:
    section = CONTRACT.read_text(encoding="utf-8").split("## 2.")[0]
    promised = set(re.findall(r"\b(?:GATEWAY|COZE)_[A-Z0-9_]*[A-Z0-9]\b|USE_SSE_STREAMING", section))
    assert {env_name(field) for field in Settings.model_fields} == promised


@pytest.mark.parametrize(
    ("row", "fields"),
    [
        ("GATEWAY_PORT", {"host": "127.0.0.1", "port": 3000}),
        ("GATEWAY_UPSTREAM_CONNECT_TIMEOUT", {"upstream_connect_timeout": 10}),
        ("GATEWAY_UPSTREAM_IDLE_TIMEOUT", {"upstream_idle_timeout": 60}),
        ("GATEWAY_TURN_TIMEOUT", {"turn_timeout": 600}),
        ("GATEWAY_SEND_TIMEOUT", {"send_timeout": 60}),
        ("GATEWAY_UPSTREAM_RETRIES", {"upstream_retries": 3}),
        ("GATEWAY_HEARTBEAT_INTERVAL", {"heartbeat_interval": 15}),
        ("GATEWAY_RETRY_MS", {"retry_ms": 2000}),
        ("GATEWAY_ABANDON_SECONDS", {"abandon_seconds": 30}),
        ("GATEWAY_RETENTION_SECONDS", {"retention_seconds": 3600}),
        ("GATEWAY_DRAIN_SECONDS", {"drain_seconds": 20}),
        ("GATEWAY_MAX_CONNECTIONS", {"max_connections": 10000, "max_connections_per_user": 20}),
        ("GATEWAY_TURNS_PER_MINUTE", {"turns_per_minute": 30}),
        ("GATEWAY_MAX_BODY_BYTES", {"max_body_bytes": 262144, "max_message_chars": 16000}),
        ("GATEWAY_SIMULATOR_FIRST_MS", {"simulator_first_ms": 300, "simulator_rate": 40}),
        ("GATEWAY_MAX_UPLOAD_BYTES", {"max_upload_bytes": 64 * 2**20}),
        ("COZE_API_BASE", {"coze_api_base": "https://api.coze.cn"}),
        ("GATEWAY_DATA_DIR", {"data_dir": Path("data")}),
        ("USE_SSE_STREAMING", {"use_sse_streaming": True}),
        ("GATEWAY_LOG_LEVEL", {"log_level": "info", "log_upstream_bytes": False}),
        ("GATEWAY_RETRY_UNCERTAIN", {"retry_uncertain": False}),
    ],
)
def test_defaults_are_those_of_the_contracts_table(row: str, fields: dict[str, object]) -> None:
    text = CONTRACT.read_text(encoding="utf-8")
    line = next(line for line in text.splitlines() if line.startswith("| `") and row in line.split("|")[1])
    promised = [part.strip(" `") for part in line.split("|")[2].split(",")]
    settings = load().settings
    for (field, default), written in zip(fields.items(), promised, strict=True):
        assert getattr(settings, field) == default
        assert str(default).lower() == written


def test_flags_come_before_the_environment_before_the_file_before_defaults(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = toml(tmp_path, 'port = 1001\nhost = "127.0.0.2"\nretry_ms = 7')
    monkeypatch.setenv("GATEWAY_PORT", "1002")
    monkeypatch.setenv("GATEWAY_HOST", "127.0.0.3")
    found = load({"port": "1003"}, file)
    settings = found.settings
    assert (settings.port, settings.host, settings.retry_ms, settings.drain_seconds) == (1003, "127.0.0.3", 7, 20)
    assert found.names == {"port": "--port", "host": "GATEWAY_HOST", "retry_ms": f"{file}: retry_ms"}


def test_all_mistakes_are_said_at_once_each_on_a_line_with_its_name_value_and_what_is_allowed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GATEWAY_HEARTBEAT_INTERVAL", "soon")
    monkeypatch.setenv("GATEWAY_MAX_CONECTIONS", "5")
    monkeypatch.setenv("GATEWAY_HOST", "0.0.0.0")
    file = toml(tmp_path, "retry_ms = -1\nusesse = true\nGATEWAY_PORT = 1")
    assert mistakes({"port": "70000"}, file) == [
        f"{file}: GATEWAY_PORT: no such setting; the nearest is port",
        f"{file}: usesse: no such setting; the nearest is use_sse_streaming",
        "GATEWAY_MAX_CONECTIONS: no such setting; the nearest is GATEWAY_MAX_CONNECTIONS",
        "--port='70000': allowed is a whole number from 0 to 65535; 0 picks a free one",
        "GATEWAY_HEARTBEAT_INTERVAL='soon': allowed is seconds from 0.001 to 3600",
        f"{file}: retry_ms=-1: allowed is a whole number from 1 to 3600000",
        "GATEWAY_HOST='0.0.0.0': without GATEWAY_AUTH only loopback (127.0.0.1) is allowed, "
        "unless GATEWAY_ALLOW_ANONYMOUS=true",
    ]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GATEWAY_PORT", "65536"),
        ("GATEWAY_PORT", "-1"),
        ("GATEWAY_PORT", "3000.5"),
        ("GATEWAY_HOST", ""),
        ("GATEWAY_HOST", "a b"),
        ("GATEWAY_TURN_TIMEOUT", "nan"),
        ("GATEWAY_TURN_TIMEOUT", "inf"),
        ("GATEWAY_TURN_TIMEOUT", "0"),
        ("GATEWAY_RETRY_UNCERTAIN", "maybe"),
        ("GATEWAY_SIMULATOR_RATE", "-1"),
        ("GATEWAY_LOG_LEVEL", "loud"),
        ("GATEWAY_LOG_FORMAT", "xml"),
        ("GATEWAY_MAX_BODY_BYTES", ""),
        ("GATEWAY_ALLOWED_ORIGINS", "*"),
        ("GATEWAY_ALLOWED_ORIGINS", "https://a.example,*"),
        ("GATEWAY_ALLOWED_ORIGINS", "https://a.example/"),
        ("GATEWAY_ALLOWED_ORIGINS", "a.example"),
        ("GATEWAY_ALLOWED_ORIGINS", "null"),
        ("GATEWAY_ALLOWED_ORIGINS", "https://*.example"),
        ("GATEWAY_ALLOWED_ORIGINS", "https://a.example:99999"),
        ("GATEWAY_ALLOWED_HOSTS", "https://a.example"),
        ("GATEWAY_MEDIA_HOSTS", "a.example; script-src *"),
        ("GATEWAY_AUTH", "password"),
        ("GATEWAY_AUTH", "none,jwt"),
        ("GATEWAY_AUTH", "jwt"),
        ("GATEWAY_AUTH", "api-key"),
        ("GATEWAY_API_KEYS_FILE", "/does/not/exist"),
        ("GATEWAY_JWKS_FILE", "/"),
        ("COZE_API_BASE", "api.coze.cn"),
        ("COZE_API_BASE", "ftp://api.coze.cn"),
        ("COZE_API_BASE", "https://api.coze.cn/?a=b"),
        ("GATEWAY_BUS_URL", "kafka://x"),
        ("GATEWAY_DATABASE_URL", "mysql://x"),
    ],
)
def test_a_wrong_value_is_one_mistake_that_shows_it(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(name, value)
    (line,) = mistakes()
    assert line.startswith(f"{name}={value!r}: ")


def test_a_jwt_app_is_whole_and_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "key.pem"
    file.write_bytes(b"no key")
    file.chmod(0o600)
    monkeypatch.setenv("COZE_JWT_PRIVATE_KEY_FILE", str(file))
    monkeypatch.setenv("COZE_API_TOKEN", "pat_x")
    alone, whole, key = mistakes()
    assert alone.endswith("allowed is either COZE_API_TOKEN or a JWT app, not both")
    assert whole.endswith("a JWT app also needs COZE_JWT_APP_ID and COZE_JWT_KEY_ID")
    assert "allowed is a file with an RSA private key in PEM; " in key
    assert "no key" not in key
    monkeypatch.delenv("COZE_API_TOKEN")
    monkeypatch.setenv("COZE_JWT_APP_ID", "app-1")
    monkeypatch.setenv("COZE_JWT_KEY_ID", "kid-1")
    key_bytes = generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    file.write_bytes(key_bytes)
    settings = load().settings
    assert not settings.embedded_simulator
    assert settings.coze_jwt_sessions == "one"


def test_a_toml_section_is_told_as_one(tmp_path: Path) -> None:
    file = toml(tmp_path, "port = 1001\n[server]\nhost = 1\n[logging.json]\n")
    said = "there are no sections: write the settings above the first one"
    assert mistakes(file=file) == [f"{file}: [logging]: {said}", f"{file}: [server]: {said}"]


def test_a_toml_flag_is_no_number(tmp_path: Path) -> None:
    file = toml(tmp_path, "port = true")
    assert mistakes(file=file)[0].startswith(f"{file}: port=True")


def test_a_secret_is_in_no_mistake_and_not_in_the_printed_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_API_TOKEN", "pat_hidden")
    monkeypatch.setenv("COZE_API_TOKEN", "pat hidden")
    monkeypatch.setenv("GATEWAY_DATABASE_URL", "postgresql://user:hidden@db/x")
    assert "hidden" not in "\n".join(mistakes())
    monkeypatch.delenv("GATEWAY_API_TOKEN")
    monkeypatch.setenv("COZE_API_TOKN", "pat_hidden")
    monkeypatch.delenv("GATEWAY_DATABASE_URL")
    monkeypatch.setenv("COZE_API_TOKEN", "pat_hidden")
    configuration = load()
    assert "hidden" not in describe(configuration) + repr(configuration)


def test_what_check_config_prints_is_toml_that_gives_the_same_settings(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("GATEWAY_ALLOWED_ORIGINS", "https://A.example:443, http://localhost:5173")
    monkeypatch.setenv("GATEWAY_BUS_URL", "memory://")
    first = load()
    assert first.settings.allowed_origins == ("https://a.example", "http://localhost:5173")
    monkeypatch.delenv("GATEWAY_ALLOWED_ORIGINS")
    monkeypatch.delenv("GATEWAY_BUS_URL")
    assert load(file=toml(tmp_path, describe(first))).settings == first.settings


def test_the_printed_configuration_says_where_each_value_comes_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_RETRY_MS", "5")
    lines = describe(load({"port": "0"})).splitlines()
    assert any(re.fullmatch(r"port = 0 +# --port", line) for line in lines)
    assert any(re.fullmatch(r"retry_ms = 5 +# GATEWAY_RETRY_MS", line) for line in lines)
    assert any(re.fullmatch(r"# admin_port is not set +# default", line) for line in lines)


@pytest.mark.parametrize(
    ("value", "on"), [("true", True), ("TRUE", True), ("True", True), ("", False), ("1", False), ("yes", False)]
)
def test_only_true_in_any_letter_case_turns_streaming_on_and_anything_is_allowed(
    monkeypatch: pytest.MonkeyPatch, value: str, on: bool
) -> None:
    monkeypatch.setenv("USE_SSE_STREAMING", value)
    assert load().settings.use_sse_streaming is on


def test_an_empty_variable_is_as_good_as_none_where_none_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    for field, info in Settings.model_fields.items():
        if info.default is None:
            monkeypatch.setenv(env_name(field), "")
    assert load().settings == Settings()


def test_anyone_may_ask_only_on_loopback_or_where_the_operator_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    keys = tmp_path / "keys"
    keys.touch()
    assert "GATEWAY_ALLOW_ANONYMOUS=true" in mistakes({"host": "::"})[0]
    assert load({"host": "[::1]"}).settings.host == "::1"
    monkeypatch.setenv("GATEWAY_ALLOW_ANONYMOUS", "true")
    assert load({"host": "0.0.0.0"}).settings.auth == ()
    monkeypatch.delenv("GATEWAY_ALLOW_ANONYMOUS")
    monkeypatch.setenv("GATEWAY_AUTH", "api-key")
    monkeypatch.setenv("GATEWAY_API_KEYS_FILE", str(keys))
    assert load({"host": "0.0.0.0"}).settings.auth == ("api-key",)


def test_jwt_needs_exactly_one_kind_of_key_and_keys_need_auth(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.touch()
    monkeypatch.setenv("GATEWAY_JWT_SECRET_FILE", str(file))
    assert mistakes() == [f"GATEWAY_JWT_SECRET_FILE={str(file)!r}: allowed only when GATEWAY_AUTH names jwt"]
    monkeypatch.setenv("GATEWAY_AUTH", "api-key, jwt")
    monkeypatch.setenv("GATEWAY_API_KEYS_FILE", str(file))
    assert load().settings.auth == ("api-key", "jwt")
    monkeypatch.setenv("GATEWAY_JWKS_FILE", str(file))
    assert "exactly one" in mistakes()[0]


@pytest.mark.parametrize("text", ["[", 'port = "\udcff"', "port = 1\nport = 2"])
def test_a_file_that_is_no_toml_is_one_mistake_on_one_line(tmp_path: Path, text: str) -> None:
    file = tmp_path / "gateway.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    (line,) = mistakes(file=str(file))
    assert line.startswith(f"--config={str(file)!r}: must be TOML")


def test_a_missing_file_is_a_mistake(tmp_path: Path) -> None:
    (line,) = mistakes(file=str(tmp_path / "none.toml"))
    assert "No such file" in line


def test_a_data_folder_that_cannot_be_made_is_a_mistake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("GATEWAY_DATA_DIR", str(tmp_path / "file" / "data"))
    assert mistakes()[0].startswith("GATEWAY_DATA_DIR=")
    (tmp_path / "data").touch()
    monkeypatch.delenv("GATEWAY_DATA_DIR")
    monkeypatch.setenv("GATEWAY_PORT", "x")
    assert [line.partition("=")[0] for line in mistakes()] == ["GATEWAY_PORT", "GATEWAY_DATA_DIR"]


def test_checking_makes_no_folder(tmp_path: Path) -> None:
    load()
    assert list(tmp_path.iterdir()) == []


def test_the_knobs_that_tests_turn_may_be_small(monkeypatch: pytest.MonkeyPatch) -> None:
    small = {
        "HEARTBEAT_INTERVAL": "0.1",
        "RETENTION_SECONDS": "1",
        "TURN_TIMEOUT": "0.2",
        "SEND_TIMEOUT": "0.2",
        "UPSTREAM_IDLE_TIMEOUT": "0.2",
        "UPSTREAM_CONNECT_TIMEOUT": "0.05",
        "ABANDON_SECONDS": "0",
        "DRAIN_SECONDS": "0",
        "UPSTREAM_RETRIES": "0",
        "SIMULATOR_FIRST_MS": "0",
        "SIMULATOR_RATE": "100000",
        "TURNS_PER_MINUTE": "10000000",
    }
    for name, value in small.items():
        monkeypatch.setenv(f"GATEWAY_{name}", value)
    assert isinstance(load(), Configuration)


def test_with_tenants_no_simulated_coze_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tenants.toml").write_text('[a]\ncoze_api_token = "pat_a"\n')
    monkeypatch.setenv("GATEWAY_TENANTS_FILE", str(tmp_path / "tenants.toml"))
    settings = load().settings
    assert not settings.embedded_simulator
    assert not settings.own_credentials


def test_a_wrong_tenants_file_is_said_one_line_for_each_mistake_and_no_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "tenants.toml"
    file.write_text('[a]\ncoze_api_token = "pat hidden"\n[b]\nbots = "7"\ntoken = "hidden"\n[c]\n')
    monkeypatch.setenv("GATEWAY_TENANTS_FILE", str(file))
    lines = mistakes()
    assert all(line.startswith(f"GATEWAY_TENANTS_FILE='{file}': [") for line in lines)
    assert [line.split("': ")[1].split(":")[0] for line in lines] == [
        "[a] coze_api_token",
        "[b] bots",
        "[b] token",
        "[c]",
    ]
    assert "hidden" not in "\n".join(lines)


def test_without_credentials_the_simulated_coze_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load().settings.embedded_simulator
    monkeypatch.setenv("COZE_API_TOKEN", "pat_x")
    assert not load().settings.embedded_simulator
    assert load().settings.asks_coze
    monkeypatch.setenv("COZE_API_BASE", "http://127.0.0.1:3400")  # a stand-in
    assert not load().settings.asks_coze


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("HTTPS://Example.COM", "https://example.com"),
        ("http://example.com:80", "http://example.com"),
        ("http://example.com:443", "http://example.com:443"),
        ("http://[::1]:3000", "http://[::1]:3000"),
        ("capacitor://localhost", "capacitor://localhost"),
    ],
)
def test_an_origin_is_kept_as_browsers_write_it(given: str, kept: str) -> None:
    assert origin(given) == kept


@pytest.mark.parametrize(
    ("host", "loopback"),
    [("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("localhost.example", False)],
)
def test_loopback_is_what_nobody_else_reaches(host: str, loopback: bool) -> None:
    assert is_loopback(host) is loopback


KUBERNETES = {
    "GATEWAY_PORT": "tcp://10.96.0.7:80",
    "GATEWAY_PORT_80_TCP": "tcp://10.96.0.7:80",
    "GATEWAY_PORT_80_TCP_ADDR": "10.96.0.7",
    "GATEWAY_PORT_80_TCP_PORT": "80",
    "GATEWAY_PORT_80_TCP_PROTO": "tcp",
    "GATEWAY_SERVICE_HOST": "10.96.0.7",
    "GATEWAY_SERVICE_PORT": "80",
    "GATEWAY_SERVICE_PORT_HTTP": "80",
    "GATEWAY_ADMIN_PORT": "tcp://[fd00::7]:9100",  # of a service named gateway-admin
    "GATEWAY_HOST_SERVICE_HOST": "10.96.0.9",
    "COZE_GATEWAY_PORT": "tcp://10.96.0.8:3000",
    "COZE_GATEWAY_PORT_3000_TCP": "tcp://10.96.0.8:3000",
    "COZE_GATEWAY_SERVICE_HOST": "10.96.0.8",
}
DOCKER = {
    "GATEWAY_PORT": "tcp://172.17.0.5:3000",
    "GATEWAY_PORT_3000_TCP": "tcp://172.17.0.5:3000",
    "GATEWAY_PORT_3000_TCP_START": "tcp://172.17.0.5:3000",
    "GATEWAY_PORT_3000_TCP_PORT_END": "3004",
    "GATEWAY_NAME": "/page/gateway",
    "GATEWAY_ENV_PYTHON_VERSION": "3.13.5",
}


@pytest.mark.parametrize("links", [KUBERNETES, DOCKER])
def test_what_kubernetes_and_docker_set_for_a_service_of_that_name_is_ignored_and_named_in_one_line(
    monkeypatch: pytest.MonkeyPatch, links: dict[str, str]
) -> None:
    for name, value in links.items():
        monkeypatch.setenv(name, value)
    found = load()
    assert (found.settings, dict(found.names)) == (Settings(), {})
    ((event, sentence),) = found.remarks
    assert event == "config.links_ignored"
    assert sentence.endswith(": " + ", ".join(sorted(links)))


@pytest.mark.parametrize(
    ("name", "value"),
    [("GATEWAY_NAME", "shop"), ("GATEWAY_NAME", "/a/b"), ("GATEWAY_ENV_PORT", "1"), ("GATEWAY_PORT_TCP", "1")],
)
def test_a_name_that_only_resembles_a_link_is_still_a_mistake(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    (line,) = mistakes()
    assert line.startswith(f"{name}: no such setting")


def test_a_port_that_resembles_a_link_is_a_mistake_where_no_link_can_come_from(tmp_path: Path) -> None:
    assert mistakes({"port": "tcp://10.0.0.1:80"})[0].startswith("--port=")
    assert "port='tcp" in mistakes(file=toml(tmp_path, 'port = "tcp://10.0.0.1:80"'))[0]


def test_coze_names_of_other_programs_are_their_business(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (
        "COZE_BOT_ID",
        "COZE_LOG",
        "COZE_WORKFLOW_ID",
        "COZE_SPACE_ID",
        "COZE_JWT_OAUTH_CLIENT_ID",
        "COZE_JWT_OAUTH_PRIVATE_KEY",
        "COZE_JWT_OAUTH_PUBLIC_KEY_ID",
        "COZE_JWT_OAUTH_PRIVATE_KEY_FILE_PATH",
        "COZE_WEB_OAUTH_CLIENT_ID",
    ):
        monkeypatch.setenv(name, "x")
    found = load()
    assert (found.settings, found.remarks) == (Settings(), [])


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("COZE_API_TOKN", "COZE_API_TOKEN"),
        ("COZE_TOKEN", "COZE_API_TOKEN"),
        ("COZE_API_KEY", "COZE_API_TOKEN"),
        ("COZE_API_BASE_URL", "COZE_API_BASE"),
        ("COZE_JWT_PRIVATE_KEY", "COZE_JWT_PRIVATE_KEY_FILE"),
    ],
)
def test_a_near_miss_of_a_coze_name_is_told_the_right_one_without_its_value(
    monkeypatch: pytest.MonkeyPatch, written: str, meant: str
) -> None:
    monkeypatch.setenv(written, "pat_hidden")
    ((event, sentence),) = load().remarks
    assert event == "config.similar_name"
    assert f"{written} is not a setting" in sentence
    assert f"perhaps you meant {meant}" in sentence
    assert "hidden" not in sentence


@pytest.mark.parametrize(
    "wrapped",
    ['"pat_hidden"', "'pat_hidden'", "`pat_hidden`", "“pat_hidden”", "<pat_hidden>", "Bearer pat_hidden"]
    + [f"pat_hidden{end}" for end in ("\n", " ", "\r\n", "\t", "\N{NO-BREAK SPACE}", "密")]
    + ['"pat_hidden', "pat_hid`den", "pat_hidden,"],
)
def test_a_token_with_what_no_bearer_token_has_is_refused_with_a_sentence(
    wrapped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COZE_API_TOKEN", wrapped)
    (line,) = mistakes()
    assert line == (
        "COZE_API_TOKEN=***: allowed is only a Coze access token: letters, digits and -._~+/=, "
        "no quotes, backticks or spaces"
    )


@pytest.mark.parametrize("token", ["pat_aZ09", "czs_a-b.c~d+e/f==", "a-token-for-tests"])
def test_a_token_is_taken_as_it_is(token: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COZE_API_TOKEN", token)
    taken = load().settings.coze_api_token
    assert taken is not None
    assert taken.get_secret_value() == token


def test_the_sample_explains_every_setting_and_changes_nothing(tmp_path: Path) -> None:
    text = sample()
    assert load(file=toml(tmp_path, text)).settings == Settings()
    uncommented = re.sub(r"^#(\w+ = )", r"\1", text, flags=re.MULTILINE)
    assert set(tomllib.loads(uncommented)) == set(Settings.model_fields)
    assert load(file=toml(tmp_path, uncommented)).settings == Settings()
    for field in Settings.model_fields:
        assert f"  # {env_name(field)}\n" in text
        assert MEANINGS[field].endswith(".")


def test_asterisks_that_check_config_printed_are_not_taken_for_a_secret(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COZE_API_TOKEN", "pat_hidden")
    printed = describe(load())
    monkeypatch.delenv("COZE_API_TOKEN")
    file = toml(tmp_path, printed)
    (line,) = mistakes(file=file)
    assert line.startswith(f"{file}: coze_api_token: check-config prints asterisks in place of a secret")
    assert line.endswith("set COZE_API_TOKEN")
    monkeypatch.setenv("COZE_API_TOKEN", "pat_hidden")  # then nothing is missing, but the line in the file still lies
    assert len(mistakes(file=file)) == 1


@pytest.mark.parametrize("proxy", ["http://proxy:3128", "http://u:p%40ss@proxy.corp:3128", "http://[::1]:8080/"])
def test_a_proxy_is_taken_and_its_password_is_printed_nowhere(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_UPSTREAM_PROXY", proxy)
    configuration = load()
    assert configuration.settings.proxy == proxy
    printed = describe(configuration) + repr(configuration)
    assert "p%40ss" not in printed
    assert "p@ss" not in printed
    assert f'upstream_proxy = "{proxy.replace("u:p%40ss", "***")}"' in printed


@pytest.mark.parametrize(
    "proxy",
    [
        "proxy:3128",
        "https://u:hidden@proxy:3128",
        "socks5://u:hidden@proxy",
        "http://u:hidden@proxy/path",
        "http://",
        "http://u:hid@den@proxy",
        "http://u:hidden@pro xy",
        "http://u:hidden@proxy:99999",
        "http://u:%E5%AF%86@proxy",
        "http://u%3Av:hidden@proxy",  # HTTP's Basic has no user with a colon
    ],
)
def test_what_is_no_proxy_is_refused_without_its_password(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_UPSTREAM_PROXY", proxy)
    (line,) = mistakes()
    assert line.startswith("GATEWAY_UPSTREAM_PROXY=***: allowed is http://HOST:PORT, or ")


def test_another_programs_proxy_is_remarked_on_where_coze_is_asked_without_one(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://u:hidden@proxy:1")
    assert not load().remarks  # the simulated Coze is in this process
    monkeypatch.setenv("COZE_API_TOKEN", "pat_x")
    ((event, why),) = load().remarks
    assert event == "config.proxy_ignored"
    assert "HTTPS_PROXY" in why
    assert "hidden" not in why
    monkeypatch.setenv("GATEWAY_UPSTREAM_PROXY", "http://proxy:1")
    assert not load().remarks
