"""The gateway's outside: HTTP around the core in `gateway`.

- `edge`: what holds for every request: who asks, from where, how much, and what is wrong with it.
- `transports`: how events leave, each in its own way: server-sent events, WebSocket, long-poll.
- `native`: the gateway's own API over them. `browser`: the page and the client module.
- `composition` puts objects together, `serving` listens and stops, `plugin` is what other packages may import.

Folders that give routes don't import each other; what they share lies in `edge` and `transports`.
"""
