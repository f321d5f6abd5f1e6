"""What the command line says when it cannot do what was asked: a sentence with what to do, and an exit code.

It prints nothing. Only expected failures come here; anything else is a bug and shows its traceback.
"""

from typing import Final

from engine.errors import ConfigError, StoreBehind, StoreBroken, StoreLocked, StoreTooNew
from longwave.client import (
    ClientClosed,
    CursorExpired,
    InsecureAddressError,
    LongwaveError,
    NotFound,
    PermissionDenied,
    Throttled,
    Unauthenticated,
    Unavailable,
)

EXIT_FAILED: Final = 1
"""It was tried, and did not work, or not for all."""
EXIT_USAGE: Final = 2
"""It was not tried: wrong arguments, settings or preconditions."""
EXIT_INTERRUPTED: Final = 130
"""Ended by Ctrl-C or SIGTERM before it was done."""

EXPECTED: Final = (LongwaveError, InsecureAddressError, ConfigError, StoreBehind, StoreLocked, StoreTooNew, StoreBroken)


class CliFailure(Exception):  # noqa: N818 - the name says what happened
    """An expected failure; the message says what is wrong and what to do."""

    def __init__(self, message: str, exit_code: int = EXIT_FAILED) -> None:
        """Keep both."""
        super().__init__(message)
        self.exit_code = exit_code


def usage(message: str) -> CliFailure:
    """A failure of how it was called, to be raised."""
    return CliFailure(message, EXIT_USAGE)


def failure_of(error: BaseException) -> CliFailure:
    """The failure that an expected exception means. Each of `EXPECTED` has its own sentence and advice."""
    if isinstance(error, ConfigError):
        return usage("\n".join(error.problems))
    if isinstance(error, StoreBehind | StoreLocked | StoreTooNew | StoreBroken | InsecureAddressError):
        return usage(str(error))
    if isinstance(error, LongwaveError):
        return CliFailure(f"{error}{advice(error)}")
    return CliFailure(str(error))


def advice(error: LongwaveError) -> str:
    """What to do about a refusal or a lost call; empty where its own text says so."""
    match error:
        case Unauthenticated():
            return (
                "\nset LONGWAVE_API_KEY to a key that works: "
                "`longwave bootstrap` prints the first, `longwave key create` more"
            )
        case PermissionDenied() if error.reason == "PERMISSION_DENIED":
            return (
                "\nset LONGWAVE_API_KEY to a key of the role that this needs: "
                "sending takes a tenant's key, the registry an admin's"
            )
        case NotFound():
            return "\ncheck the name: `longwave campaign list` and its like show what this key may see"
        case CursorExpired():
            return "\nuse --from-begin for the oldest events that are kept, or no cursor for new ones"
        case Throttled():
            return "\nthe engine holds as much as it may: run it again later"
        case Unavailable() if error.status == "UNAVAILABLE" and not error.verdict:
            return (
                "\nis the engine running? start it with `longwave serve`, "
                "or set LONGWAVE_GRPC_ADDRESS to where it listens"
            )
        case Unavailable() | ClientClosed():
            return "\nrun it again: with the same request id nothing is sent twice"
    return ""
