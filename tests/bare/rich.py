"""Hides `rich`, which a tool of the tests installs: structlog would import it, a tenth of each start."""

raise ImportError("as in production, where it is not installed")
