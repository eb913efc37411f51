"""The gateway's outside: HTTP around the core in `gateway`.

- `edge`: the checks that every request passes (caller, origin, limits, body), and how refusals are answered.
- `transports`: the ways in which events reach a reader: server-sent events, WebSocket, long-poll.
- `native`: the gateway's own API. `facades`: doors in other services' protocols, today Coze's.
- `browser`: the page and the client module.
- `composition` puts the objects together, `serving` listens and stops, `plugin` is what other packages may import.

`transports`, `native` and `facades` import only what stands before them in this list, and `browser` imports none of
them. Modules that add routes don't import each other.
"""
