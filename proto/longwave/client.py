"""The SDK's front door: `Client` (synchronous), `AsyncClient` (asyncio), their settings, results and errors.

It contains nothing of its own. Messages of the contract that callers build are here too.
"""

from longwave.aio import AsyncClient, AsyncWatch
from longwave.channels import Deadlines, Seams, Tls
from longwave.core import BatchLimits
from longwave.errors import (
    ClientClosed,
    CursorExpired,
    FieldViolation,
    InsecureAddressError,
    LongwaveError,
    NotFound,
    PermissionDenied,
    Refused,
    Throttled,
    Unauthenticated,
    Unavailable,
    WindowFull,
)
from longwave.registry import AsyncRegistry, Registry
from longwave.results import SubmitResult
from longwave.retry import RetryPolicy
from longwave.sync import Client, Watch
from longwave.v1.messaging_pb2 import Event, ListMessagesRequest, Message, Submission

__all__ = [
    "AsyncClient",
    "AsyncRegistry",
    "AsyncWatch",
    "BatchLimits",
    "Client",
    "ClientClosed",
    "CursorExpired",
    "Deadlines",
    "Event",
    "FieldViolation",
    "InsecureAddressError",
    "ListMessagesRequest",
    "LongwaveError",
    "Message",
    "NotFound",
    "PermissionDenied",
    "Refused",
    "Registry",
    "RetryPolicy",
    "Seams",
    "Submission",
    "SubmitResult",
    "Throttled",
    "Tls",
    "Unauthenticated",
    "Unavailable",
    "Watch",
    "WindowFull",
]
