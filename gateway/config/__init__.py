"""Settings: what the operator can set, and where each value comes from."""
