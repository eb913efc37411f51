"""A clock that stands still until a test moves it."""


class Clock:
    """Calling it gives `now`, which a test sets."""

    def __init__(self, now: float = 1_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now
