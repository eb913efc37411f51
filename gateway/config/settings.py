"""Settings: what the operator may choose, as contract section 1 names it. Only this room reads the environment.

A setting's attribute is its name in TOML: lower case, without `GATEWAY_`. Seconds are floats.
"""

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from gateway.config.values import (
    bearer,
    commas,
    creatable_folder,
    empty_is_none,
    host_name,
    host_names,
    http_url,
    joined,
    lower,
    no_flag,
    only_true,
    origin,
    proxy_secrets,
    proxy_url,
    readable_file,
)

NOT_BUILT_YET: Mapping[str, str] = {
    "coze_jwt_app_id": "",
    "coze_jwt_key_id": "",
    "coze_jwt_private_key_file": "",
    "tenants_file": "",
    "database_url": "postgresql",
    "bus_url": "redis",
}
"""Settings promised but not built: a value that begins like this (`""`: any) stops the start."""

Way = Literal["api-key", "jwt"]
Whole = Annotated[int, BeforeValidator(no_flag)]
Seconds = Annotated[float, BeforeValidator(no_flag)]
Words = Annotated[str | None, BeforeValidator(empty_is_none)]
File = Annotated[Path | None, BeforeValidator(empty_is_none), AfterValidator(readable_file)]
Host = Annotated[str, AfterValidator(host_name)]
Hosts = Annotated[tuple[Host, ...], BeforeValidator(commas)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(origin)], ...], BeforeValidator(commas)]


def env_name(field: str) -> str:
    """The environment's name for a setting: `port` is `GATEWAY_PORT`, three families have no prefix."""
    bare = field.startswith("coze_") or field == "use_sse_streaming"
    return field.upper() if bare else f"GATEWAY_{field.upper()}"


def _whole(default: int | None, low: int, high: int, extra: str = "") -> Any:
    return Field(default, ge=low, le=high, description=f"a whole number from {low} to {high}{extra}")


def _seconds(default: float, low: float = 0.001, high: float = 31_536_000) -> Any:
    return Field(default, ge=low, le=high, description=f"seconds from {low:g} to {high:.0f}")


def _flag() -> Any:
    return Field(False, description="true or false")


def _file(what: str) -> Any:
    return Field(None, description=f"a file that can be read, with {what}")


class Settings(BaseSettings):
    """Every setting, checked. `Settings(port=0)` takes what it is given and defaults; `config_load.load` reads the
    flags, the environment and the file. A `description` says what is allowed, for the operator who mistook it."""

    model_config = SettingsConfigDict(
        frozen=True,
        extra="forbid",
        alias_generator=env_name,
        validate_by_name=True,
        validate_by_alias=True,
        validate_default=True,
        case_sensitive=True,
        enable_decoding=False,
        allow_inf_nan=False,
    )

    coze_api_token: Annotated[SecretStr | None, BeforeValidator(empty_is_none), AfterValidator(bearer)] = Field(
        None, description="a Coze access token alone: letters, digits and -._~+/=, no quotes, backticks or blanks"
    )
    coze_api_base: Annotated[str, AfterValidator(http_url)] = Field(
        "https://api.coze.cn", description="http:// or https://, a host, perhaps a path; no user, query or fragment"
    )
    coze_jwt_app_id: Words = Field(None, description="the id of a Coze OAuth app")
    coze_jwt_key_id: Words = Field(None, description="the id of the app's public key")
    coze_jwt_private_key_file: File = _file("the app's private key in PEM")
    tenants_file: File = _file("TOML: credentials and bots for each shopId")

    host: Annotated[str, BeforeValidator(joined), AfterValidator(host_names)] = Field(
        "127.0.0.1", description="addresses or host names to listen on, with commas between; * is all of IPv4 and IPv6"
    )
    port: Whole = _whole(3000, 0, 65535, "; 0 takes a free one")
    admin_port: Annotated[Whole | None, BeforeValidator(empty_is_none)] = _whole(None, 0, 65535, "; unset: no listener")
    admin_host: Host = Field("127.0.0.1", description="an address or a host name to listen on")
    data_dir: Annotated[Path, AfterValidator(creatable_folder)] = Field(
        Path("data"), description="a folder that can be written, or made"
    )
    database_url: Words = Field(None, description="unset (SQLite in the data folder), or postgresql://…")
    bus_url: Words = Field(None, description="unset (the embedded log), memory://, or redis://…")
    upstream_proxy: Annotated[SecretStr | None, BeforeValidator(empty_is_none), AfterValidator(proxy_url)] = Field(
        None, description="http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT with reserved characters as %XX"
    )
    use_sse_streaming: Annotated[bool, BeforeValidator(only_true)] = Field(True, description="anything: true is on")

    upstream_connect_timeout: Seconds = _seconds(10)
    upstream_idle_timeout: Seconds = _seconds(60)
    turn_timeout: Seconds = _seconds(600)
    send_timeout: Seconds = _seconds(60)
    upstream_retries: Whole = _whole(3, 0, 100)
    retry_uncertain: bool = _flag()
    heartbeat_interval: Seconds = _seconds(15, high=3600)
    retry_ms: Whole = _whole(2000, 1, 3_600_000)
    abandon_seconds: Seconds = _seconds(30, low=0)
    retention_seconds: Seconds = _seconds(3600)
    drain_seconds: Seconds = _seconds(20, low=0)
    drain_pause_seconds: Seconds = _seconds(0, low=0, high=3600)

    max_connections: Whole = _whole(10_000, 1, 10_000_000)
    max_connections_per_user: Whole = _whole(20, 1, 10_000_000)
    max_unsent_bytes: Whole = _whole(25_165_824, 1_048_576, 1_099_511_627_776)
    turns_per_minute: Whole = _whole(30, 1, 1_000_000_000)
    max_body_bytes: Whole = _whole(262_144, 1, 67_108_864)
    max_message_chars: Whole = _whole(16_000, 1, 16_000_000)

    allowed_origins: Origins = Field(
        (), description="origins with commas between, each scheme://host or scheme://host:port; never *"
    )
    allowed_hosts: Hosts = Field((), description="host names with commas between, without scheme and port")
    auth: Annotated[tuple[Way, ...], BeforeValidator(lambda ways: () if ways == "none" else commas(ways))] = Field(
        (), description="none, api-key, jwt, or api-key,jwt"
    )
    allow_anonymous: bool = _flag()
    api_keys_file: File = _file("a line a key: NAME SHA256-HEX SHOPS")
    jwt_secret_file: File = _file("the HS256 secret")
    jwks_file: File = _file("public keys as a JWK set")
    jwt_audience: Words = Field(None, description="the audience that tokens must name")
    jwt_issuer: Words = Field(None, description="the issuer that tokens must name")

    simulator_first_ms: Seconds = Field(300, ge=0, le=3_600_000, description="milliseconds from 0 to 3600000")
    simulator_rate: Seconds = Field(
        40, ge=0, le=1_000_000, description="pieces a second from 0 to 1000000; 0 is as fast as it can"
    )
    media_hosts: Hosts = Field((), description="host names with commas between, without scheme and port")
    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(lower)] = Field(
        "info", description="debug, info, warning or error"
    )
    log_format: Annotated[Literal["json", "console"] | None, BeforeValidator(lower)] = Field(
        None, description="json or console; unset: console on a terminal, else json"
    )
    log_upstream_bytes: bool = _flag()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # What is read from where is decided in one place, `config_load`, which also remembers it for the mistakes.
        return (init_settings,)

    @property
    def embedded_simulator(self) -> bool:
        """Whether the simulated Coze answers, because there are no credentials for the real one."""
        return self.coze_api_token is None and self.coze_jwt_app_id is None

    @property
    def proxy(self) -> str | None:
        """The proxy on the way to Coze, with its password."""
        return self.upstream_proxy.get_secret_value() if self.upstream_proxy is not None else None

    @property
    def secrets(self) -> list[str]:
        """What must be in no log."""
        token = self.coze_api_token
        return ([token.get_secret_value()] if token is not None else []) + proxy_secrets(self.proxy or "")

    @property
    def asks_coze(self) -> bool:
        """Whether Coze's own service is asked, and no stand-in for it."""
        host = urlsplit(self.coze_api_base).hostname or ""
        return not self.embedded_simulator and host.endswith((".coze.com", ".coze.cn"))

    @property
    def on_loopback(self) -> bool:
        """Whether nobody outside this machine reaches any of the hosts."""
        return all(map(is_loopback, self.hosts))

    @property
    def hosts(self) -> tuple[str, ...]:
        """Where to listen; `*` stands for all addresses."""
        return tuple(self.host.split(","))


def is_loopback(host: str) -> bool:
    """Whether nobody outside this machine reaches `host`. A name other than localhost is not looked up: no."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
