"""Loading: flags, then the environment, then the TOML file, then defaults. All mistakes are reported at once."""

import difflib
import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource, TomlConfigSettingsSource

from gateway.config.names import remarks, sort_names
from gateway.config.settings import Settings, env_name
from gateway.telemetry.masking import mask

_FIELDS = {env_name(field): field for field in Settings.model_fields}
_USER_IN_URL = re.compile(r"//.*@", re.DOTALL)
_REDIS = ("redis", "rediss", "redis+sentinel", "rediss+sentinel")
_PATH = re.compile(r"(?=.*[/.])[\w.~ /-]{1,200}")
_STARS = "check-config prints asterisks in place of a secret: write the secret itself,"
_PROXY = env_name("upstream_proxy")
_PROXIES = ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")
_SECRET_FILES = ("coze_jwt_private_key_file", "tenants_file", "api_keys_file", "jwt_secret_file", "jwks_file")


@dataclass(frozen=True, slots=True)
class WrongSetting:
    """One wrong setting: its name as the operator wrote it, and what is wrong or allowed. It contains no secret."""

    setting: str
    value: str
    allowed: str

    def __str__(self) -> str:
        return f"{self.setting}{self.value}: {self.allowed}"


class ConfigError(Exception):
    """The settings can't be used. `mistakes` is never empty."""

    def __init__(self, mistakes: list[WrongSetting]) -> None:
        super().__init__("\n".join(map(str, mistakes)))
        self.mistakes = mistakes


class Configuration(NamedTuple):
    """Checked settings, and for each field that was set, the name by which the operator set it.

    `remarks` are not mistakes: each has the event of a log line and a sentence.
    """

    settings: Settings
    names: Mapping[str, str]
    remarks: Sequence[tuple[str, str]] = ()


def load(flags: Mapping[str, str] | None = None, file: str | None = None) -> Configuration:
    """The configuration from `flags` (by field), the environment and the TOML `file`. Raises `ConfigError`."""
    mistakes: list[WrongSetting] = []
    values: dict[str, Any] = {}
    names: dict[str, str] = {}
    said: list[tuple[str, str]] = []
    written = _read_toml(file, mistakes) if file is not None else {}
    for source, name in (
        (dict(flags or {}), lambda field: f"--{field.replace('_', '-')}"),
        (_read_environment(mistakes, said), env_name),
        (written, lambda field: f"{file}: {field}"),
    ):
        for field, value in source.items():
            if field not in values:
                values[field] = value
                names[field] = name(field)
    settings, wrong = _checked(values)
    for field in sorted(wrong, key=list(Settings.model_fields).index):
        info = Settings.model_fields[field]
        mistakes.append(_mistake(field, values.get(field, info.default), names, f"allowed is {info.description}"))
    for fields, allowed in _contradictions(settings) if settings else ():
        if not wrong.intersection(fields):
            field = fields[0]
            mistakes.append(_mistake(field, values.get(field, getattr(settings, field)), names, allowed))
    if mistakes or settings is None:
        raise ConfigError(mistakes)
    if settings.proxy is None and not settings.embedded_simulator:
        said += _ignored_proxies()
    return Configuration(settings, names, said)


def describe(configuration: Configuration) -> str:
    """The effective configuration as TOML, secrets masked, each line saying where its value comes from."""
    lines = []
    for field in Settings.model_fields:
        value = getattr(configuration.settings, field)
        source = configuration.names.get(field, "default")
        if field == "auth":
            value = ",".join(value) or "none"
        shown = f"# {field} is not set" if value is None else f"{field} = {toml(value)}"
        lines.append(f"{shown:<48}  # {source}")
    return "\n".join(lines) + "\n"


def _read_environment(mistakes: list[WrongSetting], said: list[tuple[str, str]]) -> dict[str, Any]:
    names = sort_names(os.environ, _FIELDS)
    mistakes += [_unknown(name, name, _FIELDS) for name in names.unknown]
    said += remarks(names)
    values = EnvSettingsSource(Settings)()
    return {_FIELDS[name]: value for name, value in values.items() if name in names.settings}


def _ignored_proxies() -> Iterator[tuple[str, str]]:
    """Warns of proxies that other programs would use, because an operator may expect the same of the gateway."""
    if names := [name for name in _PROXIES if os.environ.get(name)]:
        yield "config.proxy_ignored", f"not used for calls to Coze, which only {_PROXY} affects: {', '.join(names)}"


def _read_toml(file: str, mistakes: list[WrongSetting]) -> dict[str, Any]:
    try:
        with open(file, "rb"):  # the source below treats a missing file as an empty one
            pass
        written = TomlConfigSettingsSource(Settings, toml_file=Path(file)).toml_data
    except OSError as error:
        mistakes.append(
            WrongSetting("--config", f"={file!r}", f"must be a TOML file that can be read ({error.strerror})")
        )
        return {}
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        mistakes.append(WrongSetting("--config", f"={file!r}", f"must be TOML: {' '.join(str(error).split())}"))
        return {}
    known = {key: value for key, value in written.items() if key in Settings.model_fields}
    for key in sorted(written.keys() - known.keys()):
        if isinstance(written[key], dict):
            mistakes.append(
                WrongSetting(f"{file}: [{key}]", "", "there are no sections: write the settings above the first one")
            )
            continue
        mistakes.append(_unknown(f"{file}: {key}", key.lower().removeprefix("gateway_"), Settings.model_fields))
    for key in [key for key, value in known.items() if key != "data_dir" and "***" in str(value)]:
        mistakes.append(WrongSetting(f"{file}: {key}", "", f"{_STARS} or leave the line out and set {env_name(key)}"))
        del known[key]
    return known


def _checked(values: Mapping[str, Any]) -> tuple[Settings | None, set[str]]:
    """Settings made of the valid values, so that contradictions among them are found too; and the invalid fields."""
    try:
        return Settings(**values), set()
    except ValidationError as failure:
        wrong = {_FIELDS.get(str(e["loc"][0]), str(e["loc"][0])) for e in failure.errors(include_url=False)}
    try:
        return Settings(**{field: value for field, value in values.items() if field not in wrong}), wrong
    except ValidationError:  # a default is wrong too: a data folder that can't be made
        return None, wrong


def _contradictions(settings: Settings) -> Iterator[tuple[tuple[str, ...], str]]:
    """Mistakes that only several settings together show: the fields (the wrong one first), and what is allowed."""
    jwt_app = ("coze_jwt_app_id", "coze_jwt_key_id", "coze_jwt_private_key_file")
    given = [field for field in jwt_app if getattr(settings, field) is not None]
    if given and settings.coze_api_token is not None:
        yield (given[0], "coze_api_token"), "allowed is either COZE_API_TOKEN or a JWT app, not both"
    if given and (missing := [env_name(field) for field in jwt_app if field not in given]):
        yield (given[0], *jwt_app), f"a JWT app also needs {' and '.join(missing)}"
    if settings.coze_jwt_private_key_file is not None and (wrong := _wrong_key(settings.coze_jwt_private_key_file)):
        yield ("coze_jwt_private_key_file",), wrong
    if settings.tenants_file is not None:
        for wrong in _wrong_tenants(settings.tenants_file):
            yield ("tenants_file",), wrong
    for field, schemes in (("database_url", ("postgresql",)), ("bus_url", ("memory", *_REDIS))):
        value = getattr(settings, field)
        if value is not None and value.partition("://")[0] not in schemes:
            yield (field,), f"allowed is {Settings.model_fields[field].description}"
    if settings.database_url is not None and (wrong := _wrong_postgresql(settings.database_url)) is not None:
        yield ("database_url",), wrong
    if settings.bus_url is not None and settings.bus_url.partition("://")[0] in _REDIS:
        if not settings.on_postgresql:
            needs = "Redis carries news between nodes, which share a database: set GATEWAY_DATABASE_URL=postgresql://…"
            yield ("bus_url", "database_url"), needs
        elif (wrong := _wrong_redis(settings.bus_url)) is not None:
            yield ("bus_url",), wrong
    elif settings.on_postgresql and settings.bus_url is not None:
        yield ("bus_url", "database_url"), "allowed beside PostgreSQL, which holds the event log, is redis://…"
    if not settings.auth and not settings.on_loopback and not settings.allow_anonymous:
        yield (
            ("host", "auth", "allow_anonymous"),
            "without GATEWAY_AUTH only loopback (127.0.0.1) is allowed, unless GATEWAY_ALLOW_ANONYMOUS=true",
        )
    if settings.admin_port and settings.admin_port == settings.port and settings.admin_host in settings.hosts:
        yield ("admin_port", "admin_host", "host", "port"), "allowed is another port than GATEWAY_PORT's"
    if "api-key" in settings.auth and settings.api_keys_file is None:
        yield ("auth", "api_keys_file"), "api-key needs GATEWAY_API_KEYS_FILE"
    if "jwt" in settings.auth and (settings.jwt_secret_file is None) == (settings.jwks_file is None):
        needs = "jwt needs exactly one of GATEWAY_JWT_SECRET_FILE and GATEWAY_JWKS_FILE"
        yield ("auth", "jwt_secret_file", "jwks_file"), needs
    for field, way in (("api_keys_file", "api-key"), ("jwt_secret_file", "jwt"), ("jwks_file", "jwt")):
        # Keys that are never checked look like protection that isn't there.
        if getattr(settings, field) is not None and way not in settings.auth:
            yield (field, "auth"), f"allowed only when GATEWAY_AUTH names {way}"


def _wrong_key(file: Path) -> str | None:
    """Why a file holds no key that a JWT app can sign with."""
    from gateway.config.keys import private_key

    try:
        private_key(file)
    except ValueError as error:
        return f"allowed is a file with an RSA private key in PEM; {error}"
    return None


def _wrong_tenants(file: Path) -> list[str]:
    """What is wrong with a tenants file."""
    from gateway.config.tenants import TenantsError, read_tenants

    try:
        read_tenants(file)
    except TenantsError as error:
        return error.mistakes
    return []


def _wrong_postgresql(url: str) -> str | None:
    """Why a PostgreSQL URL can't be used. libpq's own message is not shown, since it repeats the URL."""
    if not url.startswith("postgresql://"):
        return None
    try:
        from psycopg import ProgrammingError

        from gateway.postgres.address import conninfo
    except ImportError:
        return "PostgreSQL needs another package: pip install 'coze-stream-gateway[postgres]'"
    try:
        conninfo(url)
    except ProgrammingError:
        return "allowed is a URL like postgresql://USER:PASSWORD@HOST:5432/NAME, with reserved characters as %XX"
    return None


def _wrong_redis(url: str) -> str | None:
    """Why a Redis URL can't be used."""
    try:
        from gateway.redis.address import parse
    except ImportError:
        return "Redis needs another package: pip install 'coze-stream-gateway[redis]'"
    try:
        parse(url)
    except ValueError as error:
        return str(error)
    return None


def _mistake(field: str, value: object, names: Mapping[str, str], allowed: str) -> WrongSetting:
    return WrongSetting(names.get(field, env_name(field)), f"={_shown(field, value)}", allowed)


def _unknown(shown: str, name: str, known: Iterable[str]) -> WrongSetting:
    """A misspelt name's value may be a secret, so it is not shown."""
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)
    return WrongSetting(shown, "", f"no such setting; the nearest is {nearest[0]}")


def _shown(field: str, value: object) -> str:
    if field in ("coze_api_token", "upstream_proxy"):
        return "***"
    if field in _SECRET_FILES and not _PATH.fullmatch(str(value)):
        return "***"  # perhaps somebody pasted the file's content instead of its path
    text = _masked(repr(str(value) if isinstance(value, Path) else value))
    return text if len(text) <= 200 else f"{text[:200]}…"


def toml(value: object) -> str:
    match value:
        case bool() | int() | float():
            return str(value).lower()
        case tuple():
            return f"[{', '.join(map(toml, value))}]"
        case Path():  # an existing or possible file or folder: whatever its name looks like, it is no secret
            return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
        case SecretStr() if (text := value.get_secret_value()).startswith("http://"):  # a proxy: its host is no secret
            return json.dumps(_masked(text), ensure_ascii=False)
        case _:  # SecretStr shows itself as asterisks
            return json.dumps(_masked(str(value)), ensure_ascii=False)


def _masked(text: str) -> str:
    return mask(_USER_IN_URL.sub("//***@", text))
