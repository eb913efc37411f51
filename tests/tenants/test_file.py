"""The tenants file as operators write it: what it may say, and what is said of its mistakes."""

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.config.tenants import Tenant, TenantsError, read_tenants


def pem() -> bytes:
    return generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def read(folder: Path, text: str) -> dict[str, Tenant]:
    (folder / "tenants.toml").write_text(text, encoding="utf-8")
    return read_tenants(folder / "tenants.toml")


def mistakes(folder: Path, text: str) -> list[str]:
    with pytest.raises(TenantsError) as caught:
        read(folder, text)
    return caught.value.mistakes


def test_a_shop_has_a_token_or_a_jwt_app_and_perhaps_an_address_bots_and_a_limit(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys" / "b.pem").write_bytes(pem())
    found = read(
        tmp_path,
        """
        [shop-1]
        coze_api_token = "pat_1"
        bots = ["7566252531572473891"]
        turns_per_minute = 3
        ["shop.2 的店"]
        coze_jwt_app_id = "app"
        coze_jwt_key_id = "kid"
        coze_jwt_private_key_file = "keys/b.pem"
        coze_jwt_sessions = "user"
        coze_api_base = "https://api.coze.com/"
        """,
    )
    one, two = found.values()
    assert list(found) == ["shop-1", "shop.2 的店"]
    assert one.token is not None
    assert (one.token.get_secret_value(), one.base, one.turns_per_minute) == ("pat_1", None, 3)
    assert one.bots == frozenset({"7566252531572473891"})
    assert (two.bots, two.base, two.jwt_sessions, two.key.key_size) == (None, "https://api.coze.com", "user", 2048)


def test_another_token_address_or_key_is_another_way_to_ask_and_other_bots_are_not(tmp_path: Path) -> None:
    app = '[a]\ncoze_jwt_app_id = "app"\ncoze_jwt_key_id = "kid"\ncoze_jwt_private_key_file = "a.pem"\n'
    (tmp_path / "a.pem").write_bytes(pem())
    first = read(tmp_path, app)["a"]
    assert read(tmp_path, f'{app}bots = ["1"]\nturns_per_minute = 9')["a"].way == first.way
    assert read(tmp_path, f'{app}coze_api_base = "https://api.coze.com"')["a"].way != first.way
    (tmp_path / "a.pem").write_bytes(pem())
    assert read(tmp_path, app)["a"].way != first.way


APP = '[a]\ncoze_jwt_app_id = "y"\ncoze_jwt_key_id = "z"\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "there is no shop in it: each shop is a table, as in [shop-1]"),
        ("[a", "it is not TOML: Expected ']' at the end of a table declaration (at end of document)"),
        ('coze_api_token = "x"', "coze_api_token is outside of a table: each shop is a table, as in [shop-1]"),
        ("[a]", "[a]: it needs coze_api_token, or a JWT app: "),
        ('[a]\ncoze_api_token = ""', "[a] coze_api_token: allowed is only a Coze access token: "),
        ("[a]\ncoze_api_token = 7", "[a] coze_api_token: allowed is only a Coze access token: "),
        ('[a]\ncoze_api_tokn = "x"', "[a] coze_api_tokn: no such setting; the nearest is coze_api_token"),
        ('[a]\ntoken = "x"', "[a] token: no such setting; the nearest is "),
        ('[a.b]\ncoze_api_token = "x"', "[a] b: there are no tables within a shop; a shop whose id has a dot is"),
        ('[a]\ncoze_api_token = "x"\nbots = "7"', "[a] bots: allowed is a list of bot ids in quotes"),
        ('[a]\ncoze_api_token = "x"\nbots = [7566252531572473891]', "[a] bots: allowed is a list of bot ids in quotes"),
        ('[a]\ncoze_api_token = "x"\nturns_per_minute = true', "[a] turns_per_minute: allowed is a whole number"),
        ('[a]\ncoze_api_token = "x"\nturns_per_minute = 0', "[a] turns_per_minute: allowed is a whole number"),
        ('[a]\ncoze_api_token = "x"\ncoze_api_base = "ftp://x"', "[a] coze_api_base: allowed is http:// or https://"),
        ('[a]\ncoze_api_token = "x"\ncoze_jwt_app_id = "y"', "[a]: allowed is either coze_api_token or a JWT app"),
        ('[a]\ncoze_api_token = "x"\ncoze_jwt_sessions = "user"', "[a]: coze_jwt_sessions is allowed only with a JWT"),
        ('[a]\ncoze_jwt_app_id = "y"', "[a]: a JWT app also needs coze_jwt_key_id and coze_jwt_private_key_file"),
        (APP + 'coze_jwt_private_key_file = "no.pem"', "[a] coze_jwt_private_key_file: allowed is a file with an RSA"),
        (
            APP + 'coze_jwt_private_key_file = "tenants.toml"',
            "[a] coze_jwt_private_key_file: allowed is a file with an",
        ),
        (f'[{"a" * 129}]\ncoze_api_token = "x"', f"[{'a' * 64}]: allowed is a shop's id of 1 to 128 characters"),
    ],
)
def test_each_mistake_is_said_with_its_place_and_what_is_allowed(tmp_path: Path, text: str, said: str) -> None:
    (line,) = mistakes(tmp_path, text)
    assert line.startswith(said)


def test_all_mistakes_are_said_at_once_and_none_shows_a_value(tmp_path: Path) -> None:
    text = '[a]\ncoze_api_token = "se cret"\nbots = [1]\n[b]\nsecrt = "secret"\n[c]\ncoze_api_token = "secret"'
    text += "\n[d]\nbots = 5"
    said = mistakes(tmp_path, text)
    assert [line.split(":")[0] for line in said] == ["[a] coze_api_token", "[a] bots", "[b] secrt", "[d] bots", "[d]"]
    assert "secret" not in " ".join(said)
    assert "secret" not in repr(read(tmp_path, '[c]\ncoze_api_token = "secret"'))


def test_a_token_in_the_place_of_a_name_is_masked(tmp_path: Path) -> None:
    assert "pat_abc" not in " ".join(mistakes(tmp_path, '[a]\npat_abcdefgh = "coze_api_token"'))


def test_a_file_that_is_missing_or_no_text_is_said(tmp_path: Path) -> None:
    with pytest.raises(TenantsError, match="it cannot be read"):
        read_tenants(tmp_path / "missing.toml")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(TenantsError, match="it is not UTF-8"):
        read_tenants(tmp_path / "binary")
