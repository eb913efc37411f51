"""Runs the gateway with a wall clock that is wrong by `CLOCK_OFFSET` seconds, and jumps by `CLOCK_JUMP` at SIGUSR1."""

import os
import signal
import sys
import time

wall, wrong_by = time.time, [float(os.environ.get("CLOCK_OFFSET", "0"))]


def jump(*_: object) -> None:
    wrong_by.append(float(os.environ["CLOCK_JUMP"]))
    sys.stderr.write('{"event":"clock.jumped"}\n')
    sys.stderr.flush()


time.time = lambda: wall() + sum(wrong_by)
signal.signal(signal.SIGUSR1, jump)

if __name__ == "__main__":
    from gateway.__main__ import main

    sys.exit(main())
