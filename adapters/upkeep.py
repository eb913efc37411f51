"""Upkeep: the commands with which operators change stored data. Each returns the command's exit status."""

import sys
from argparse import Namespace

from adapters import storage
from gateway.config.settings import Settings
from gateway.errors import GatewayError


async def delete(settings: Settings, options: Namespace) -> int:
    """Deletes conversations, and prints their ids."""
    from adapters.deleting import StoppedError, delete

    try:
        deleted = await delete(
            settings, conversation_id=options.conversation, user_id=options.user, shop_id=options.shop
        )
    except StoppedError as error:
        return _failed(f"deleting stopped in the middle, and some or all of it may remain: {error}")
    except GatewayError as error:
        return _failed(f"nothing was deleted: {error}")
    sys.stdout.writelines(f"deleted {conversation}\n" for conversation in deleted)
    return 0 if deleted else _failed("there is no such conversation")


async def migrate(settings: Settings, _options: Namespace) -> int:
    """Creates the database's tables, or brings them up to date, without starting a gateway."""
    try:
        with storage.unused(settings):
            revision = await storage.migrated(settings)
    except GatewayError as error:
        return _failed(f"nothing was migrated: {error}")
    sys.stdout.write(f"the database is up to date (revision {revision})\n")
    return 0


async def move(settings: Settings, _options: Namespace) -> int:
    """Moves a data folder into PostgreSQL, and prints how far it has come."""
    if not settings.on_postgresql:
        sys.stderr.write("GATEWAY_DATABASE_URL: must name the database to move to, postgresql://…\n")
        return 2
    from adapters.moving import move

    try:
        running = await move(settings, _say)
    except GatewayError as error:
        return _failed(str(error))
    _say(
        f"all of {settings.data_dir} is in PostgreSQL now, with {running} turns that the next start goes on with;"
        " the data folder was not changed"
    )
    return 0


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def _failed(why: str) -> int:
    sys.stderr.write(f"{why}\n")
    return 1
