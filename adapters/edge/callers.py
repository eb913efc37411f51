"""The caller of a request, and what it may do."""

from dataclasses import dataclass
from typing import Final, Literal

from adapters.edge.failures import InvalidRequest, Mistake
from gateway.errors import Code, GatewayError
from gateway.ids import owned_by_token

ALL: Final = "*"
Shops = frozenset[str] | Literal["*"]

NOT_ITS_SHOP: Final = "the shop is not one of the token's"


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request. `user_id` is a JWT's `sub`; an API key has none, and speaks for any user of its
    shops. `token_hash` is that of a Coze token of the caller's own, with which it came through a door: it reads what
    this token started, and nobody else does."""

    kind: Literal["none", "api-key", "jwt", "coze-token"] = "none"
    user_id: str | None = None
    shops: Shops = ALL
    expires_at: float | None = None
    """When the token expires, in seconds on the authenticator's clock."""
    watches_shops: bool = True
    key_name: str = ""
    token_hash: str = ""

    def may_read(self, owner_user: str, owner_shop: str | None) -> bool:
        """Whether the caller may read what this user and shop own. Without auth, anybody who knows an id may."""
        if (token := owned_by_token(owner_user)) or self.token_hash:
            return token == self.token_hash
        return (self.user_id is None or self.user_id == owner_user) and self._holds(owner_shop)

    def may_watch_shop(self, shop_id: str) -> bool:
        return self.watches_shops and self._holds(shop_id)

    def shop_for(self, asked: str | None) -> str | None:
        """The shop that a new turn belongs to. A caller with a single shop need not name it.

        A caller with several shops must name one (else InvalidRequest): without a shop, the turn would run on the
        gateway's own credentials, which are not the caller's. A foreign shop is NOT_FOUND, whether it exists or not.
        """
        if asked is None and self.shops != ALL:
            if len(self.shops) == 1:
                return next(iter(self.shops))
            raise InvalidRequest([Mistake("shopId", "is required: the token is for several shops")])
        if not self._holds(asked):
            raise GatewayError(Code.NOT_FOUND, NOT_ITS_SHOP)
        return asked

    def account(self, user_id: str) -> str:
        """The account that a turn counts for in the limits. It names the API key too, so that a user id that is sent
        with one key can't use up the share of the same user id with another key."""
        return f"{self.key_name}\0{user_id}" if self.key_name else user_id

    @property
    def listener_account(self) -> str | None:
        """The account that a listening connection counts for; with None it counts only in the total."""
        return self.user_id

    def _holds(self, shop_id: str | None) -> bool:
        return self.shops == ALL or shop_id in self.shops


ANYONE: Final = Caller()
