"""Moving from the command line: all that a data folder holds goes into an empty PostgreSQL database."""

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

from psycopg import Error

from adapters import storage
from gateway.config.settings import Settings
from gateway.errors import Code, GatewayError
from gateway.log import moving as log_moving
from gateway.log.packing import DAMAGED
from gateway.log.sqlite_file import read_only
from gateway.log.stretch import Stretch
from gateway.postgres.failures import NoReply, is_outage, sentence
from gateway.postgres.filling import Filling, filling
from gateway.store import moving as store_moving
from gateway.turns.orders import read_note

_TABLES = (*(table.name for table in store_moving.TABLES), *log_moving.TABLES)
_AS_MADE = {"log_made"}  # has a row from the beginning


_START_HERE = "first start this version once without GATEWAY_DATABASE_URL"


async def move(settings: Settings, say: Callable[[str], None]) -> int:
    """Copies everything in one transaction, and changes nothing in the data folder. Returns how many turns had not
    ended: the next gateway that starts goes on with them.

    Raises `storage_unavailable` if a gateway uses the data folder, if the database is not empty, and if anything fails.
    """
    folder, url = settings.data_dir, settings.database_url or ""
    log_db, store_db = folder / "log.db", folder / "gateway.db"
    if missing := [file for file in (store_db, log_db) if not file.exists()]:
        raise _unavailable(f"there is no {missing[0]}: is GATEWAY_DATA_DIR right?")
    with ExitStack() as stack:
        stack.enter_context(storage.locked(folder))
        stack.enter_context(_explained(folder))
        log, store = (stack.enter_context(closing(_opened(file))) for file in (log_db, store_db))
        if not log_moving.readable(log) or store_moving.revision_of(store) is None:
            raise _unavailable(f"{folder} is another version's; {_START_HERE}")
        await storage.migrated(settings)
        filled = False
        try:
            async with filling(url, say, locked=_TABLES) as target:
                await _require_empty(target, mark=log_moving.made(log), folder=folder)
                await store_moving.move(store, target)
                running = await log_moving.move(log, log_db, target, home=_home, now=time.time())
                await target.run(f"ANALYZE {', '.join(_TABLES)}")
                filled = True
        except (NoReply, Error, OSError) as error:
            if filled:
                raise _unavailable("PostgreSQL has not said whether everything was moved: try again to see") from error
            raise
    return sum(bool(stretch.turn) for stretch in running)


def _opened(file: Path) -> sqlite3.Connection:
    """A file that is only read, as it is now: its write-ahead log stays, too."""
    connection = sqlite3.connect(read_only(file), uri=True, isolation_level=None)
    connection.execute("BEGIN")
    return connection


async def _require_empty(target: Filling, *, mark: str, folder: Path) -> None:
    ours = await target.run("SELECT 1 FROM log_made WHERE mark = %s", mark)
    for table in _TABLES:
        if table in _AS_MADE or not await target.run(f"SELECT 1 FROM {table} LIMIT 1"):
            continue
        if ours:
            raise _unavailable(f"{folder} was moved into this database before")
        if table == "log_nodes":
            raise _unavailable("a gateway uses the database, or was killed there: move into a new database")
        raise _unavailable(f"the database is not empty (there are rows in {table}): move into a new database")


def _home(stretch: Stretch) -> str:
    """The log that a turn waits for, or is in."""
    if not stretch.turn:
        return stretch.key
    note = read_note(stretch.state)
    return note.conversation_id if note.stage == "queued" else stretch.key


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """What went wrong as a sentence without anybody's text."""
    try:
        yield
    except sqlite3.Error as error:
        raise _unavailable(f"the data folder {folder} can't be read: {error}") from error
    except DAMAGED as error:
        raise _unavailable(f"the event log in {folder} is damaged; {_START_HERE}, which puts it aside") from error
    except (NoReply, OSError) as error:
        raise _unavailable(sentence(error)) from error
    except Error as error:
        said = sentence(error)
        raise _unavailable(said if is_outage(error) else f"PostgreSQL refuses a row: {said}") from error


def _unavailable(detail: str) -> GatewayError:
    return GatewayError(Code.STORAGE_UNAVAILABLE, detail)
