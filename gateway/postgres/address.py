"""The address of PostgreSQL: libpq's own URL, with the deadlines that a gateway needs."""

from typing import Final

from psycopg.conninfo import conninfo_to_dict, make_conninfo

CONNECT_SECONDS: Final = 3
"""How long libpq waits for each host."""

REPLY_SECONDS: Final = 4.0
"""After so long without a reply a connection is given up. A statement waits for a lock for half of that at most.

PostgreSQL ends a transaction whose client is silent for as long: a node that is paused in the middle of one holds the
lock on its licence, which must not keep others from burying it in time.
"""

_DEFAULTS: dict[str, str | int | None] = {
    "connect_timeout": CONNECT_SECONDS,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 5000,
    "application_name": "coze-gateway",
    "options": f"-c statement_timeout={round(REPLY_SECONDS * 1000)} -c lock_timeout={round(REPLY_SECONDS * 500)}"
    f" -c idle_in_transaction_session_timeout={round(REPLY_SECONDS * 1000)}",
}


def conninfo(url: str) -> str:
    """The URL with the deadlines that a gateway needs, for libpq. Parameters in the URL itself take precedence.

    Raises `psycopg.ProgrammingError` if libpq does not understand the URL.
    """
    return make_conninfo("", **{**_DEFAULTS, **conninfo_to_dict(url)})


def without_password(url: str) -> str:
    """The URL as it may be shown to an operator: without the password and other parameters."""
    said = conninfo_to_dict(url)
    host, port = said.get("host", ""), said.get("port", 5432)
    return f"postgresql://{said.get('user', '')}@{host}:{port}/{said.get('dbname', '')}"
