"""The edge: what every request passes, whatever its route: callers, limits, bodies, failures."""
