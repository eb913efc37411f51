"""Clients as bare sockets, which break off in every possible way; and a cable that can be pulled."""

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import pytest

LINGER_NONE = struct.pack("ii", 1, 0)


def address(url: str) -> tuple[str, int]:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return parts.hostname, parts.port or 80


def connected(url: str, *, receive_buffer: int = 0) -> socket.socket:
    """A connection; with a small receive buffer its peer soon notices that nothing is read."""
    sock = socket.socket()
    if receive_buffer:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    sock.settimeout(10)
    sock.connect(address(url))
    return sock


def get(path: str, *, websocket: bool = False) -> bytes:
    """A request's head."""
    upgrade = (
        "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
    )
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{upgrade if websocket else ''}\r\n".encode()


def read_head(sock: socket.socket) -> bytes:
    head = b""
    while b"\r\n\r\n" not in head:
        data = sock.recv(1)
        assert data, head
        head += data
    return head


def reset(sock: socket.socket) -> None:
    """Ends the connection with RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
    sock.close()


LISTENER = """
import socket, sys
sock = socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=10)
sock.sendall(sys.argv[3].encode().decode("unicode_escape").encode())
head = b""
while b"\\r\\n\\r\\n" not in head:
    head += sock.recv(4096)
print(head.split()[1].decode(), flush=True)
sys.stdin.read()
"""


class Cable:
    """A network of two sides, until it is pulled: `address` is on this side, and programs can be run on the other."""

    address = "10.213.77.1"
    _far = "10.213.77.2"

    def __init__(self) -> None:
        self._name = f"gw{os.getpid()}"
        self._link = f"gw{os.getpid() % 100000}a"
        self._programs: list[subprocess.Popen[str]] = []

    def lay(self) -> None:
        far = f"{self._link}b"
        _ip("netns", "add", self._name)
        _ip("link", "add", self._link, "type", "veth", "peer", "name", far, "netns", self._name)
        _ip("addr", "add", f"{self.address}/30", "dev", self._link)
        _ip("link", "set", self._link, "up")
        _ip("-n", self._name, "addr", "add", f"{self._far}/30", "dev", far)
        _ip("-n", self._name, "link", "set", far, "up")

    def listen(self, url: str, request: bytes) -> str:
        """Sends a request from the far side and keeps its connection; the answer's status."""
        host, port = address(url)
        shown = request.decode().encode("unicode_escape").decode()
        command = ["ip", "netns", "exec", self._name, sys.executable, "-c", LISTENER, host, str(port), shown]
        program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._programs.append(program)
        assert program.stdout is not None
        return program.stdout.readline().strip()

    def pull(self) -> None:
        """Nothing passes any more, in either direction, and nobody is told."""
        _ip("-n", self._name, "link", "set", f"{self._link}b", "down")

    def remove(self) -> None:
        for program in self._programs:
            program.kill()
            program.communicate()
        subprocess.run(["ip", "netns", "del", self._name], check=False, capture_output=True)
        subprocess.run(["ip", "link", "del", self._link], check=False, capture_output=True)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


@contextmanager
def cable() -> Iterator[Cable]:
    """Without the right to make one, the test is skipped and listed."""
    laid = Cable()
    try:
        try:
            laid.lay()
        except (OSError, subprocess.CalledProcessError) as error:
            pytest.skip(f"a network of one's own needs root and iproute2: {error}")
        yield laid
    finally:
        laid.remove()
