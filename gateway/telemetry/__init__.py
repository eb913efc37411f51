"""Telemetry: the ledger of open resources, metrics, logs, and faults of our own code."""
