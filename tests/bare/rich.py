"""No `rich`: a tool of the tests brings it along, and structlog would import it, a tenth of each start."""

raise ImportError("as in production, where it is not installed")
