"""Comes first in the path of a gateway that a test starts, so that the gateway starts as it does in production."""
