"""Conversations, turns and messages in SQLite or PostgreSQL.

A projection of the event log: everything here can be derived from the log again, so every write is an upsert that may
be repeated, and nobody waits for one. `Store` takes and returns the values of `rows`.
"""

from gateway.store.rows import ConversationRow, MessageRow, TurnBegun, TurnRow, TurnUpdate
from gateway.store.store import Store

__all__ = ["ConversationRow", "MessageRow", "Store", "TurnBegun", "TurnRow", "TurnUpdate"]
