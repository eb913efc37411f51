"""PostgreSQL's failures: which of them are temporary, and the sentence that an operator reads."""

import re
from typing import Final

from psycopg import Error, errors

_OF_THE_VALUES = (errors.DataError, errors.IntegrityError, errors.NotSupportedError, errors.ProgrammingError)


_SAID_OF_CONNECTIONS: Final = (
    (
        "authentication failed|no password supplied|no pg_hba.conf entry|not permitted to log in",
        "PostgreSQL refuses the user or the password",
    ),
    ("role .* does not exist", "PostgreSQL does not know the user"),
    ("database .* does not exist", "PostgreSQL has no such database"),
    ("too many (connections|clients)|remaining connection slots", "PostgreSQL takes no more connections"),
    ("translate host name|resolve host|not known|getaddrinfo", "PostgreSQL's host can't be found"),
    ("does not support SSL|SSL is not enabled|SSL error", "PostgreSQL does not speak TLS as sslmode asks"),
    ("session is (not )?read-only|is (not )?in hot standby", "PostgreSQL is not as target_session_attrs asks"),
)
"""What libpq says when it can't connect, and the sentence for it. Such an error has no code, and its text is English
unless the server was told otherwise."""

DEADLOCKS: Final = 3
"""The most deadlocks in a row that one transaction may meet. PostgreSQL takes a second to notice each."""


class NoReply(Exception):
    """PostgreSQL can't be reached or has not answered. The statement may or may not have been done."""


def is_outage(error: BaseException) -> bool:
    """Whether trying again later can help: the server or the network failed, not the values in the statement."""
    if isinstance(error, OSError | TimeoutError | NoReply):
        return True
    return isinstance(error, Error) and not isinstance(error, _OF_THE_VALUES)


def sentence(error: BaseException) -> str:
    """Why PostgreSQL does not work. Contains no address and no text of a user."""
    match error:
        case errors.DiskFull():
            return "PostgreSQL's disk is full"
        case errors.ReadOnlySqlTransaction():
            return "PostgreSQL is read-only: it may be a standby"
        case errors.InvalidPassword() | errors.InvalidAuthorizationSpecification():
            return "PostgreSQL refuses the user or the password"
        case errors.TooManyConnections():
            return "PostgreSQL takes no more connections"
        case errors.InsufficientPrivilege():
            return "PostgreSQL's user lacks a privilege"
        case NoReply():
            return str(error)
        case Error() if error.sqlstate:
            return f"PostgreSQL reports {type(error).__name__} ({error.sqlstate})"
        case _:
            said = str(error) if isinstance(error, Error) else ""
            found = (told for pattern, told in _SAID_OF_CONNECTIONS if re.search(pattern, said))
            return next(found, "PostgreSQL does not answer")
