"""Disks that fill up, fail or take nothing, for real."""

import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from sqlalchemy import event

from gateway.store import Store


class Disk(Protocol):
    path: Path

    def fill(self, store: Store) -> None: ...

    def free(self) -> None: ...


class SmallDisk:
    """A file system of 1 MiB. Only root may mount one."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self, store: Store) -> None:
        with self._filler.open("wb", buffering=0) as filler:
            try:
                while filler.write(b"x" * 4096):
                    pass
            except OSError:
                pass

    def free(self) -> None:
        self._filler.unlink()


class SmallFile:
    """SQLite's own limit on the file, which fails as a full disk does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pages = 2**30

    def fill(self, store: Store) -> None:
        self._pages = 1
        event.listen(store._engine.sync_engine, "checkout", self._limit)

    def free(self) -> None:
        self._pages = 2**30

    def _limit(self, connection: Any, *_: object) -> None:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA max_page_count={self._pages}")
        cursor.close()


@contextmanager
def small_disk(path: Path) -> Iterator[Disk]:
    path.mkdir()
    options = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(path)]
    if os.geteuid() or subprocess.run(options, check=False, capture_output=True).returncode:
        yield SmallFile(path)
        return
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def read_only(path: Path) -> Iterator[None]:
    """A folder in which nobody can write, not even root."""
    if os.geteuid():
        path.chmod(0o500)
        yield
        path.chmod(0o700)
        return
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)
        yield
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def disk_errors() -> Iterator[None]:
    """This process may write no file beyond 4 KiB: to SQLite that is a disk that reports errors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def damage(path: Path, where: str) -> bytes:
    """Writes noise into a file. Returns its content then."""
    data = bytearray(path.read_bytes())
    noise = bytes(range(255, 0, -1)) * 100
    match where:
        case "whole":
            data[:] = noise
        case "header":
            data[:100] = noise[:100]
        case "middle":
            data[20_000:40_000] = noise[:20_000]
        case "cut":
            del data[len(data) // 2 :]
    path.write_bytes(data)
    return bytes(data)
