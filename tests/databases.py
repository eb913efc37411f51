"""A real PostgreSQL server of the test run's own: a temporary folder, a free port, a database for each test."""

import asyncio
import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from urllib.parse import quote
from weakref import WeakKeyDictionary

from gateway.store.database import open_database

_CONFIG = """
max_connections = 200
listen_addresses = ''
shared_buffers = 32MB
wal_retrieve_retry_interval = 200ms
"""
_HASTY = """
fsync = off
full_page_writes = off
autovacuum = off
"""
_MEMORY = Path("/dev/shm")  # a copy of a database there takes a third of the time, and no busy disk holds it up
_ROOM = 2 * 1024**3  # bytes that must be free there
_PREFIX = "gateway-postgres-"
_OWNER = "owner"  # in the folder, locked by the process whose folder it is
_NOT_ROOT = "nobody"  # PostgreSQL refuses to run as root


_MIGRATING: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Lock] = WeakKeyDictionary()
"""Alembic migrates one database of a process at a time."""


class PostgresServer:
    """Listens on a socket in its own folder. `make` copies a migrated database, which takes some 30 ms."""

    def __init__(self, programs: Path, folder: Path) -> None:
        self.programs = programs
        self._folder = folder
        self._numbers = count(1)
        self._user = _NOT_ROOT if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        self._migrated = False
        self._made: list[str] = []
        self._over: list[str] = []

    def initialize(self, *, durable: bool = False) -> None:
        data = self._folder / "data"
        data.mkdir()
        if self._user is not None:
            for path in (self._folder, data):
                shutil.chown(path, self._user)
        self._run("initdb", "-D", str(data), "-A", "trust", "-U", "gateway", "--no-sync", "-E", "UTF8", "--locale=C")
        with (data / "postgresql.conf").open("a") as file:
            file.write(f"{_CONFIG}{'' if durable else _HASTY}unix_socket_directories = '{self._folder}'\n")

    def start(self) -> None:
        """Starts it, for the first time or again, and waits until it accepts connections."""
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.programs / "postgres", "-D", self._folder / "data"], user=self._user, stdout=log, stderr=log
            )
        self._run("pg_isready", "-q", "-h", str(self._folder), "-t", "0", until=20.0)

    def _run(self, program: str, *arguments: str, until: float = 0.0) -> None:
        command = [str(self.programs / program), *arguments]
        with tempfile.TemporaryFile() as said:
            for _ in range(max(1, round(until / 0.05))):
                if subprocess.run(command, check=False, user=self._user, stdout=said, stderr=said).returncode == 0:
                    return
                if until:
                    time.sleep(0.05)  # between two looks
            said.seek(0)
            raise AssertionError(f"{program} failed: {said.read().decode()[-2000:]}")

    def send(self, number: signal.Signals) -> None:
        """Sends a signal to the server and to all its processes, for a pause or a crash."""
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        for pid in (self._process.pid, *map(int, children)):
            with suppress(ProcessLookupError):  # a connection may end at any moment
                os.kill(pid, number)

    def cpu(self) -> float:
        """Seconds of processor time that the server and its processes have used, also those that have ended."""
        assert self._process is not None
        pid = self._process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        ticks = 0
        for number, fields in ((pid, slice(11, 15)), *((int(child), slice(11, 13)) for child in children)):
            with suppress(OSError):  # a connection may end at any moment
                said = Path(f"/proc/{number}/stat").read_text().rpartition(")")[2].split()
                ticks += sum(map(int, said[fields]))
        return ticks / os.sysconf("SC_CLK_TCK")

    def stop(self, number: signal.Signals = signal.SIGINT) -> None:
        """Ends it as a restart does: at once, even with open connections. SIGQUIT ends it as a crash does, and so does
        a busy machine on which it takes too long."""
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(20)
                self._process = None
            except subprocess.TimeoutExpired:
                self.crash()

    def standby(self, folder: Path) -> "PostgresServer":
        """Another server, in a folder of its own, that streams what this one writes; it runs."""
        folder.mkdir()
        if self._user is not None:
            shutil.chown(folder, self._user)
        source = f"host={self._folder} user=gateway application_name=standby"
        more = ("-X", "stream", "-c", "fast", "-R", "--no-sync")
        self._run("pg_basebackup", "-d", source, "-D", str(folder / "data"), *more)
        with (folder / "data" / "postgresql.conf").open("a") as file:
            file.write(f"unix_socket_directories = '{folder}'\n")
        standby = PostgresServer(self.programs, folder)
        standby.start()
        return standby

    def crash(self) -> None:
        """Ends it as a power cut does, for good."""
        self.send(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(20)
        self._process = None

    @property
    def socket(self) -> str:
        """The path of the socket on which it listens."""
        return f"{self._folder}/.s.PGSQL.5432"

    def url(self, name: str) -> str:
        return f"postgresql://gateway@/{name}?host={quote(str(self._folder), safe='')}"

    async def make(self, *, on: Path | None = None) -> str:
        """A database with the newest tables; its URL. `on` is a folder for its files, which the server may write to."""
        async with _MIGRATING.setdefault(asyncio.get_running_loop(), asyncio.Lock()):
            if not self._migrated:
                await asyncio.to_thread(self._create, "migrated", "template1")
                await (await open_database(self.url("migrated"))).dispose()
                self._migrated = True
        return await self._make("migrated", on)

    async def make_empty(self) -> str:
        """A database without tables; its URL."""
        return await self._make("template1")

    async def _make(self, template: str, on: Path | None = None) -> str:
        name = f"test_{next(self._numbers)}"
        await asyncio.to_thread(self._create, name, template, on)
        self._made.append(name)
        return self.url(name)

    @contextmanager
    def lending(self) -> Iterator["PostgresServer"]:
        """Databases that are made in its block are not needed afterwards, and are dropped when the next one is made."""
        earlier = len(self._made)
        yield self
        self._over += self._made[earlier:]
        del self._made[earlier:]

    def drop(self, url: str) -> None:
        """Drops a database that lies in a folder of its own, with its files."""
        import psycopg

        name = url.partition("?")[0].rpartition("/")[2]
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())
            connection.execute(f"DROP TABLESPACE of_{name}".encode())
        self._made.remove(name)

    def _create(self, name: str, template: str, on: Path | None = None) -> None:
        import psycopg

        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            while self._over:
                connection.execute(f"DROP DATABASE IF EXISTS {self._over[-1]} WITH (FORCE)".encode())
                self._over.pop()
            where = ""
            if on is not None:
                connection.execute(f"CREATE TABLESPACE of_{name} LOCATION '{on}'".encode())
                where = f" TABLESPACE of_{name}"
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}{where}".encode())

    def __repr__(self) -> str:
        return f"PostgresServer({self._folder})"


@contextmanager
def postgres_server(programs: Path, *, durable: bool = False) -> Iterator[PostgresServer]:
    """A running server. A durable one writes to a disk and waits for it, as the servers of users do."""
    roomy = not durable and _MEMORY.is_dir() and shutil.disk_usage(_MEMORY).free > _ROOM
    place = _MEMORY if roomy else Path(tempfile.gettempdir())
    remove_left(place)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    server = PostgresServer(programs, folder)
    try:
        with (folder / _OWNER).open("w") as owner:
            fcntl.flock(owner, fcntl.LOCK_EX)
            server.initialize(durable=durable)
            server.start()
            yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)


def remove_left(place: Path) -> None:
    """Removes the folders of killed test runs. A server that still runs in one ends by itself within a minute."""
    for path in place.glob(f"{_PREFIX}*/{_OWNER}"):
        with suppress(OSError), path.open() as owner:
            fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - path.stat().st_mtime > 60:  # one that is younger may not be locked yet
                shutil.rmtree(path.parent, ignore_errors=True)
