"""The edge: what every request passes, and what all doors share: callers, limits, bodies, failures."""
