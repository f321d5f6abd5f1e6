"""Traces: what stages and calls did with the messages that are sampled, as spans on their way to a collector.

It sends nothing (`engine/traces_otlp.py` does) and is made only where `LONGWAVE_TRACES_ENDPOINT` is set: a stage asks
`meter.traces` once a batch, and finds None.

A stage passes a batch; each sampled message of it gets a span in its own trace, below the root that its id names. No
context goes along with a message, through memory, stores and other nodes: there is none to be lost.

Invariants: nothing here waits or raises for a collector's sake; no attribute holds a text, a number or a key; spans of
one pass are bounded (`PASS_SPANS_MAX`), those that wait to be sent too, and what is left out is counted.
"""

from __future__ import annotations

import random
from enum import IntEnum
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol, TypeVar

from engine import _core
from engine.http_exchange import Phase
from engine.trace_context import Sampling, SpanContext, root_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from engine.clock import Clock
    from engine.http_client import Exchange, Origin

Value = str | int | float | bool
_T = TypeVar("_T")

# Of one pass of a stage: at a ratio of 1 a group of 5,000 would make 15,000 spans at once, in the loop's time.
PASS_SPANS_MAX: Final = 100
# Ids begin with the milliseconds since 2024 (`rust_core/src/ids.rs`).
_ID_EPOCH_US: Final = 1_704_067_200_000_000
_ID_SHIFT: Final = 22
_HTTP_ERROR: Final = 400
_SPAN_BITS: Final = 64
_TRACE_BITS: Final = 128
# Names spans; seeded by the system, so that nodes do not name alike. No secret.
_chance: Final = random.Random()  # noqa: S311


class Kind(IntEnum):
    """As OpenTelemetry's SDK numbers them."""

    INTERNAL = 0
    SERVER = 1
    CLIENT = 2
    PRODUCER = 3
    CONSUMER = 4


class Span(NamedTuple):
    """One that has ended."""

    name: str
    kind: Kind
    context: SpanContext
    parent: SpanContext | None
    began_us: int
    """Wall clock, as `ended_us`."""
    ended_us: int
    attributes: Mapping[str, Value]
    links: Sequence[SpanContext]
    failed: bool


class Sender(Protocol):
    """Where ended spans go."""

    def put(self, span: Span) -> None:
        """Take one; never waits."""

    def left_out(self, spans: int) -> None:
        """So many were not made."""


class Traces:
    """Makes spans; used on the loop's thread only."""

    def __init__(self, sender: Sender, clock: Clock, *, ratio: float, parent_based: bool, store: str) -> None:
        """Of a share `ratio` of messages and of calls; of a call its caller decides, where `parent_based`.

        `store` is the kind of store: sqlite or mysql.
        """
        self._sender = sender
        self._clock = clock
        self._sampling = Sampling(ratio)
        self._ratio = ratio
        self._parent_based = parent_based
        self._store = store

    # What calls ask.

    def begins(self, parent: SpanContext | None) -> SpanContext | None:
        """The context of a call's span, below its caller's; None where the call is not traced."""
        by_caller = parent if self._parent_based else None
        if not (_chance.random() < self._ratio if by_caller is None else by_caller.sampled):
            return None
        trace_id = _chance.getrandbits(_TRACE_BITS) if parent is None else parent.trace_id
        return SpanContext(trace_id or 1, new_span_id(), sampled=True)

    def now_us(self) -> int:
        """Wall clock."""
        return self._clock.now_us()

    def put(self, span: Span) -> None:
        """Take a span that has ended."""
        self._sender.put(span)

    def picked(self, messages: Iterable[int]) -> Sequence[int]:
        """Those of these that are traced."""
        return self._sampling.picked(messages)

    # What stages tell.

    def accepted(self, messages: Sequence[int], began_us: int, judged_us: int) -> str | None:
        """A group was judged and stored; times on the boot clock. Returns a trace for an exemplar, or None."""
        ended_us, boot_us = self._clock.now_us(), self._clock.mono_us()
        picked = self._bounded(self._sampling.picked(messages))
        group = len(messages)
        at_us, stored_us = ended_us - (boot_us - began_us), ended_us - (boot_us - judged_us)
        for message in picked:
            root = root_of(message)
            told = _about(message, group)
            self._sender.put(Span("message", Kind.CONSUMER, root, None, at_us, ended_us, told, (), failed=False))
            self._put_below(root, "admit", Kind.INTERNAL, at_us, stored_us, told)
            told = told | {
                "db.system.name": self._store,
                "db.operation.name": "append",
                "db.operation.batch.size": group,
            }
            self._put_below(root, "append", Kind.CLIENT, stored_us, ended_us, told)
        return root_of(picked[0]).trace_hex if picked else None

    def passed(self, stage: str, messages: Sequence[int], began_us: int, **more: Value) -> str | None:
        """A stage passed a batch since then, on the boot clock. Returns a trace for an exemplar, or None."""
        picked = self._bounded(self._sampling.picked(messages))
        if not picked:
            return None
        ended_us = self._clock.now_us()
        at_us = ended_us - (self._clock.mono_us() - began_us)
        named = {f"longwave.{name}": value for name, value in more.items()}
        for message in picked:
            told = _about(message, len(messages)) | named
            told["longwave.age_ms"] = max(0, (at_us - accepted_us(message)) // 1000)
            self._put_below(root_of(message), stage, Kind.INTERNAL, at_us, ended_us, told)
        return root_of(picked[0]).trace_hex

    def exchanged(self, origin: Origin, provider: str, exchanges: Sequence[Exchange]) -> None:
        """A provider answered these attempts, or did not."""
        ended_us = self._clock.now_us()
        traced = [
            (exchange, request)
            for exchange in exchanges
            if isinstance(request := exchange.request, _core.Request) and self._sampling.has(request.id)
        ]
        for exchange, request in self._bounded(traced):
            told: dict[str, Value] = {
                "messaging.message.id": _core.short_id(request.id),
                "longwave.provider": provider,
                "longwave.attempt": request.attempt,
                "http.request.method": "POST",
                "server.address": origin.host,
                "server.port": origin.port,
            }
            answered = exchange.phase is Phase.ANSWERED
            failed = not answered or exchange.status >= _HTTP_ERROR
            if answered:
                told["http.response.status_code"] = exchange.status
            if failed:
                told["error.type"] = str(exchange.status) if answered else exchange.phase.name.lower()
            began_us = ended_us - exchange.elapsed_us
            self._put_below(root_of(request.id), "POST", Kind.CLIENT, began_us, ended_us, told, failed=failed)

    def received(self, route: str, receipts: Iterable[tuple[int, int]], status: int) -> None:
        """Webhooks were answered: (message, when it came on the wall clock) of each."""
        ended_us = self._clock.now_us()
        traced = [(message, came_us) for message, came_us in receipts if self._sampling.has(message)]
        for message, came_us in self._bounded(traced):
            told: dict[str, Value] = {
                "messaging.message.id": _core.short_id(message),
                "http.request.method": "POST",
                "http.route": route,
                "http.response.status_code": status,
            }
            self._put_below(root_of(message), f"POST {route}", Kind.SERVER, came_us, ended_us, told)

    def _bounded(self, traced: Sequence[_T]) -> Sequence[_T]:
        if len(traced) > PASS_SPANS_MAX:
            self._sender.left_out(len(traced) - PASS_SPANS_MAX)
        return traced[:PASS_SPANS_MAX]

    def _put_below(
        self,
        root: SpanContext,
        name: str,
        kind: Kind,
        began_us: int,
        ended_us: int,
        attributes: Mapping[str, Value],
        *,
        failed: bool = False,
    ) -> None:
        context = SpanContext(root.trace_id, new_span_id(), sampled=True)
        self._sender.put(Span(name, kind, context, root, began_us, ended_us, attributes, (), failed))


def new_span_id() -> int:
    """Never 0, which stands for none."""
    return _chance.getrandbits(_SPAN_BITS) or 1


def accepted_us(message: int) -> int:
    """When a message was accepted, as its id says to the millisecond."""
    return _ID_EPOCH_US + (message >> _ID_SHIFT) * 1000


def _about(message: int, batch: int) -> dict[str, Value]:
    return {
        "messaging.system": "longwave",
        "messaging.message.id": _core.short_id(message),
        "messaging.batch.message_count": batch,
    }
