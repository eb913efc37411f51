"""Binding: listening sockets for the hosts that the settings name, and their end."""

import asyncio
import errno
import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress

import structlog

logger = structlog.get_logger()

_READ = 32 * 1024  # bytes that the kernel buffers (it doubles this): a larger read would make other connections wait
_TRIES = 20
_ALL = ("0.0.0.0", "::")
_NO_SUCH_FAMILY = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL})


async def bind(hosts: Sequence[str], port: int, send_timeout: float) -> list[socket.socket]:
    """Sockets for every address of `hosts`, all on the same port even if `port` is 0. Raises OSError with a sentence.

    `*` means all of IPv4 and IPv6, or whichever of the two this machine has.
    """
    for left in reversed(range(_TRIES)):
        try:
            return await _bind_all(hosts, port, send_timeout)
        except OSError as error:
            taken = error.errno == errno.EADDRINUSE and port == 0  # the port was free at the first address only
            if taken and left:
                continue
            why = error.strerror or str(error)
            where = f"{','.join(hosts)}:{port}"
            raise OSError(f"can't listen on {where}: {why} (GATEWAY_HOST, GATEWAY_PORT, --host, --port)") from error
    raise AssertionError("the last try returns or raises")


async def _bind_all(hosts: Sequence[str], port: int, send_timeout: float) -> list[socket.socket]:
    loop = asyncio.get_running_loop()
    sockets: list[socket.socket] = []
    try:
        for host in hosts:
            names = _ALL if host == "*" else (host,)
            bound = 0
            for name in names:
                try:
                    found = await loop.getaddrinfo(name, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
                    for family, _, _, _, address in dict.fromkeys(found):
                        same = [sock for sock in sockets if sock.family == family]
                        if any(sock.getsockname()[0] in (address[0], *_ALL) for sock in same):
                            continue  # named twice, or covered by an address that is bound already
                        for sock in same if address[0] in _ALL else ():
                            sockets.remove(sock)  # the new address covers this one
                            sock.close()
                        sockets.append(_socket(family, (address[0], port, *address[2:]), send_timeout))
                        port = port or sockets[0].getsockname()[1]
                except OSError as error:
                    if host != "*" or error.errno not in _NO_SUCH_FAMILY or (name == names[-1] and not bound):
                        raise
                    logger.warning("gateway.half_listening", without="IPv6" if ":" in name else "IPv4")
                else:
                    bound += 1
    except BaseException:
        for sock in sockets:
            sock.close()
        raise
    return sockets


def _socket(family: int, address: tuple[object, ...], send_timeout: float) -> socket.socket:
    """A bound socket. Accepted connections inherit the options that are set here.

    The kernel ends a connection when its peer has acknowledged nothing for the send time-out (Linux's
    `TCP_USER_TIMEOUT`).
    """
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _READ)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, max(1, int(send_timeout * 1000)))
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(address)
    except BaseException:
        sock.close()
        raise
    return sock


def waiting(sockets: Iterable[socket.socket]) -> list[socket.socket]:
    """Accepts the connections that clients have made and nobody has accepted yet. Otherwise the kernel resets them when
    their listening socket is closed, and with them requests that must not be sent twice."""
    found = []
    for sock in sockets:
        with suppress(OSError):
            while True:
                connection, _ = sock.accept()
                connection.setblocking(False)
                found.append(connection)
    return found


def url_of(sock: socket.socket) -> str:
    host, port = sock.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
