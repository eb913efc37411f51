"""The long run: a steady load with blows, after which nothing may have grown."""

from pathlib import Path


async def soak(folder: Path, *, seconds: float, seed: int) -> int:
    raise NotImplementedError
