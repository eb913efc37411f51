"""The rate of turns per account, counted over all nodes by the database's clock."""

from gateway.errors import Code, GatewayError
from gateway.log.journal import JournalError
from gateway.nodes.database import Database

_NEWER = "s > clock_timestamp() - interval '1 minute'"
_TAKE = (
    "WITH quiet AS (DELETE FROM log_rates WHERE account IN (SELECT account FROM log_rates"
    " WHERE newest < now() - interval '1 minute' AND account <> %s LIMIT 2 FOR UPDATE SKIP LOCKED))"
    " INSERT INTO log_rates AS r (account, starts, newest)"
    " VALUES (%s, ARRAY[clock_timestamp()], clock_timestamp()) ON CONFLICT (account) DO UPDATE SET"
    f" starts = ARRAY(SELECT s FROM unnest(r.starts) s WHERE {_NEWER} ORDER BY s) || clock_timestamp(),"
    f" newest = clock_timestamp() WHERE (SELECT count(*) FROM unnest(r.starts) s WHERE {_NEWER}) < %s"
    " RETURNING set_config('synchronous_commit', 'off', true)"
)
"""Nobody waits until the count is on the disk: a crash of PostgreSQL may forget some of the last second's turns."""
_LEFT = (
    "SELECT (SELECT extract(epoch FROM s + interval '1 minute' - clock_timestamp())::float8 FROM log_rates,"
    f" unnest(starts) s WHERE account = %s AND {_NEWER} ORDER BY s DESC OFFSET %s LIMIT 1)"
)


class SharedRate:
    """Counts turns by account over a sliding minute. Turns of one account wait for each other at the account's row."""

    def __init__(self, database: Database, most: int) -> None:
        self._database = database
        self._most = most

    async def take(self, account: str, most: int | None = None) -> None:
        """Counts one turn. RATE_LIMITED says how long until the next turn is allowed. Refused turns are not counted.

        `most` is this account's limit, if it has one of its own.

        After `storage_unavailable` the turn may have been counted.
        """
        allowed = self._most if most is None else most
        account = account.replace("\\", "\\\\").replace("\0", "\\0")  # PostgreSQL stores no NUL
        try:
            if await self._database.ask(_TAKE, account, account, allowed):
                return
            ((left,),) = await self._database.ask(_LEFT, account, allowed - 1)
        except JournalError as error:
            raise GatewayError(Code.STORAGE_UNAVAILABLE, str(error), retry_after=1) from error
        setting = "GATEWAY_TURNS_PER_MINUTE" if most is None else "the shop's turns_per_minute"
        raise GatewayError(Code.RATE_LIMITED, setting, retry_after=max(0.0, left or 0.0))

    def __repr__(self) -> str:
        return f"SharedRate({self._most} a minute)"
