"""How a URL of Redis is understood, and what is said of one that is not."""

import pytest

from gateway.config.loading import ConfigError, load
from gateway.redis.address import parse


@pytest.mark.parametrize(
    ("url", "hosts", "service", "options"),
    [
        ("redis://h", (("h", 6379),), "", {"db": 0}),
        ("redis://u:p%40%2F@h:1/3", (("h", 1),), "", {"db": 3, "username": "u", "password": "p@/"}),
        ("redis://:p@[::1]:7", (("::1", 7),), "", {"db": 0, "password": "p"}),
        ("rediss://h?ssl_cert_reqs=none", (("h", 6379),), "", {"db": 0, "ssl_cert_reqs": "none"}),
        ("redis+sentinel://:p@a,b:1/main/2", (("a", 26379), ("b", 1)), "main", {"db": 2, "password": "p"}),
    ],
)
def test_a_url_names_servers_or_sentinels(
    url: str, hosts: tuple[tuple[str, int], ...], service: str, options: dict[str, object]
) -> None:
    address = parse(url)
    assert (address.hosts, address.service, address.options) == (hosts, service, options)
    assert address.tls == url.startswith("rediss")


def test_the_sentinels_have_a_user_of_their_own() -> None:
    address = parse("redis+sentinel://u:p@a/main?sentinel_username=v&sentinel_password=q")
    assert address.sentinels_options == {"username": "v", "password": "q"}


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("redis://", "each host"),
        ("redis://h:x", "each host"),
        ("redis://h:99999", "each host"),
        ("redis://a,b", "several hosts"),
        ("redis://h/abc", "whole number"),
        ("redis://h?socket_timeout=3", "no parameters but"),
        ("redis://h?ssl_ca_certs=/x", "need rediss://"),
        ("rediss://h?ssl_cert_reqs=some", "TLS"),
        ("redis+sentinel://a", "names a service"),
    ],
)
def test_a_url_that_can_not_be_used_is_a_mistake_that_says_why(
    monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    monkeypatch.setenv("GATEWAY_DATABASE_URL", "postgresql://h/d")
    monkeypatch.setenv("GATEWAY_BUS_URL", url)
    with pytest.raises(ConfigError, match=said):
        load()


def test_without_postgresql_there_are_no_nodes_to_carry_news_between(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GATEWAY_BUS_URL", "redis://h")
    with pytest.raises(ConfigError, match="set GATEWAY_DATABASE_URL"):
        load()
