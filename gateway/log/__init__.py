"""The event log: an append-only sequence of events per conversation. Events are seen once they are written."""
