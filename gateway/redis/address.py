"""How Redis is reached: the URL of a server or of its Sentinels, with the deadlines that a gateway needs."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any, Final, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.asyncio import Redis, Sentinel
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

CONNECT_SECONDS: Final = 1.0
"""Each server, and each Sentinel that is asked for one, has so long to take a connection."""

REPLY_SECONDS: Final = 1.0
"""After so long without a reply a connection is given up."""

_SENTINEL: Final = "+sentinel"
_SENTINEL_PORT: Final = 26379
_OPTIONS: Final = {
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_cert_reqs",
    "ssl_certfile",
    "ssl_check_hostname",
    "ssl_ciphers",
    "ssl_keyfile",
    "ssl_password",
}
_SENTINELS_OWN: Final = {"sentinel_username": "username", "sentinel_password": "password"}


class Address(NamedTuple):
    """Where Redis is. With a `service`, `hosts` are the Sentinels that know its master."""

    hosts: tuple[tuple[str, int], ...]
    service: str
    options: dict[str, Any]
    sentinels_options: dict[str, Any]
    tls: bool


def parse(url: str) -> Address:
    """Raises `ValueError` for a URL that can't be used; it says why, and shows no part of the URL."""
    scheme, _, rest = url.partition("://")
    place, _, query = rest.partition("?")
    place, _, path = place.partition("/")
    user, _, hosts = place.rpartition("@")
    asked = dict(parse_qsl(query, keep_blank_values=True))
    if asked.keys() - _OPTIONS - _SENTINELS_OWN.keys():
        raise ValueError(f"a redis:// URL has no parameters but {', '.join(sorted(_OPTIONS | _SENTINELS_OWN.keys()))}")
    name, _, password = user.partition(":")
    options: dict[str, Any] = {key: value for key, value in asked.items() if key in _OPTIONS}
    if "ssl_check_hostname" in options:
        options["ssl_check_hostname"] = options["ssl_check_hostname"].lower() not in ("false", "0", "no")
    sentinels = options | {ours: asked[its] for its, ours in _SENTINELS_OWN.items() if its in asked}
    options |= {key: unquote(value) for key, value in (("username", name), ("password", password)) if value}
    service = ""
    if scheme.endswith(_SENTINEL):
        service, _, path = path.partition("/")
        if not service:
            raise ValueError("a redis+sentinel:// URL names a service, as in redis+sentinel://HOST:26379/mymaster")
    elif "," in hosts or asked.keys() & _SENTINELS_OWN.keys():
        raise ValueError("several hosts, and parameters of Sentinels, need redis+sentinel://")
    if path and not path.isdecimal():
        raise ValueError("the number of a database is a whole number, as in redis://HOST:6379/0")
    if scheme.startswith("redis") and not scheme.startswith("rediss") and any(one.startswith("ssl_") for one in asked):
        raise ValueError("parameters of TLS need rediss://")
    options["db"] = int(path or 0)
    port = _SENTINEL_PORT if service else 6379
    places = tuple(_host(host, port) for host in hosts.split(","))
    address = Address(places, unquote(service), options, sentinels, scheme.startswith("rediss"))
    _try(address)
    return address


def _host(text: str, port: int) -> tuple[str, int]:
    try:
        found = urlsplit(f"//{text}")
        host, port = found.hostname or "", found.port or port
    except ValueError:
        host = ""
    if not host or "[" in host:
        raise ValueError("each host of a redis:// URL is written HOST or HOST:PORT")
    return unquote(host), port


def _try(address: Address) -> None:
    """Has redis-py look at the parameters, without connecting."""
    try:
        if address.tls:
            SSLConnection(**{key: value for key, value in address.options.items() if key != "db"})
    except Exception as error:
        raise ValueError("a parameter of TLS in the redis:// URL is not understood") from error


@asynccontextmanager
async def reached(address: Address) -> AsyncIterator[Redis]:
    """A client that connects when it is used, never tries anything again by itself, and asks the Sentinels anew."""
    ours: dict[str, Any] = {
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": REPLY_SECONDS,
        "retry": Retry(NoBackoff(), 0),
        "protocol": 2,
    }
    tls = {"ssl": True} if address.tls else {}
    named = ours | tls | address.options | {"client_name": "coze-gateway"}
    async with AsyncExitStack() as stack:
        if address.service:
            sentinels = Sentinel(list(address.hosts), sentinel_kwargs=ours | tls | address.sentinels_options)
            stack.push_async_callback(sentinels.aclose)
            client = sentinels.master_for(address.service, **named)
        else:
            ((host, port),) = address.hosts
            client = Redis(host=host, port=port, **named)
        stack.push_async_callback(client.aclose)
        yield client
