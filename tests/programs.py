"""Programs of this machine that tests run: also those that only root or only Debian's own tools have in their path."""

import os
import shutil
from glob import glob


def program(*commands: str) -> str | None:
    """The path of the first of these commands that is installed."""
    debian = sorted(glob("/usr/lib/postgresql/*/bin"), reverse=True)
    path = ":".join([os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin", *debian])
    return next((found for command in commands if (found := shutil.which(command, path=path))), None)
