"""The gateway's own API: chats, turns, the shared socket, and the operator's routes."""
