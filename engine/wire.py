"""What transports take from the core: ids out of message names, ids by time, and answers of watches as bytes.

It decides nothing and holds nothing.
"""

from collections.abc import Sequence

from engine import _core
from engine.errors import Refused, Verdict

MESSAGES = "messages/"


def message_id_of(name: str, field: str) -> int:
    """The 64-bit id in `messages/{message}`. Raises Refused INVALID_FIELD when the form is wrong."""
    identity = _core.parse_short_id(name.removeprefix(MESSAGES)) if name.startswith(MESSAGES) else None
    if identity is None:
        detail = "this names no message: write messages/ and the 13 characters that its submission returned"
        raise Refused(Verdict.INVALID_FIELD, detail, field=field)
    return identity


def watch_response(rows: Sequence[bytes], cursor: str, campaigns: Sequence[str]) -> bytes:
    """An encoded `WatchEventsResponse` of log rows; with campaigns, only their events."""
    return _core.watch_response(rows, cursor, campaigns)
