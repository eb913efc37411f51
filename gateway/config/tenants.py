"""The tenants file: for each shop its own Coze credentials, its bots and its limit. TOML, one table for each shop."""

import difflib
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SecretBytes,
    SecretStr,
    ValidationError,
    ValidationInfo,
)

from gateway.config.keys import key_in
from gateway.config.values import bearer, http_url, no_flag
from gateway.ids import LONGEST_NAME
from gateway.telemetry.masking import mask

_KEY: Final = "coze_jwt_private_key_file"
_TOKEN: Final = "coze_api_token"
_APP: Final = ("coze_jwt_app_id", "coze_jwt_key_id", _KEY)

Word = Annotated[str, Field(min_length=1)]


class TenantsError(ValueError):
    """The file can't be used. `mistakes` is never empty; each is a sentence of ours, without any secret."""

    def __init__(self, mistakes: list[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = mistakes


def _pem(path: object, info: ValidationInfo) -> bytes:
    """What the key's file holds, so that tenants with another key are not equal."""
    if not isinstance(path, str):
        raise ValueError("not a path")
    try:
        pem = (info.context["folder"] / path).read_bytes() if info.context else b""
    except OSError:
        raise ValueError("cannot be read") from None
    key_in(pem)
    return pem


class Tenant(BaseModel):
    """One shop. It has a token or a JWT app, never both. Tenants are equal if all that the file says of them is.

    A field's `description` says what is allowed; it is shown when the value is invalid.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    token: Annotated[SecretStr | None, AfterValidator(bearer)] = Field(
        None, alias=_TOKEN, description="only a Coze access token: letters, digits and -._~+/="
    )
    jwt_app_id: Word | None = Field(None, alias="coze_jwt_app_id", description="the id of a Coze OAuth app, in quotes")
    jwt_key_id: Word | None = Field(None, alias="coze_jwt_key_id", description="the id of the app's public key")
    private_key: Annotated[SecretBytes, BeforeValidator(_pem)] | None = Field(
        None, alias=_KEY, description="a file with an RSA private key in PEM and without a password"
    )
    jwt_sessions: Literal["one", "user"] | None = Field(None, alias="coze_jwt_sessions", description="one, or user")
    base: Annotated[str, AfterValidator(http_url)] | None = Field(
        None, alias="coze_api_base", description="http:// or https://, a host and perhaps a path"
    )
    bots: frozenset[Annotated[str, Field(min_length=1, max_length=64)]] | None = Field(
        None, description='a list of bot ids in quotes, such as ["7566252531572473891"]'
    )
    turns_per_minute: Annotated[int, BeforeValidator(no_flag), Field(ge=1, le=1_000_000_000, strict=True)] | None = (
        Field(None, description="a whole number from 1 to 1000000000")
    )

    @property
    def key(self) -> RSAPrivateKey:
        """The JWT app's private key."""
        assert self.private_key is not None
        return key_in(self.private_key.get_secret_value())

    @property
    def way(self) -> tuple[object, ...]:
        """What decides how Coze is asked for the shop. Two tenants with the same may share what asks it."""
        return self.token, self.jwt_app_id, self.jwt_key_id, self.private_key, self.jwt_sessions, self.base


_ALLOWED: Final = {str(info.alias or name): info.description for name, info in Tenant.model_fields.items()}


def read_tenants(file: Path) -> dict[str, Tenant]:
    """The shops and what each has. Raises `TenantsError`. Paths in the file are relative to its folder."""
    try:
        written = tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise TenantsError([f"it cannot be read ({error.strerror})"]) from None
    except UnicodeDecodeError:
        raise TenantsError(["it is not UTF-8"]) from None
    except tomllib.TOMLDecodeError as error:
        raise TenantsError([f"it is not TOML: {mask(' '.join(str(error).split()))}"]) from None
    mistakes: list[str] = []
    found = {}
    for shop, table in written.items():
        try:
            found[shop] = _tenant(shop, table, file.parent)
        except TenantsError as error:
            mistakes += error.mistakes
    if not written:
        mistakes.append("there is no shop in it: each shop is a table, as in [shop-1]")
    if mistakes:
        raise TenantsError(mistakes)
    return found


def _tenant(shop: str, table: object, folder: Path) -> Tenant:
    named = f"[{_shown(shop)}]"
    if not isinstance(table, dict):
        raise TenantsError([f"{_shown(shop)} is outside of a table: each shop is a table, as in [shop-1]"])
    if not 1 <= len(shop) <= LONGEST_NAME:
        raise TenantsError([f"{named}: allowed is a shop's id of 1 to {LONGEST_NAME} characters"])
    contradictions = [f"{named}: {wrong}" for wrong in _contradictions(table)]
    try:
        tenant = Tenant.model_validate(table, context={"folder": folder.absolute()})
    except ValidationError as failure:
        places = [str(error["loc"][0]) for error in failure.errors(include_url=False, include_input=False)]
        mistakes = [f"{named} {_wrong(place, table)}" for place in dict.fromkeys(places)]
        misspelt = any(place not in _ALLOWED for place in places)  # perhaps the very setting that is missing
        raise TenantsError(mistakes if misspelt else mistakes + contradictions) from None
    if contradictions:
        raise TenantsError(contradictions)
    return tenant


def _wrong(place: str, table: dict[str, Any]) -> str:
    """What is wrong with a value. A misspelt name's value may be a secret, so no value is shown."""
    if place in _ALLOWED:
        return f"{place}: allowed is {_ALLOWED[place]}"
    if isinstance(table[place], dict):
        return f'{_shown(place)}: there are no tables within a shop; a shop whose id has a dot is ["a.b"]'
    nearest = difflib.get_close_matches(place, _ALLOWED, n=1, cutoff=0)
    return f"{_shown(place)}: no such setting; the nearest is {nearest[0]}"


def _contradictions(table: Mapping[str, object]) -> Iterator[str]:
    app = [name for name in _APP if name in table]
    if _TOKEN in table and app:
        yield f"allowed is either {_TOKEN} or a JWT app, not both"
    elif _TOKEN not in table and not app:
        yield f"it needs {_TOKEN}, or a JWT app: {', '.join(_APP)}"
    elif app and (missing := [name for name in _APP if name not in app]):
        yield f"a JWT app also needs {' and '.join(missing)}"
    if _TOKEN in table and "coze_jwt_sessions" in table:
        yield "coze_jwt_sessions is allowed only with a JWT app"


def _shown(name: str) -> str:
    return mask(re.sub(r"[^\x20-\x7e\u00a0-\uffff]", "?", name[:64]))
