"""Installs the packages of a lock file, and says how far it is. Called by the Makefile: install.py LOCK [PIP-OPTION …].

pip by itself is either silent for a minute or prints a hundred lines.
"""

import re
import subprocess
import sys
from pathlib import Path

PIP = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off"]
LOOKED_AT = r"(?:Collecting |Requirement already satisfied: |Ignoring |Processing (?:\S*/)?)"
NAME = re.compile(LOOKED_AT + r"([A-Za-z0-9_.]+(?:-[A-Za-z_.]+)*)")
EVERY = 10  # packages a line, where the output is no terminal


def main(lock: str, *options: str) -> int:
    total = len(re.findall(r"^[A-Za-z0-9].*==", Path(lock).read_text(encoding="utf-8"), re.MULTILINE))
    command = [*PIP, "--require-hashes", "-r", lock, *options]
    lines: list[str] = []
    seen: set[str] = set()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            lines.append(line)
            if (found := NAME.match(line)) and (name := re.sub(r"[-_.]+", "-", found[1].lower())) not in seen:
                seen.add(name)
                say(f"  {len(seen)} of {total} packages there", last=len(seen) == total)
            elif line.startswith("Installing collected packages"):
                say("  putting them in place", last=True)
    if pip.returncode:
        sys.stderr.write("".join(["\n", *lines[-40:]]))
    return pip.returncode


def say(words: str, *, last: bool) -> None:
    """One line that changes on a terminal; elsewhere a line now and then."""
    if sys.stdout.isatty():
        sys.stdout.write(f"\r\x1b[K{words}" + ("\n" if last else ""))
    elif last or re.match(rf" +\d*{EVERY % 10} ", words):
        sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
