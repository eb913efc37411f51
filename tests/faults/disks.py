"""Data folders that fill up, may not be written, are locked or damaged: for real, so some of it needs root."""

import os
import resource
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def small_disk(path: Path, *, kib: int = 1024) -> Iterator[Path]:
    """A file system of its own. Without the right to mount one, the test is skipped and listed."""
    path.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(path)]
    if os.geteuid() or subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(path: Path) -> Path:
    """Fills the disk to the last byte. Returns the file whose removal frees it again."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while file.write(b"x" * size):
                    pass
            except OSError:
                continue
    return filler


def may_write(pid: int, size: int) -> None:
    """Lets a running process write no file beyond `size` bytes: to SQLite that is a disk that reports errors."""
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


@contextmanager
def read_only(path: Path) -> Iterator[Path]:
    """A folder in which nobody can write, not even root."""
    if os.geteuid():
        path.chmod(0o500)
        yield path
        path.chmod(0o700)
        return
    subprocess.run(["mount", "--bind", str(path), str(path)], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", str(path)], check=True)
        yield path
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


@contextmanager
def locked(*files: Path) -> Iterator[None]:
    """Another process's write lock on databases: SQLite's locks tell processes apart, not connections' owners."""
    holders = []
    code = (
        "import sqlite3, sys\n"
        "db = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=10)\n"
        "db.execute('BEGIN EXCLUSIVE')\n"
        "print('held', flush=True)\n"
        "sys.stdin.read()\n"
    )
    try:
        for file in files:
            holder = subprocess.Popen(
                ["python3", "-c", code, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            holders.append(holder)
            assert holder.stdout is not None
            assert holder.stdout.readline() == "held\n"
        yield
    finally:
        for holder in holders:
            holder.communicate(timeout=10)


def is_sound(file: Path) -> bool:
    """Whether SQLite finds nothing wrong with a whole database."""
    with sqlite3.connect(f"file:{file}?mode=ro", uri=True) as database:
        found = database.execute("PRAGMA integrity_check").fetchall()
    database.close()
    return bool(found == [("ok",)])
