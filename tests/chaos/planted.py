"""`python -m tests.chaos.planted FAULT serve …`: a gateway with a fault in it, which a chaos run must find."""

import sys
from collections.abc import Callable

from gateway.__main__ import main
from gateway.log import rows, saving
from gateway.log.journal import BEGIN, END, Record
from gateway.log.licence import Licence
from gateway.log.postgres import PostgresJournal

_EVERY = 40


def double_writer() -> None:
    """A node that was taken for dead goes on writing, because it does not learn of it."""
    for module, name in ((rows, "_COMMIT"), (rows, "_COMMIT_MORE"), (saving, "_SAVE")):
        text = getattr(module, name)
        assert rows.LICENCE in text
        setattr(module, name, text.replace(rows.LICENCE, "SELECT %s::bigint AS id"))
    renew = Licence.renew

    async def always(self: Licence) -> int:
        return await renew(self) or 1

    Licence.renew = always  # type: ignore[method-assign]


def lost_batch() -> None:
    """Now and then a batch counts as durable although it was never written."""
    commit = PostgresJournal.commit

    async def forgetful(self: PostgresJournal, number: int, batch: list[Record]) -> None:
        if number % _EVERY or any(record[1] in (BEGIN, END) for record in batch):
            await commit(self, number, batch)

    PostgresJournal.commit = forgetful  # type: ignore[method-assign]


FAULTS: dict[str, Callable[[], None]] = {"double-writer": double_writer, "lost-batch": lost_batch}

if __name__ == "__main__":
    FAULTS[sys.argv.pop(1)]()
    sys.exit(main())
