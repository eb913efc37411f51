"""JSON Web Tokens (RFC 7519): turns a token into its claims, checked with our own keys. The caller checks the times.

The algorithm comes from our own key, never from the token. A token can name one of our keys (`kid`) but can't bring its
own (`jku`, `jwk` and `x5u` are ignored).
"""

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from adapters.edge.unauthorized import Reason, UnauthorizedError

_REASONS: Final[tuple[tuple[type[Exception], Reason], ...]] = (
    (jwt.InvalidSignatureError, "signature"),
    (jwt.InvalidAudienceError, "audience"),
    (jwt.InvalidIssuerError, "issuer"),
    (jwt.InvalidAlgorithmError, "algorithm"),
    (jwt.exceptions.InvalidSubjectError, "claim sub"),
    (jwt.DecodeError, "malformed"),
    (KeyError, "unknown key"),
)
_BY_CLAIM: Final[Mapping[str, Reason]] = {"aud": "audience", "iss": "issuer", "exp": "claim exp", "sub": "claim sub"}


class PublicKey(NamedTuple):
    key: Any
    algorithm: str


class Jwts:
    """Reads tokens signed with one secret, or with one of our public keys."""

    def __init__(
        self, secret: bytes | None, public_keys: Mapping[str, PublicKey], *, audience: str | None, issuer: str | None
    ) -> None:
        self._secret = secret
        self._public_keys = public_keys
        self._audience = audience
        self._issuer = issuer

    def claims(self, token: str) -> Mapping[str, Any]:
        """The token's claims, among them `exp` and `sub`. Raises UNAUTHORIZED. No time has been checked yet."""
        try:
            key, algorithm = self._key_for(token)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", jwt.InsecureKeyLengthWarning)  # the log says it once, at the start
                claims: Mapping[str, Any] = jwt.decode(
                    token,
                    key,
                    algorithms=[algorithm],
                    audience=self._audience,
                    issuer=self._issuer,
                    # The reader of the claims checks the times, with a clock that does not jump.
                    options={
                        "require": ["exp", "sub"],
                        "verify_exp": False,
                        "verify_nbf": False,
                        "verify_iat": False,
                        "verify_aud": True,
                    },
                )
        except (jwt.PyJWTError, ValueError, TypeError, KeyError, RecursionError, OverflowError) as error:
            raise UnauthorizedError(_reason(error)) from None
        return claims

    def _key_for(self, token: str) -> PublicKey:
        if self._secret is not None:
            return PublicKey(self._secret, "HS256")
        kid = jwt.get_unverified_header(token).get("kid")
        if kid is None and len(self._public_keys) == 1:
            return next(iter(self._public_keys.values()))
        return self._public_keys[str(kid)]


def read_public_keys(path: Path) -> dict[str, PublicKey]:
    """A JWK set (RFC 7517) of public keys, by `kid`."""
    try:
        entries = [entry for entry in json.loads(path.read_bytes())["keys"] if entry.get("use", "sig") == "sig"]
        keys = {str(entry.get("kid", "")): _public_key(entry) for entry in entries}
    except (ValueError, TypeError, KeyError, AttributeError, NotImplementedError, jwt.PyJWTError) as error:
        raise ValueError(f"GATEWAY_JWKS_FILE: no JWK set of public keys ({error or type(error).__name__})") from None
    if not keys:
        raise ValueError("GATEWAY_JWKS_FILE: holds no key for signatures")
    if len(keys) < len(entries):
        raise ValueError("GATEWAY_JWKS_FILE: holds two keys with the same kid")
    return keys


def _public_key(entry: dict[str, Any]) -> PublicKey:
    if "d" in entry or "k" in entry:
        raise ValueError("a private or secret key; only public keys belong in this file")
    # The kind of the key decides the algorithm: so no token can choose HS256, with a public key as the secret.
    key = jwt.PyJWK(entry).key
    match key:
        case RSAPublicKey() if key.key_size >= 2048:
            algorithm = "RS256"
        case EllipticCurvePublicKey() if isinstance(key.curve, SECP256R1):
            algorithm = "ES256"
        case Ed25519PublicKey():
            algorithm = "EdDSA"
        case _:
            raise ValueError("a key that is neither RSA of 2048 bits, P-256 nor Ed25519")
    if entry.get("alg", algorithm) != algorithm:
        raise ValueError(f"a key for {entry['alg']}")
    return PublicKey(key, algorithm)


def _reason(error: Exception) -> Reason:
    if isinstance(error, jwt.MissingRequiredClaimError):
        return _BY_CLAIM.get(error.claim, "claims")
    return next((reason for kind, reason in _REASONS if isinstance(error, kind)), "claims")
