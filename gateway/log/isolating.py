"""Isolating: a batch that breaks the journal is committed log by log, to find the records that break it."""

from typing import Generic, NamedTuple, TypeVar

import structlog

from gateway.log.batches import Batches
from gateway.log.journal import JournalError, Record

logger = structlog.get_logger()
L = TypeVar("L")


class Outcome(NamedTuple, Generic[L]):
    """`broken` holds the exceptions by log."""

    durable: list[Record]
    broken: dict[L, Exception]


async def commit_apart(batches: Batches, owed: list[Record], logs: dict[L, list[Record]]) -> Outcome[L]:
    """Commits what is owed, and then the records of each log in a batch of their own.

    Owed records that break the journal are given up: readers have seen them, and the next start goes on without them.
    Raises `JournalError` if the journal itself fails. Some records may be durable then.
    """
    durable = list[Record]()
    broken: dict[L, Exception] = {}
    try:
        if owed:
            await batches.commit(owed)
    except JournalError:
        raise
    except Exception as error:
        logger.error("log.owed_lost", exc_info=error)
    for log, records in logs.items():
        try:
            await batches.commit(records)
        except JournalError:
            raise
        except Exception as error:
            broken[log] = error
        else:
            durable += records
    return Outcome(durable, broken)
