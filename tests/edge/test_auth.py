"""Who asks: API keys and JWTs, and every known way to forge one."""

import base64
import hashlib
import hmac
import json
import time
import warnings
from pathlib import Path
from typing import Any

import jwt
import pytest
from aiohttp.test_utils import make_mocked_request
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from multidict import CIMultiDict

from adapters.edge.api_keys import make_key, read_api_keys
from adapters.edge.auth import Authenticator
from adapters.edge.callers import ALL, ANYONE, Caller
from adapters.edge.unauthorized import UnauthorizedError
from gateway.config.settings import Settings
from gateway.errors import Code, GatewayError
from tests.edge.conftest import Serve

SECRET = b"a secret that is long enough for HS256, by some bytes"
RSA = rsa.generate_private_key(65537, 2048)
EC = ec.generate_private_key(ec.SECP256R1())
ED = ed25519.Ed25519PrivateKey.generate()
ALGORITHMS: dict[str, Any] = {
    "RS256": jwt.algorithms.RSAAlgorithm,
    "ES256": jwt.algorithms.ECAlgorithm,
    "EdDSA": jwt.algorithms.OKPAlgorithm,
}
KEYS: dict[str, Any] = {"RS256": RSA, "ES256": EC, "EdDSA": ED}
NOW = 1_800_000_000.0


def public_jwk(algorithm: str, **more: str) -> dict[str, Any]:
    jwk: dict[str, Any] = json.loads(ALGORITHMS[algorithm].to_jwk(KEYS[algorithm].public_key()))
    return jwk | {"kid": algorithm.lower()} | more


def b64(data: Any) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def token(key: Any = SECRET, algorithm: str = "HS256", headers: dict[str, Any] | None = None, **claims: Any) -> str:
    given = {"sub": "ann", "exp": NOW + 60} | claims
    return jwt.encode({k: v for k, v in given.items() if v is not None}, key, algorithm, headers)


def secret_authenticator(tmp_path: Path, **settings: Any) -> Authenticator:
    file = tmp_path / "secret"
    file.write_bytes(SECRET + b"\n")
    settings = {"auth": "jwt", "jwt_secret_file": str(file)} | settings
    return Authenticator.from_settings(Settings(**settings), clock=lambda: NOW)


def jwks_authenticator(tmp_path: Path, *entries: dict[str, Any]) -> Authenticator:
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"keys": entries}))
    return Authenticator.from_settings(Settings(auth="jwt", jwks_file=str(file)), clock=lambda: NOW)


def refused(who: Authenticator, text: str) -> bool:
    with pytest.raises(GatewayError) as caught:
        who.caller_of(text)
    return caught.value.code is Code.UNAUTHORIZED


def test_a_good_token_says_who_and_until_when(tmp_path: Path) -> None:
    who = secret_authenticator(tmp_path)
    caller = who.caller_of(token(shop="a", scope="read shop"))
    assert caller == Caller("jwt", "ann", frozenset({"a"}), NOW + 60, watches_shops=True)
    assert who.seconds_left(caller) == 60
    assert who.seconds_left(ANYONE) is None


@pytest.mark.parametrize(
    "claims",
    [
        {"exp": None},
        {"exp": NOW - 1},
        {"exp": NOW},
        {"exp": "tomorrow"},
        {"exp": True},
        {"exp": [NOW + 60]},
        {"nbf": NOW + 1},
        {"nbf": {}},
        {"sub": None},
        {"sub": ""},
        {"sub": "x" * 129},
        {"sub": 7},
        {"shop": 7},
        {"shop": {"a": 1}},
        {"shop": ["a", 7]},
        {"aud": "someone else"},
    ],
    ids=str,
)
def test_a_token_with_a_claim_missing_past_or_wrong_is_refused(tmp_path: Path, claims: dict[str, Any]) -> None:
    raw = {"sub": "ann", "exp": NOW + 60} | claims
    head, body = b64({"alg": "HS256"}), b64({k: v for k, v in raw.items() if v is not None})
    signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
        f"{head}.{body}".encode(), SECRET
    )
    assert refused(secret_authenticator(tmp_path), f"{head}.{body}.{b64(signature)}")


def test_times_that_never_come_are_refused(tmp_path: Path) -> None:
    who = secret_authenticator(tmp_path)
    for never in (float("nan"), float("inf"), 10**400):
        assert refused(who, token(exp=never))


def test_audience_and_issuer_must_be_ours(tmp_path: Path) -> None:
    who = secret_authenticator(tmp_path, jwt_audience="gateway", jwt_issuer="login")
    assert who.caller_of(token(aud="gateway", iss="login")).user_id == "ann"
    assert who.caller_of(token(aud=["other", "gateway"], iss="login")).user_id == "ann"
    wrong: list[dict[str, Any]] = [
        {},
        {"aud": "gateway"},
        {"iss": "login"},
        {"aud": "other", "iss": "login"},
        {"aud": "gateway", "iss": "x"},
    ]
    for claims in wrong:
        assert refused(who, token(**claims))


@pytest.mark.parametrize("algorithm", ["RS256", "ES256", "EdDSA"])
def test_each_kind_of_public_key_verifies_its_own_algorithm_only(tmp_path: Path, algorithm: str) -> None:
    who = jwks_authenticator(tmp_path, *map(public_jwk, KEYS))
    kid = {"kid": algorithm.lower()}
    assert who.caller_of(token(KEYS[algorithm], algorithm, kid)).user_id == "ann"
    for other in KEYS.keys() - {algorithm}:
        assert refused(who, token(KEYS[other], other, kid))
    if algorithm == "RS256":
        assert refused(who, token(RSA, "RS512", kid))
        assert refused(who, token(RSA, "PS256", kid))


def test_one_key_needs_no_kid_and_several_do(tmp_path: Path) -> None:
    assert jwks_authenticator(tmp_path, public_jwk("ES256")).caller_of(token(EC, "ES256")).user_id == "ann"
    assert refused(jwks_authenticator(tmp_path, *map(public_jwk, KEYS)), token(EC, "ES256"))


@pytest.mark.parametrize("kid", ["other", "", None, 7, ["es256"], {"a": 1}, "../../etc/passwd", "x" * 5000], ids=str)
def test_an_unknown_kid_is_refused(tmp_path: Path, kid: Any) -> None:
    who = jwks_authenticator(tmp_path, *map(public_jwk, KEYS))
    head, body = b64({"alg": "ES256", "kid": kid}), b64({"sub": "ann", "exp": NOW + 60})
    signature = jwt.algorithms.ECAlgorithm(jwt.algorithms.ECAlgorithm.SHA256).sign(f"{head}.{body}".encode(), EC)
    assert refused(who, f"{head}.{body}.{b64(signature)}")


def test_a_public_key_is_no_hs256_secret(tmp_path: Path) -> None:
    """CVE-2015-9235 and its kin: the token says HS256, the server has a public key at hand that everyone knows."""
    who = jwks_authenticator(tmp_path, public_jwk("RS256"))
    head, body = b64({"alg": "HS256", "kid": "rs256"}), b64({"sub": "ann", "exp": NOW + 60})
    pem = RSA.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    for secret in (pem, pem.strip(), json.dumps(public_jwk("RS256")).encode()):
        signature = jwt.algorithms.HMACAlgorithm(jwt.algorithms.HMACAlgorithm.SHA256).sign(
            f"{head}.{body}".encode(), secret
        )
        assert refused(who, f"{head}.{body}.{b64(signature)}")


@pytest.mark.parametrize("alg", ["none", "None", "NONE", "", None, "HS384", "HS512", "RS256", 7, ["HS256"]], ids=str)
@pytest.mark.parametrize("signed", [False, True])
def test_only_hs256_is_taken_where_there_is_a_secret(tmp_path: Path, alg: Any, signed: bool) -> None:
    """Each is signed as it says, with the right secret, so that only the list of algorithms can refuse it."""
    who = secret_authenticator(tmp_path)
    signed_by = {"HS384": "sha384", "HS512": "sha512"}.get(str(alg), "sha256")

    def made(alg: Any) -> str:
        head, body = b64({"alg": alg}), b64({"sub": "ann", "exp": NOW + 60})
        signature = hmac.digest(SECRET, f"{head}.{body}".encode(), signed_by) if signed else b""
        return f"{head}.{body}.{b64(signature)}"

    assert refused(who, made(alg))
    if signed and signed_by == "sha256":
        assert who.caller_of(made("HS256")).user_id == "ann"


def test_a_token_cannot_bring_or_point_to_its_own_key(tmp_path: Path) -> None:
    mine = ec.generate_private_key(ec.SECP256R1())
    jwk = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(mine.public_key()))
    who = jwks_authenticator(tmp_path, public_jwk("ES256"))
    for brought in (
        {"jwk": jwk},
        {"jku": "http://127.0.0.1:1/jwks"},
        {"x5u": "http://127.0.0.1:1/"},
        {"x5c": ["AAAA"]},
    ):
        assert refused(who, token(mine, "ES256", {"kid": "es256"} | brought))


def test_a_critical_extension_that_nobody_knows_is_refused(tmp_path: Path) -> None:
    who = secret_authenticator(tmp_path)
    assert refused(who, token(headers={"crit": ["exp2"], "exp2": 1}))


@pytest.mark.parametrize(
    "junk", ["", ".", "..", "a.b.c", "e30.e30.", "\ud800", "x" * 100_000, b64(b"[" * 50_000) + ".e30.AA", "é.é.é", "\0"]
)  # fmt: skip
def test_junk_is_refused_and_nothing_else_happens(tmp_path: Path, junk: str) -> None:
    assert refused(secret_authenticator(tmp_path), junk)
    assert refused(jwks_authenticator(tmp_path, public_jwk("ES256")), junk)


def test_a_short_secret_warns_nobody_at_each_request(tmp_path: Path) -> None:
    who = Authenticator(ways=("jwt",), secret=b"short", clock=lambda: NOW)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        text = token(b"short")
    assert who.caller_of(text).user_id == "ann"


@pytest.mark.parametrize(
    ("shop", "mine", "theirs"),
    [
        ("a", {"a"}, {"b", "", None}),
        (["a", "b"], {"a", "b"}, {"c", None}),
        ([], set(), {"a", None}),
        (None, {"a", None}, set()),
    ],
)
def test_the_shop_claim_bounds_the_shop(tmp_path: Path, shop: Any, mine: set[Any], theirs: set[Any]) -> None:
    caller = secret_authenticator(tmp_path).caller_of(token(shop=shop, scope="shop"))
    for name in mine:
        assert caller.may_read("ann", name)
        assert not caller.may_read("bob", name)
    for name in theirs:
        assert not caller.may_read("ann", name)
        assert not caller.may_watch_shop(name)


@pytest.mark.parametrize(
    ("scope", "may"),
    [
        ("shop", True),
        ("a shop b", True),
        (["shop"], True),
        (None, False),
        ("shops", False),
        ("Shop", False),
        (7, False),
        ({"shop": 1}, False),
    ],
)
def test_notifications_need_the_scope_shop(tmp_path: Path, scope: Any, may: bool) -> None:
    caller = secret_authenticator(tmp_path).caller_of(token(shop="a", scope=scope))
    assert caller.may_watch_shop("a") is may


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def keys_file(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "keys"
    file.write_text(text)
    return file


def test_an_api_key_speaks_for_any_user_of_its_shops(tmp_path: Path) -> None:
    file = keys_file(tmp_path, f"# ours\n\nback {digest('k1')} a,b\nall  {digest('k2').upper()}  *\n")
    who = Authenticator.from_settings(Settings(auth="api-key", api_keys_file=str(file)))
    back, everywhere = who.caller_of("k1"), who.caller_of("k2")
    assert back == Caller("api-key", None, frozenset({"a", "b"}), None, True, "back")
    assert everywhere.shops == ALL
    assert back.may_read("anyone", "a")
    assert back.may_watch_shop("b")
    assert not back.may_read("anyone", "c")
    assert not back.may_read("anyone", None)
    assert everywhere.may_read("anyone", None)
    for wrong in ("k3", "", digest("k1"), "k1 ", "K1"):
        assert refused(who, wrong)


def test_mistakes_in_the_keys_file_are_named_by_line_without_a_secret(tmp_path: Path) -> None:
    file = keys_file(
        tmp_path, f"a {digest('k')} *\nb k-in-clear *\na {digest('l')} *\nc {digest('m')}\nd {digest('n')} x,,y\n"
    )
    with pytest.raises(ValueError, match=r"line 2 .*line 3 .*line 4 .*line 5 ") as caught:
        read_api_keys(file)
    assert "k-in-clear" not in str(caught.value)
    with pytest.raises(ValueError, match="no key"):
        read_api_keys(keys_file(tmp_path, "\n"))


@pytest.mark.parametrize(
    "entry",
    [
        {"kty": "oct", "k": b64(SECRET)},
        json.loads(jwt.algorithms.ECAlgorithm.to_jwk(EC)),
        json.loads(jwt.algorithms.ECAlgorithm.to_jwk(ec.generate_private_key(ec.SECP384R1()).public_key())),
        public_jwk("RS256", alg="HS256"),
        public_jwk("RS256", alg="none"),
        public_jwk("RS256", alg="RS512"),
        public_jwk("ES256", use="enc"),
        {"kty": "RSA"},
        "x",
    ],
    ids=["a secret", "without alg", "P-384", "HS256", "none", "RS512", "for encryption", "no key", "no object"],
)
def test_a_key_set_with_anything_but_good_public_keys_stops_the_start(tmp_path: Path, entry: Any) -> None:
    with pytest.raises(ValueError, match="GATEWAY_JWKS_FILE"):
        jwks_authenticator(tmp_path, entry)


def test_a_private_key_in_the_public_file_is_named_as_such(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="only public keys"):
        jwks_authenticator(tmp_path, json.loads(jwt.algorithms.ECAlgorithm.to_jwk(EC)))


def test_keys_for_encryption_stand_in_the_same_file(tmp_path: Path) -> None:
    who = jwks_authenticator(tmp_path, public_jwk("ES256"), public_jwk("RS256", use="enc", alg="RSA-OAEP"))
    assert who.caller_of(token(EC, "ES256")).user_id == "ann"


def test_a_kid_that_comes_twice_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="GATEWAY_JWKS_FILE"):
        jwks_authenticator(tmp_path, public_jwk("ES256"), public_jwk("RS256", kid="es256"))


def test_a_way_without_its_keys_stops_the_start(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="GATEWAY_API_KEYS_FILE"):
        Authenticator.from_settings(Settings(auth="api-key"))
    with pytest.raises(ValueError, match="GATEWAY_JWKS_FILE"):
        Authenticator.from_settings(Settings(auth="jwt"))


def test_with_both_kinds_of_auth_an_api_key_and_a_jwt_are_accepted(tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(SECRET)
    file = keys_file(tmp_path, f"back {digest('k1')} *\n")
    settings = Settings(auth="api-key,jwt", api_keys_file=str(file), jwt_secret_file=str(tmp_path / "secret"))
    who = Authenticator.from_settings(settings, clock=lambda: NOW)
    assert (who.caller_of("k1").kind, who.caller_of(token()).kind) == ("api-key", "jwt")
    assert refused(who, "k2")


def test_the_clock_of_tokens_does_not_follow_a_wall_clock_that_jumps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jump = [0.0]
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + jump[0])
    (tmp_path / "secret").write_bytes(SECRET)
    who = Authenticator.from_settings(Settings(auth="jwt", jwt_secret_file=str(tmp_path / "secret")))
    fresh, old = token(exp=time.time() + 60), token(exp=time.time() - 60)
    for jump[0] in (3600.0, -3600.0):
        assert who.caller_of(fresh).user_id == "ann"
        assert refused(who, old)


async def test_two_authorization_headers_are_none(serve: Serve, tmp_path: Path) -> None:
    client = await serve(auth="api-key", api_keys_file=str(keys_file(tmp_path, f"back {digest('k1')} *\n")))
    for first, second in (("k1", "k2"), ("k2", "k1"), ("k1", "k1")):
        headers = CIMultiDict([("Authorization", f"Bearer {first}"), ("Authorization", f"Bearer {second}")])
        assert (await client.post("/chat", json={}, headers=headers)).status == 401


async def test_a_token_comes_by_header_else_cookie_else_query(serve: Serve, tmp_path: Path) -> None:
    file = keys_file(tmp_path, f"back {digest('k1')} *\n")
    client = await serve(auth="api-key", api_keys_file=str(file))
    body = {"userId": "u", "message": "m", "botId": "b"}

    async def status(query: str = "", **headers: str) -> int:
        return (await client.post(f"/chat{query}", json=body, headers=headers)).status

    assert await status() == 401
    assert await status(Authorization="Bearer k1") == 200
    assert await status(Authorization="bearer  k1") == 200
    assert await status(Cookie="gateway_token=k1") == 200
    assert await status("?access_token=k1") == 200
    assert await status(Authorization="Basic eDp5", Cookie="gateway_token=k1") == 200
    # The first that is there decides: a wrong one is not made good by the next.
    assert await status("?access_token=k1", Authorization="Bearer k2") == 401
    assert await status("?access_token=k1", Cookie="gateway_token=k2") == 401
    assert await status(Authorization="Bearer") == 401
    assert await status(Cookie='gateway_token="\\303'[:300]) == 401


async def test_a_refusal_names_the_scheme_and_nothing_else(serve: Serve, tmp_path: Path) -> None:
    file = keys_file(tmp_path, f"back {digest('k1')} *\n")
    client = await serve(auth="api-key", api_keys_file=str(file))
    missing = await client.post("/chat", json={})
    wrong = await client.post("/chat", json={}, headers={"Authorization": "Bearer nope"})
    assert missing.headers["WWW-Authenticate"].startswith("Bearer")
    one, other = await missing.json(), await wrong.json()
    one.pop("requestId")
    other.pop("requestId")
    assert one == other
    assert one["code"] == "unauthorized"


async def test_without_auth_a_token_changes_nothing(serve: Serve) -> None:
    client = await serve()
    body = {"userId": "u", "message": "m", "botId": "b"}
    assert (await client.post("/chat", json=body, headers={"Authorization": "Bearer junk"})).status == 200


# -- why a token was refused, for the log ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claims", "reason"),
    [
        ({"exp": NOW - 1}, "expired"),
        ({"exp": NOW}, "expired"),
        ({"nbf": NOW + 60}, "not yet valid"),
        ({"aud": "another"}, "audience"),
        ({"aud": None}, "audience"),
        ({"iss": "another"}, "issuer"),
        ({"iss": None}, "issuer"),
        ({"sub": ""}, "claim sub"),
        ({"sub": None}, "claim sub"),
        ({"sub": 7}, "claim sub"),
        ({"exp": None}, "claim exp"),
        ({"exp": "soon"}, "claim exp"),
        ({"shop": 1}, "claim shop"),
        ({"nbf": "soon"}, "claims"),
    ],
)
def test_a_claim_that_is_refused_is_told_apart(tmp_path: Path, claims: dict[str, Any], reason: str) -> None:
    who = secret_authenticator(tmp_path, jwt_audience="gateway", jwt_issuer="login")
    good: dict[str, Any] = {"aud": "gateway", "iss": "login"}
    assert who.caller_of(token(**good)).user_id
    with pytest.raises(UnauthorizedError) as caught:
        who.caller_of(token(**(good | claims)))
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (token(b"another secret that is long enough, too"), "signature"),
        ("not a token", "malformed"),
        ("a.b.c", "malformed"),
        (token(SECRET * 2, "HS512"), "algorithm"),
    ],
)
def test_a_token_that_is_not_ours_says_why(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(UnauthorizedError) as caught:
        secret_authenticator(tmp_path).caller_of(text)
    assert caught.value.reason == reason


def test_a_key_where_a_jwt_is_wanted_is_told_from_a_broken_jwt(tmp_path: Path) -> None:
    key, _ = make_key("backend")
    with pytest.raises(UnauthorizedError, match=r"^a key, not a JWT$"):
        secret_authenticator(tmp_path).caller_of(key)
    keys = keys_file(tmp_path, f"name {digest('right')} *\n")
    both = secret_authenticator(tmp_path, auth="api-key,jwt", api_keys_file=keys)
    for wrong in (key, "wrong"):
        with pytest.raises(UnauthorizedError, match=r"^unknown key$"):
            both.caller_of(wrong)
    with pytest.raises(UnauthorizedError, match=r"^malformed$"):
        both.caller_of("a.b.c")


def test_a_key_that_nobody_knows_and_no_token_at_all_are_told_apart(tmp_path: Path) -> None:
    file = keys_file(tmp_path, f"name {digest('right')} *\n")
    who = Authenticator.from_settings(Settings(auth="api-key", api_keys_file=file))
    with pytest.raises(UnauthorizedError, match=r"^unknown key$"):
        who.caller_of("wrong")
    with pytest.raises(UnauthorizedError, match=r"^no token$"):
        who.authenticate(make_mocked_request("GET", "/"))
    with pytest.raises(UnauthorizedError, match=r"^unknown key$"):
        jwks_authenticator(tmp_path, *map(public_jwk, KEYS)).caller_of(token(EC, "ES256", {"kid": "other"}))


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\n\n"])
def test_a_line_break_at_the_end_of_a_secret_file_is_not_of_the_secret(tmp_path: Path, end: bytes) -> None:
    (tmp_path / "secret").write_bytes(SECRET + end)
    settings = Settings(auth="jwt", jwt_secret_file=tmp_path / "secret")
    assert Authenticator.from_settings(settings, clock=lambda: NOW).caller_of(token()).kind == "jwt"
