"""Redis's failures: what an operator is told."""

from redis.asyncio.sentinel import MasterNotFoundError
from redis.exceptions import AuthenticationError, AuthorizationError, BusyLoadingError, NoPermissionError
from redis.exceptions import TimeoutError as NoReply


def sentence(error: BaseException) -> str:
    """Why Redis does not work, without addresses or anybody's text."""
    match error:
        case MasterNotFoundError():
            return "the Sentinels know no master"
        case AuthenticationError() | AuthorizationError():
            return "Redis refuses the user or the password"
        case NoPermissionError():
            return "Redis's user lacks a permission"
        case BusyLoadingError():
            return "Redis is still loading its data"
        case NoReply() | TimeoutError():
            return "Redis does not answer"
        case _:
            return f"Redis can't be reached ({type(error).__name__})"
