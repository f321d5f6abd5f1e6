"""The closed list of answers and the few exceptions that the parts of the engine share.

It knows no transport: `server/status.py` turns these into gRPC statuses.

Invariants: `Verdict` has the names and numbers of `proto/longwave/v1/verdict.proto` (a test compares them); an
exception says which of two kinds it is: *definitely not stored*, or *unknown: retry with the same id*.
"""

from enum import IntEnum
from typing import Final


class Verdict(IntEnum):
    """Numbered answers; the proto's `Verdict` without its prefix. A number is never reused."""

    UNSPECIFIED = 0
    ACCEPTED = 1
    UNDECODABLE = 10
    INVALID_RECIPIENT = 11
    INVALID_SENDER = 12
    EMPTY_CONTENT = 13
    INVALID_TEXT = 14
    TEXT_TOO_LONG = 15
    INVALID_MEDIA = 16
    INVALID_SCHEDULE_TIME = 17
    INVALID_VALIDITY = 18
    INVALID_REQUEST_ID = 19
    INVALID_ORDERING_KEY = 20
    INVALID_CLIENT_REFERENCE = 21
    INVALID_LABELS = 22
    INVALID_ENUM = 23
    INVALID_FIELD = 24
    INVALID_PAGE_TOKEN = 25
    INVALID_CURSOR = 26
    INVALID_BATCH = 27
    REQUEST_ID_REUSED = 30
    ALREADY_EXISTS = 31
    NOT_CANCELLABLE = 32
    FAILED_PRECONDITION = 33
    CAMPAIGN_NOT_FOUND = 40
    CAMPAIGN_STOPPED = 41
    SENDER_NOT_IN_CAMPAIGN = 42
    NO_SENDER = 43
    RECIPIENT_OPTED_OUT = 44
    EXCEEDS_QUOTA = 45
    TENANT_SUSPENDED = 46
    UNAUTHENTICATED = 50
    PERMISSION_DENIED = 51
    NOT_FOUND = 52
    CURSOR_EXPIRED = 53
    QUEUE_FULL = 60
    STORE_FULL = 61
    CREDIT_EXCEEDED = 62
    SUBSCRIBER_TOO_SLOW = 63
    TOO_MANY_CALLS = 64
    OVERLOADED = 65
    BACKLOG_TOO_LONG = 66
    STORE_UNAVAILABLE = 70
    NOT_READY = 71
    DEADLINE_PASSED = 72
    INTERNAL = 73


# A full disk is looked at again as often as the durability check runs, so that is when to come back.
STORE_FULL_RETRY_US: Final = 10_000_000
# A restart of a node takes about a second; a client that comes back sooner only meets the same answer.
NOT_READY_RETRY_US: Final = 1_000_000
# An unknown commit is retried at once by most clients; this spreads them over a group commit or two.
STORE_UNAVAILABLE_RETRY_US: Final = 200_000


class LongwaveError(Exception):
    """Anything the engine raises on purpose."""


class ConfigError(LongwaveError):
    """Settings that cannot be used; `problems` has one sentence each that says what to change."""

    def __init__(self, problems: list[str]) -> None:
        """Keep the sentences; the message is all of them, one a line."""
        super().__init__("\n".join(problems))
        self.problems = problems


class Refused(LongwaveError):  # noqa: N818 - the name says what happened
    """One call was refused with a numbered reason; its transaction is rolled back: definitely not stored.

    `field` is the path of the field at fault (snake_case, empty when none is), `detail` a sentence without numbers,
    texts or keys of anyone, `retry_delay_us` when to come back (0: not by waiting).
    """

    def __init__(self, verdict: Verdict, detail: str, *, field: str = "", retry_delay_us: int = 0) -> None:
        """Keep the parts; the message is the detail."""
        super().__init__(detail)
        self.verdict = verdict
        self.field = field
        self.detail = detail
        self.retry_delay_us = retry_delay_us


class StoreUnavailable(Refused):
    """The outcome of a write is unknown: retry with the same id."""

    def __init__(self, detail: str = "unknown whether stored: retry with the same request_id") -> None:
        """Answer STORE_UNAVAILABLE."""
        super().__init__(Verdict.STORE_UNAVAILABLE, detail, retry_delay_us=STORE_UNAVAILABLE_RETRY_US)


class StoreFull(Refused):
    """The disk is full: definitely not stored; what is held goes on."""

    def __init__(self, detail: str = "the store's disk is full; nothing was stored") -> None:
        """Answer STORE_FULL."""
        super().__init__(Verdict.STORE_FULL, detail, retry_delay_us=STORE_FULL_RETRY_US)


class NotReady(Refused):
    """The server drains, starts, or its store is below the promised durability: definitely not stored."""

    def __init__(self, detail: str = "the server is not ready; nothing was stored") -> None:
        """Answer NOT_READY."""
        super().__init__(Verdict.NOT_READY, detail, retry_delay_us=NOT_READY_RETRY_US)


class RegistryMoved(NotReady):
    """The registry in the store has what the picture that was worked with must not lack: nothing was stored."""

    def __init__(self) -> None:
        """Answer NOT_READY, should a caller hear of it."""
        super().__init__("the registry changed meanwhile; nothing was stored")


class StoreBroken(LongwaveError):  # noqa: N818 - the name says what happened
    """The store failed in a way after which no answer can be trusted (fsync or I/O error): exit and recover."""


class StoreLocked(LongwaveError):  # noqa: N818 - the name says what happened
    """Another process holds the store; the message names it."""


class StoreTooNew(LongwaveError):  # noqa: N818 - the name says what happened
    """The store was migrated by a newer binary; the message says by which revision."""


class StoreBehind(LongwaveError):  # noqa: N818 - the name says what happened
    """The store lacks revisions that this binary needs; the message says which and what to run."""
