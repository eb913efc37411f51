"""Real Redis servers of the test's own: in a temporary folder, on free ports, with Sentinels where a test asks."""

import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path


class RedisServer:
    """One server, or one Sentinel with `sentinel`."""

    def __init__(self, program: str, folder: Path, *, sentinel: str = "", **settings: str) -> None:
        self._program = program
        self._folder = folder
        self._sentinel = sentinel
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        lines = ["bind 127.0.0.1", f"port {self.port}", f"dir {folder}", "save ''", "appendonly no", sentinel]
        self._config = folder / f"{self.port}.conf"
        self._config.write_text("\n".join([*lines, *(f"{name} {value}" for name, value in settings.items())]) + "\n")
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Starts it, or starts it again, and waits until it answers."""
        with (self._folder / f"{self.port}.log").open("ab") as log:
            command = [self._program, str(self._config), *(["--sentinel"] if self._sentinel else [])]
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        for _ in range(400):
            if self.answers("PING"):
                return
            time.sleep(0.025)  # between two looks
        raise AssertionError((self._folder / f"{self.port}.log").read_text()[-2000:])

    def say(self, *command: str) -> str:
        """Has it execute a command; the first line of the answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=5) as line:
            parts = [word.encode() for word in command]
            line.sendall(b"*%d\r\n" % len(parts) + b"".join(b"$%d\r\n%s\r\n" % (len(part), part) for part in parts))
            with line.makefile("rb") as answer:
                return answer.readline().decode().rstrip()

    def answers(self, *command: str) -> str:
        """Like `say`, but empty where no answer comes: the server is not up yet, or it closes its clients'
        connections, as a replica does when it becomes the master."""
        try:
            return self.say(*command)
        except OSError:
            return ""

    def send(self, number: signal.Signals) -> None:
        """Sends it a signal, for a pause."""
        if self._process is not None:
            os.kill(self._process.pid, number)

    def stop(self) -> None:
        """Ends it at once, paused or not."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(20)
            self._process = None

    def __repr__(self) -> str:
        return f"RedisServer({self.port})"


@contextmanager
def redis_server(program: str, **settings: str) -> Iterator[RedisServer]:
    """A server for as long as it is needed."""
    folder = Path(tempfile.mkdtemp(prefix="gateway-redis-"))
    server = RedisServer(program, folder, **settings)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


class Watched:
    """A master, its replica, and three Sentinels that fail it over within a second or two."""

    def __init__(self, program: str, folder: Path) -> None:
        self.master = RedisServer(program, folder)
        self.master.start()
        self.replica = RedisServer(program, folder, replicaof=f"127.0.0.1 {self.master.port}")
        self.replica.start()
        told = f"sentinel monitor news 127.0.0.1 {self.master.port} 2"
        rest = "sentinel down-after-milliseconds news 700\nsentinel failover-timeout news 3000"
        self.sentinels = [RedisServer(program, folder, sentinel=f"{told}\n{rest}") for _ in range(3)]
        for sentinel in self.sentinels:
            sentinel.start()

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(f'127.0.0.1:{one.port}' for one in self.sentinels)}/news/0"

    def stop(self) -> None:
        for one in (*self.sentinels, self.replica, self.master):
            one.stop()


@contextmanager
def watched_redis(program: str) -> Iterator[Watched]:
    folder = Path(tempfile.mkdtemp(prefix="gateway-redis-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        found = Watched(program, folder)
        stack.callback(found.stop)
        yield found
