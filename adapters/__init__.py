"""The gateway's outside: HTTP around the core in `gateway`.

- `edge`: the checks that every request passes (caller, origin, limits, body), and how refusals are answered.
- `transports`: the ways in which events reach a reader: server-sent events, WebSocket, long-poll.
- `native`: the gateway's own API. `browser`: the page and the client module.
- `composition` puts the objects together, `serving` listens and stops, `plugin` is what other packages may import.

Folders that serve routes don't import each other; what they share lies in `edge` and `transports`.
"""
