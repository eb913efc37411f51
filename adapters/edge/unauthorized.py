"""Unauthorized: why a token is refused."""

from typing import Literal

from gateway.errors import Code, GatewayError

Reason = Literal[
    "no token",
    "two headers",
    "unknown key",
    "a key, not a JWT",
    "malformed",
    "algorithm",
    "signature",
    "expired",
    "not yet valid",
    "audience",
    "issuer",
    "claim exp",
    "claim sub",
    "claim shop",
    "claims",
]
"""Why a token was refused. This is for logs; the token's holder gets the same answer to every refusal."""


class UnauthorizedError(GatewayError):
    """A token was refused, or is missing. `reason` holds nothing of the token."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(Code.UNAUTHORIZED, reason)
        self.reason: Reason = reason
