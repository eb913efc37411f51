"""The event log: an append-only row of events per conversation, written first, then seen."""
