"""Where the gateway listens: several hosts, both families, and the rules that hang on them."""

import errno
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from adapters import binding
from adapters.binding import bind, url_of
from gateway.config.loading import ConfigError, load
from gateway.config.settings import Settings
from tests.processes import GatewayProcess

Start = Callable[..., Awaitable[GatewayProcess]]


async def answers(url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{url}/healthz") as response:
        return response.status


async def test_a_list_of_hosts_listens_on_each_of_them_on_one_port(start_gateway: Start) -> None:
    gateway = await start_gateway(GATEWAY_HOST="127.0.0.1, [::1],localhost")
    line = await gateway.logged("gateway.ready")
    port = line["url"].rpartition(":")[2]
    assert sorted(line["urls"]) == [f"http://127.0.0.1:{port}", f"http://[::1]:{port}"]
    assert [await answers(url) for url in line["urls"]] == [200, 200]
    assert await answers(f"http://localhost:{port}") == 200


@pytest.mark.parametrize("hosts", ["*", "::,0.0.0.0", "0.0.0.0,::"])
async def test_a_star_listens_on_all_addresses_of_both_families(start_gateway: Start, hosts: str) -> None:
    gateway = await start_gateway(GATEWAY_HOST=hosts, GATEWAY_ALLOW_ANONYMOUS="true")
    line = await gateway.logged("gateway.ready")
    port = line["url"].rpartition(":")[2]
    assert sorted(line["urls"]) == [f"http://0.0.0.0:{port}", f"http://[::]:{port}"]
    for host in ("127.0.0.1", "[::1]"):
        assert await answers(f"http://{host}:{port}") == 200


@pytest.mark.parametrize("hosts", ["127.0.0.1,0.0.0.0", "*,127.0.0.1,::1", "::1,127.0.0.1,*", "::1,::,0,127.0.0.2"])
async def test_an_address_that_all_of_its_family_holds_already_is_no_second_listener(hosts: str) -> None:
    sockets = await bind(hosts.split(","), 0, 60)
    try:
        urls = [url_of(sock).rpartition(":")[0] for sock in sockets]
        assert sorted(urls) == (
            ["http://0.0.0.0"] if ":" not in hosts and "*" not in hosts else ["http://0.0.0.0", "http://[::]"]
        )
        assert len({sock.getsockname()[1] for sock in sockets}) == 1
        for sock in sockets:
            sock.listen()
    finally:
        for sock in sockets:
            sock.close()


async def test_one_host_is_one_url(start_gateway: Start) -> None:
    line = await (await start_gateway()).logged("gateway.ready")
    assert "urls" not in line


@pytest.mark.parametrize(("hosts", "loopback"), [("127.0.0.1,::1", True), ("127.0.0.1,0.0.0.0", False), ("*", False)])
def test_one_host_beyond_this_machine_asks_for_auth(hosts: str, loopback: bool) -> None:
    assert Settings(host=hosts, allow_anonymous=True).on_loopback is loopback
    if loopback:
        assert load({"host": hosts}).settings.hosts == tuple(hosts.split(","))
    else:
        with pytest.raises(ConfigError, match="GATEWAY_ALLOW_ANONYMOUS"):
            load({"host": hosts})


@pytest.mark.parametrize("hosts", ["", ",", "127.0.0.1,", "a b", "127.0.0.1;::1", "**"])
def test_a_wrong_host_in_the_list_is_a_mistake(hosts: str) -> None:
    with pytest.raises(ConfigError, match="--host="):
        load({"host": hosts})


def test_toml_may_have_a_list(tmp_path: Any) -> None:
    (tmp_path / "f.toml").write_text('host = ["127.0.0.1", "[::1]"]')
    assert load(file=str(tmp_path / "f.toml")).settings.hosts == ("127.0.0.1", "::1")


async def test_a_star_listens_on_the_one_family_that_the_machine_has(monkeypatch: pytest.MonkeyPatch) -> None:
    real = binding._socket

    def without_ipv6(family: int, address: tuple[object, ...], send_timeout: float) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return real(family, address, send_timeout)

    monkeypatch.setattr(binding, "_socket", without_ipv6)
    with capture_logs() as lines:
        (sock,) = await bind(["*"], 0, 60)
    with sock:
        assert url_of(sock).startswith("http://0.0.0.0:")
    assert lines[0]["event"] == "gateway.half_listening"
    assert lines[0]["without"] == "IPv6"
    with pytest.raises(OSError, match="can't listen on ::"):
        await bind(["::"], 0, 60)


async def test_a_port_that_is_taken_on_the_second_address_is_another_one_where_any_would_do() -> None:
    sockets = await bind(["127.0.0.1"], 0, 60)
    with sockets[0] as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"can't listen on ::1,127.0.0.1:{port}: .*in use"):
            await bind(["::1", "127.0.0.1"], port, 60)
    pair = await bind(["127.0.0.1", "::1"], 0, 60)
    assert len({sock.getsockname()[1] for sock in pair}) == 1
    for sock in pair:
        sock.close()
