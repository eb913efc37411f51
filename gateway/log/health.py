"""Health: whether the journal can be written now, for all that the last attempts say."""

import structlog

from gateway.telemetry.faults import Faults

logger = structlog.get_logger()

_HOPELESS = 3  # commits in a row that met a bug of ours


class Health:
    """`trouble` is why the journal can't be written now, None while it can."""

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
        """A commit failed by a bug of ours. After a few in a row, the health check says that no commit works."""
        self._bugs += 1
        if self._bugs >= _HOPELESS:
            self._faults.stopped["commit"] = f"no commit works any more ({type(bug).__name__}): start the gateway again"

    def __repr__(self) -> str:
        return f"Health(trouble={self.trouble!r}, {self._bugs} bugs in a row)"
