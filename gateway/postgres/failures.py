"""PostgreSQL's failures: which of them pass, and what an operator is told."""

from psycopg import Error, errors

_OF_THE_VALUES = (errors.DataError, errors.IntegrityError, errors.NotSupportedError, errors.ProgrammingError)


class NoReply(Exception):
    """PostgreSQL can't be reached, or hasn't answered: what it was asked may or may not have been done."""


def is_outage(error: BaseException) -> bool:
    """Whether trying again later can help: the server fails, or what is between, not the values that it was given."""
    if isinstance(error, OSError | TimeoutError | NoReply):
        return True
    return isinstance(error, Error) and not isinstance(error, _OF_THE_VALUES)


def sentence(error: BaseException) -> str:
    """Why PostgreSQL does not work, without addresses or anybody's text."""
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
            return "PostgreSQL does not answer"
