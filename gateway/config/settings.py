"""Settings: what the operator can set, as section 1 of the contract lists it.

A setting's attribute is its name in TOML: lower case, without `GATEWAY_`. Seconds are floats. Only `loading` reads the
environment.
"""

import ipaddress
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

Way = Literal["api-key", "jwt"]
Door = Literal["coze"]
Whole = Annotated[int, BeforeValidator(no_flag)]
Seconds = Annotated[float, BeforeValidator(no_flag)]
Words = Annotated[str | None, BeforeValidator(empty_is_none)]
File = Annotated[Path | None, BeforeValidator(empty_is_none), AfterValidator(readable_file)]
Host = Annotated[str, AfterValidator(host_name)]
Hosts = Annotated[tuple[Host, ...], BeforeValidator(commas)]
Origins = Annotated[tuple[Annotated[str, AfterValidator(origin)], ...], BeforeValidator(commas)]


def env_name(field: str) -> str:
    """A setting's name in the environment: `port` is `GATEWAY_PORT`; `coze_…` and `use_sse_streaming` get no prefix."""
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
    """Every setting, checked. `Settings(port=0)` uses its arguments and the defaults; `loading.load` reads the flags,
    the environment and the file. A `description` says what is allowed; it is shown when the value is invalid."""

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
        None, description="only a Coze access token: letters, digits and -._~+/=, no quotes, backticks or spaces"
    )
    coze_api_base: Annotated[str, AfterValidator(http_url)] = Field(
        "https://api.coze.cn", description="http:// or https://, a host and perhaps a path; no user, query or fragment"
    )
    coze_jwt_app_id: Words = Field(None, description="the id of a Coze OAuth app")
    coze_jwt_key_id: Words = Field(None, description="the id of the app's public key")
    coze_jwt_private_key_file: File = _file("the app's private key in PEM")
    coze_jwt_sessions: Literal["one", "user"] = Field("one", description="one, or user")
    tenants_file: File = _file("TOML: credentials and bots for each shopId")

    host: Annotated[str, BeforeValidator(joined), AfterValidator(host_names)] = Field(
        "127.0.0.1", description="addresses or host names to listen on, separated by commas; * is all of IPv4 and IPv6"
    )
    port: Whole = _whole(3000, 0, 65535, "; 0 picks a free one")
    admin_port: Annotated[Whole | None, BeforeValidator(empty_is_none)] = _whole(None, 0, 65535, "; unset: no listener")
    admin_host: Host = Field("127.0.0.1", description="an address or a host name to listen on")
    data_dir: Annotated[Path, AfterValidator(creatable_folder)] = Field(
        Path("data"), description="a folder that can be written to, or created"
    )
    database_url: Words = Field(None, description="unset (SQLite in the data folder), or postgresql://…")
    bus_url: Words = Field(None, description="unset, memory://, or redis://… beside PostgreSQL")
    node_name: Words = Field(None, description="a name, by default the host's with a random part")
    upstream_proxy: Annotated[SecretStr | None, BeforeValidator(empty_is_none), AfterValidator(proxy_url)] = Field(
        None, description="http://HOST:PORT, or http://USER:PASSWORD@HOST:PORT with reserved characters as %XX"
    )
    use_sse_streaming: Annotated[bool, BeforeValidator(only_true)] = Field(
        True, description="any value; true turns it on, any other value turns it off"
    )

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
    max_upload_bytes: Whole = _whole(67_108_864, 1, 536_870_912)

    allowed_origins: Origins = Field(
        (), description="origins, separated by commas, each scheme://host or scheme://host:port; never *"
    )
    allowed_hosts: Hosts = Field((), description="host names, separated by commas, without scheme and port")
    auth: Annotated[tuple[Way, ...], BeforeValidator(lambda ways: () if ways == "none" else commas(ways))] = Field(
        (), description="none, api-key, jwt, or api-key,jwt"
    )
    allow_anonymous: bool = _flag()
    doors: Annotated[tuple[Door, ...], BeforeValidator(lambda doors: () if doors == "none" else commas(doors))] = Field(
        ("coze",), description="coze, or none"
    )
    door_token: Annotated[Literal["caller", "gateway"] | None, BeforeValidator(empty_is_none)] = Field(
        None, description="caller or gateway; unset: gateway with GATEWAY_AUTH, else caller"
    )
    api_keys_file: File = _file("one line per key: NAME SHA256-HEX SHOPS")
    jwt_secret_file: File = _file("the HS256 secret")
    jwks_file: File = _file("public keys as a JWK set")
    jwt_audience: Words = Field(None, description="the audience that tokens must name")
    jwt_issuer: Words = Field(None, description="the issuer that tokens must name")

    simulator_first_ms: Seconds = Field(300, ge=0, le=3_600_000, description="milliseconds from 0 to 3600000")
    simulator_rate: Seconds = Field(
        40, ge=0, le=1_000_000, description="pieces per second from 0 to 1000000; 0 means as fast as possible"
    )
    media_hosts: Hosts = Field((), description="host names, separated by commas, without scheme and port")
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
        # Only `loading` decides which sources are read; it also remembers each value's source, to name it in mistakes.
        return (init_settings,)

    @property
    def embedded_simulator(self) -> bool:
        """Whether the simulated Coze answers, because there are no credentials for the real one."""
        return not self.own_credentials and self.tenants_file is None and self.door_token != "caller"

    @property
    def own_credentials(self) -> bool:
        """Whether the gateway has credentials of its own, for messages that name no shop of the tenants file."""
        return self.coze_api_token is not None or self.coze_jwt_app_id is not None

    @property
    def callers_bring_tokens(self) -> bool:
        """Whether the callers of the door that speaks Coze's API send Coze tokens of their own."""
        return self.door_token == "caller" or (self.door_token is None and not self.auth)

    @property
    def proxy(self) -> str | None:
        """The proxy on the way to Coze, with its password."""
        return self.upstream_proxy.get_secret_value() if self.upstream_proxy is not None else None

    @property
    def secrets(self) -> list[str]:
        """Texts that must not appear in any log."""
        token = self.coze_api_token
        return ([token.get_secret_value()] if token is not None else []) + proxy_secrets(self.proxy or "")

    @property
    def asks_coze(self) -> bool:
        """Whether the gateway talks to Coze's own service, not to a stand-in."""
        host = urlsplit(self.coze_api_base).hostname or ""
        return not self.embedded_simulator and host.endswith((".coze.com", ".coze.cn"))

    @property
    def on_loopback(self) -> bool:
        """Whether all hosts can be reached from this machine only."""
        return all(map(is_loopback, self.hosts))

    @property
    def on_postgresql(self) -> bool:
        """Whether the log and the conversations are in PostgreSQL, which other nodes may write too."""
        return self.database_url is not None

    @property
    def hosts(self) -> tuple[str, ...]:
        """Where to listen; `*` stands for all addresses."""
        return tuple(self.host.split(","))


def is_loopback(host: str) -> bool:
    """Whether `host` can be reached from this machine only. Names other than localhost are not looked up: no."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
