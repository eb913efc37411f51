"""The database's failures: which of them are failures of the storage, and how they are described."""

import sqlite3

from sqlalchemy.exc import DataError, DBAPIError, IntegrityError, NotSupportedError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

_OF_THE_VALUES = (DataError, IntegrityError, NotSupportedError, ProgrammingError)

_SENTENCES = (
    ("SQLITE_FULL", "the database's disk is full"),
    ("SQLITE_BUSY", "the database is locked by another process"),
    ("SQLITE_LOCKED", "the database is locked by another process"),
    ("SQLITE_READONLY", "the database is read-only"),
    ("SQLITE_CORRUPT", "the database is damaged"),
    ("SQLITE_NOTADB", "the database is damaged: it is no SQLite file"),
    ("SQLITE_CANTOPEN", "the database's file cannot be opened"),
    ("SQLITE_IOERR", "the database's disk reports an error"),
)


def is_storage_failure(error: Exception) -> bool:
    """Whether a later attempt can succeed: the database failed, not the values that it was given."""
    if isinstance(error, OSError | PoolTimeoutError):
        return True
    if (told := _of_postgresql(error)) is not None:
        from gateway.postgres.failures import is_outage

        return is_outage(told)
    return isinstance(error, DBAPIError) and not isinstance(error, _OF_THE_VALUES)


def is_deadlock(error: Exception) -> bool:
    """Whether the database has undone the transaction to end a deadlock."""
    return getattr(_of_postgresql(error), "sqlstate", None) == "40P01"


def is_locked(error: Exception) -> bool:
    """Whether another process, or another connection, holds the SQLite file."""
    return _name(error).startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))


def is_damage(error: Exception) -> bool:
    return _name(error).startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB"))


def sentence(error: Exception) -> str:
    """Why the database does not work, without paths, addresses or anybody's text."""
    name = _name(error)
    for prefix, said in _SENTENCES:
        if name.startswith(prefix):
            return said
    cause = error.orig if isinstance(error, DBAPIError) else error
    if cause is not None and type(cause).__module__.startswith("psycopg"):
        from gateway.postgres.failures import sentence as of_postgresql

        return of_postgresql(cause)
    if isinstance(error, PoolTimeoutError):
        return "the database is too slow: no connection came free"
    if (told := _of_postgresql(error)) is not None:
        from gateway.postgres.failures import sentence as said_of

        return said_of(told)
    return f"the database does not answer ({name or type(error).__name__})"


def _of_postgresql(error: BaseException) -> BaseException | None:
    """What psycopg reported. It is not imported for those who have SQLite."""
    cause = _cause(error)
    return cause if type(cause).__module__.partition(".")[0] == "psycopg" else None


def _name(error: BaseException) -> str:
    """SQLite's name for the failure, such as `SQLITE_IOERR_WRITE`; "" for a failure that did not come from SQLite."""
    cause = _cause(error)
    return getattr(cause, "sqlite_errorname", "") if isinstance(cause, sqlite3.Error) else ""


def _cause(error: BaseException) -> BaseException | None:
    """The driver's own error."""
    return error.orig if isinstance(error, DBAPIError) else error
