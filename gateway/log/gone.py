"""Gone: the logs that are being deleted, or were a short while ago, for readers who have asked for them before."""

import asyncio
from collections.abc import Collection
from typing import Final

from gateway.ids import LogKey

_REMEMBERED: Final = 60.0
"""Seconds. By then everybody who had asked for the log has been answered."""


class Gone:
    """Keys of logs. Whoever begins to read one of them is sent away."""

    def __init__(self) -> None:
        self._keys: set[LogKey] = set()

    def begin(self, keys: Collection[LogKey]) -> None:
        """These logs are being deleted."""
        self._keys.update(keys)

    def give_up(self, keys: Collection[LogKey]) -> None:
        """These logs could not be deleted, and can be read again."""
        self._keys.difference_update(keys)

    def add(self, key: LogKey) -> None:
        """This log was deleted."""
        self._keys.add(key)
        asyncio.get_running_loop().call_later(_REMEMBERED, self._keys.discard, key)

    def __contains__(self, key: object) -> bool:
        return key in self._keys

    def __repr__(self) -> str:
        return f"Gone({len(self._keys)} logs)"
