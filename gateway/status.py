"""A turn's status: one word for how it stands, for callers and for the store."""

from typing import Literal

from gateway.events import Outcome

Status = Literal["queued", "running", "action_required", "completed", "failed", "cancelled"]
ENDED: frozenset[Status] = frozenset({"completed", "failed", "cancelled"})


def status(*, begun: bool = True, waits: bool = False, outcome: Outcome | None = None) -> Status:
    """A turn's status: queued until it has `begun`; then its `outcome`, or whether it `waits` for tool outputs."""
    if not begun:
        return "queued"
    return outcome or ("action_required" if waits else "running")
