"""Settings: what the operator may choose, and where each value comes from."""
