"""Telemetry: what is open, what happened, and what is logged of it."""
