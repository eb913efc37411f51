"""Transports: how events travel from a cursor to a client: SSE, WebSocket, long-poll."""
