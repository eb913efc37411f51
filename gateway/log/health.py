"""Health: whether the journal can be written now, as far as the last attempts show."""

import structlog

from gateway.telemetry.faults import Faults

logger = structlog.get_logger()

_HOPELESS = 3  # commits in a row that met a bug of ours


class Health:
    """`trouble` says why the journal can't be written now. It is None while it can be."""

    def __init__(self, faults: Faults) -> None:
        self.trouble: str | None = None
        self._faults = faults
        self._bugs = 0  # commits in a row that met one

    def troubled(self, error: Exception) -> None:
        """An attempt to write failed."""
        if self.trouble is None:
            logger.error("log.unwritable", reason=str(error))
        self.trouble = str(error)

    def healed(self) -> None:
        """An attempt to write succeeded."""
        if self.trouble is not None:
            logger.info("log.healed", after=self.trouble)
            self.trouble = None

    def committed(self) -> None:
        """A commit succeeded, without a bug."""
        if self._bugs:
            self._bugs = 0
            self._faults.stopped.pop("commit", None)
        self.healed()

    def met_a_bug(self, bug: Exception) -> None:
        """A commit failed because of a bug of ours. After a few of these in a row, the health check reports it."""
        self._bugs += 1
        if self._bugs >= _HOPELESS:
            self._faults.stopped["commit"] = f"no commit works any more ({type(bug).__name__}): start the gateway again"

    def __repr__(self) -> str:
        return f"Health(trouble={self.trouble!r}, {self._bugs} bugs in a row)"
