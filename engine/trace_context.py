"""Which messages and calls are traced, and under which ids: arithmetic on ids, and W3C's `traceparent`.

It makes no span and keeps nothing. A message has a trace of its own whose id is made from the message's: whoever meets
the message later, a receipt at another node say, knows trace and root without asking anybody (docs/decisions/0032).

Invariants: every node that has the same ratio picks the same messages, at every stage; a trace id tells nothing that
the message's id does not.
"""

import re
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from hashlib import blake2b
from typing import Final, NamedTuple

TRACEPARENT: Final = "traceparent"
# Version, trace id, span id, flags; later versions may go on behind them (W3C Trace Context, 3.2 and 4).
_TRACEPARENT: Final = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_SAMPLED: Final = 1
_FIRST_VERSION: Final = "00"
_NO_VERSION: Final = "ff"
_ID_BYTES: Final = 8
_TRACE_BYTES: Final = 16
_PERSON: Final = b"longwave message"
_ALL: Final = 1 << 64
# Odd, near 2^64 divided by the golden ratio: ids that follow each other lie evenly over all 64 bits (Knuth, 6.4).
_SPREAD: Final = 0x9E37_79B9_7F4A_7C15
_MASK: Final = _ALL - 1


class SpanContext(NamedTuple):
    """What names a span to others."""

    trace_id: int
    """128 bits."""
    span_id: int
    """64 bits."""
    sampled: bool

    @property
    def trace_hex(self) -> str:
        """As logs, exemplars and W3C write it."""
        return f"{self.trace_id:032x}"

    @property
    def span_hex(self) -> str:
        """As logs and W3C write it."""
        return f"{self.span_id:016x}"


CURRENT: Final[ContextVar[SpanContext | None]] = ContextVar("longwave_span", default=None)
"""The span in force, of the call that this task serves; for logs."""


def read_traceparent(text: str) -> SpanContext | None:
    """The caller's span; None for what is no `traceparent`, as the standard wants it: the call goes on without one."""
    found = _TRACEPARENT.fullmatch(text)
    if found is None:
        return None
    version, trace, span, flags, more = found.groups()
    if version == _NO_VERSION or (version == _FIRST_VERSION and more):
        return None
    read = SpanContext(int(trace, 16), int(span, 16), bool(int(flags, 16) & _SAMPLED))
    return read if read.trace_id and read.span_id else None


def root_of(message: int) -> SpanContext:
    """The first span of a message's trace."""
    digest = blake2b(message.to_bytes(_ID_BYTES, "big"), digest_size=_TRACE_BYTES + _ID_BYTES, person=_PERSON).digest()
    trace, span = int.from_bytes(digest[:_TRACE_BYTES], "big"), int.from_bytes(digest[_TRACE_BYTES:], "big")
    return SpanContext(trace or 1, span or 1, sampled=True)


class Sampling:
    """A share of all messages, picked by their ids."""

    def __init__(self, ratio: float) -> None:
        """From 0, none, to 1, all."""
        self._below = round(ratio * _ALL)

    def has(self, message: int) -> bool:
        """Whether this message is traced."""
        return message * _SPREAD & _MASK < self._below

    def picked(self, messages: Iterable[int]) -> Sequence[int]:
        """Those of these that are traced."""
        below = self._below
        return [message for message in messages if message * _SPREAD & _MASK < below]
