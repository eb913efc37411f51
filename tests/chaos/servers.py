"""The servers of a chaos run over nodes: PostgreSQL, with a standby if it is to fail over, and Redis in some runs."""

import asyncio
import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import psycopg

from gateway.waiting import PATIENCE
from tests.chaos.plan import Strike
from tests.databases import PostgresServer, postgres_server
from tests.redis_servers import RedisServer, redis_server
from tests.waiting import until

SILENCE = PATIENCE + 2.0
"""Seconds after which every node has been fenced."""


class Programs(NamedTuple):
    """`postgres` is the folder of PostgreSQL's programs; `redis` is a path."""

    postgres: Path
    redis: str


class Servers:
    """`primary` is the server that the nodes write to now. `redis` is None where news goes through PostgreSQL."""

    def __init__(self, primary: PostgresServer, redis: RedisServer | None) -> None:
        self.primary = primary
        self.redis = redis
        self._standby: PostgresServer | None = None
        self._failing = asyncio.Lock()
        """Held while something befalls the database, since the next blow may come before this one is over."""
        self._name = ""

    async def make(self, *, fails_over: bool) -> None:
        """Makes the database, and a standby that has all that is acknowledged."""
        self._name = (await self.primary.make()).partition("?")[0].rpartition("/")[2]
        if fails_over:
            folder = Path(self.primary.socket).parent / "standby"
            self._standby = await asyncio.to_thread(self.primary.standby, folder)
            async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
                await connection.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
                await connection.execute("SELECT pg_reload_conf()")

                async def is_synchronous() -> bool:
                    rows = await connection.execute("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'")
                    return bool(await rows.fetchall())

                await until(is_synchronous)

    @property
    def url(self) -> str:
        folder = quote(self.primary.socket.rpartition("/")[0], safe="")
        return f"postgresql://gateway@/{self._name}?host={folder}"

    def url_by(self, line: str) -> str:
        """The database's URL over a node's own line."""
        return f"postgresql://gateway@{line}/{self._name}"

    async def befall(self, strike: Strike) -> bool:
        """Does this to PostgreSQL. Returns whether its place was taken by another server."""
        async with self._failing:
            if strike.blow in ("pause database", "silence database"):
                self.primary.send(signal.SIGSTOP)
                await asyncio.sleep(SILENCE if strike.blow == "silence database" else strike.lasts * 5)
                self.primary.send(signal.SIGCONT)
            elif strike.blow == "fail over" and self._standby is not None:
                await asyncio.to_thread(self.primary.crash)
                self.primary, self._standby = self._standby, None
                async with await psycopg.AsyncConnection.connect(self.url, autocommit=True) as connection:
                    await connection.execute("SELECT pg_promote()")
                return True
            else:
                how = [signal.SIGINT] if strike.blow == "stop database" else [signal.SIGQUIT]
                await asyncio.to_thread(self.primary.stop, *how)
                await asyncio.sleep(strike.lasts)
                await asyncio.to_thread(self.primary.start)
            return False

    async def befall_redis(self, strike: Strike) -> None:
        if self.redis is None:
            return
        async with self._failing:
            if strike.blow == "pause redis":
                self.redis.send(signal.SIGSTOP)
                await asyncio.sleep(strike.lasts * 5)
                self.redis.send(signal.SIGCONT)
            else:
                await asyncio.to_thread(self.redis.stop)
                await asyncio.sleep(strike.lasts)
                await asyncio.to_thread(self.redis.start)

    def stop(self) -> None:
        for server in (self.primary, self._standby):
            if server is not None:
                server.stop()


@contextlib.contextmanager
def servers_of(programs: Programs, *, with_redis: bool) -> Iterator[Servers]:
    with contextlib.ExitStack() as stack:
        redis = stack.enter_context(redis_server(programs.redis)) if with_redis else None
        servers = Servers(stack.enter_context(postgres_server(programs.postgres)), redis)
        stack.callback(servers.stop)
        yield servers
