"""The gateway's outside: HTTP routes and transports over the core in `gateway`. Adapters don't import each other."""
