"""The caller of a request, and what it may do."""

from dataclasses import dataclass
from typing import Final, Literal

from adapters.edge.failures import InvalidRequest, Mistake
from gateway.errors import Code, GatewayError

ALL: Final = "*"
Shops = frozenset[str] | Literal["*"]

NOT_ITS_SHOP: Final = "the shop is not one of the token's"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `user_id` is a JWT's `sub`, else None: an API key's holder speaks for any user of its shops."""

    kind: Literal["none", "api-key", "jwt"] = "none"
    user_id: str | None = None
    shops: Shops = ALL
    expires_at: float | None = None
    """On the authenticator's clock, seconds."""
    watches_shops: bool = True
    key_name: str = ""

    def may_read(self, owner_user: str, owner_shop: str | None) -> bool:
        """Without auth, whoever knows an id may read what it names."""
        return (self.user_id is None or self.user_id == owner_user) and self._holds(owner_shop)

    def may_watch_shop(self, shop_id: str) -> bool:
        return self.watches_shops and self._holds(shop_id)

    def shop_for(self, asked: str | None) -> str | None:
        """The shop that a new turn belongs to. Who is bound to one shop need not name it.

        Without any shop a turn would run on the gateway's own credentials, outside of the caller's bounds: so one of
        several must be named (InvalidRequest). A shop that is not the caller's is NOT_FOUND, whether it exists or not.
        """
        if asked is None and self.shops != ALL:
            if len(self.shops) == 1:
                return next(iter(self.shops))
            raise InvalidRequest([Mistake("shopId", "is required: the token is for several shops")])
        if not self._holds(asked):
            raise GatewayError(Code.NOT_FOUND, NOT_ITS_SHOP)
        return asked

    def account(self, user_id: str) -> str:
        """Whom a turn counts for in the limits: one user of one API key can't use up another's share."""
        return f"{self.key_name}\0{user_id}" if self.key_name else user_id

    @property
    def listener_account(self) -> str | None:
        """Whom a listening connection counts for; None: in all only."""
        return self.user_id

    def _holds(self, shop_id: str | None) -> bool:
        return self.shops == ALL or shop_id in self.shops


ANYONE: Final = Caller()
