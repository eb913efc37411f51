"""The tenants file while the gateway runs: the table of shops follows it."""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

import structlog

from gateway.config.tenants import Tenant, TenantsError, read_tenants
from gateway.errors import Code, GatewayError
from gateway.telemetry import logs
from gateway.telemetry.faults import Faults
from gateway.upstream.tenants import Account, Shop, Tenants

logger = structlog.get_logger()

LOOK_EVERY: Final = 1.0
"""Seconds between two looks at the file."""

_Stamp = tuple[int, int, int] | None


class TenantsFile:
    """Reads the file at the start, when it has changed, and when it is asked to. A file that is wrong changes
    nothing."""

    def __init__(self, file: Path, own: Account | None, make: Callable[[Tenant], Account], faults: Faults) -> None:
        """Raises `GatewayError` if the file can't be used. `own` serves messages without a shop."""
        self._file = file
        self._make = make
        self._faults = faults
        self._read: _Stamp = _stamp(file)
        self._seen = self._read
        self._asked = asyncio.Event()
        self._known: dict[str, Tenant] = {}
        self.wrong = False
        """Whether the file was refused when it was last read."""
        try:
            found = read_tenants(file)
        except TenantsError as error:
            raise GatewayError(Code.INVALID_REQUEST, f"GATEWAY_TENANTS_FILE: {error}") from None
        self.tenants = Tenants(own, self._table(found, {}))
        _hide(found)

    def read_again(self) -> None:
        """Reads the file soon, whether or not it looks changed."""
        self._asked.set()

    async def watch(self) -> None:
        """Looks at the file each second."""
        while True:
            try:
                async with asyncio.timeout(LOOK_EVERY):
                    await self._asked.wait()
            except TimeoutError:
                pass
            asked = self._asked.is_set()
            self._asked.clear()
            try:
                await self.look(asked=asked)
            except Exception as error:
                self._faults.broke("tenants", error)

    async def look(self, *, asked: bool = False) -> None:
        """Reads the file if it has changed and has stayed the same since the last look, as it may just be being
        written; or at once if that is `asked` for."""
        await self.tenants.tidy()
        stamp = await asyncio.to_thread(_stamp, self._file)
        settled = stamp == self._seen
        self._seen = stamp
        if not asked and (stamp == self._read or not settled):
            return
        self._read = stamp
        try:
            found = await asyncio.to_thread(read_tenants, self._file)
        except TenantsError as error:
            self.wrong = True
            logger.error("tenants.refused", mistakes=error.mistakes, why="the shops stay as they were")
            return
        self.wrong = False
        before = self._known
        _hide(found)
        await self.tenants.exchange(self._table(found, before))
        changed = sum(1 for shop, tenant in found.items() if shop in before and before[shop] != tenant)
        came, left = len(found.keys() - before.keys()), len(before.keys() - found.keys())
        logger.info("tenants.read", shops=len(found), came=came, changed=changed, left=left)

    def remarks(self) -> list[str]:
        """For `/readyz`: one sentence if the file is wrong."""
        return ["GATEWAY_TENANTS_FILE was refused: the shops that it had before stay in use"] if self.wrong else []

    def _table(self, found: dict[str, Tenant], before: Mapping[str, Tenant]) -> dict[str, Shop]:
        """The table for what was found. A shop whose credentials are the same keeps its connections and tokens."""
        self._known = found
        return {
            shop: Shop(
                self.tenants.table[shop].account
                if shop in before and before[shop].way == tenant.way
                else self._make(tenant),
                tenant.bots,
                tenant.turns_per_minute,
            )
            for shop, tenant in found.items()
        }

    def __repr__(self) -> str:
        return f"TenantsFile({self.tenants!r}, wrong={self.wrong})"


def _stamp(file: Path) -> _Stamp:
    """What changes when the file is written or replaced; None if it can't be looked at."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return stat.st_mtime_ns, stat.st_size, stat.st_ino


def _hide(found: Mapping[str, Tenant]) -> None:
    logs.hide(tenant.token.get_secret_value() for tenant in found.values() if tenant.token is not None)
