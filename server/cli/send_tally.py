"""Counts what becomes of the lines of a run, in memory that does not grow with them.

It neither sends nor prints.
"""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from longwave.v1 import messaging_pb2 as m
from server.cli.names import enum_name

FIRST_FINAL_STATE: Final = m.MESSAGE_STATE_DELIVERED
"""States from here on are terminal; the contract's numbers say so."""
# Buckets of 2 %: a quantile is at most 2 % off, and ten years in milliseconds take 1,400 of them.
BUCKET_RATIO: Final = 1.02
FLOOR_S: Final = 1e-6


def is_final(state: int) -> bool:
    """Whether a message in this state has arrived at its end."""
    return state >= FIRST_FINAL_STATE


class Latencies:
    """A histogram of times in seconds."""

    def __init__(self) -> None:
        self._buckets: Counter[int] = Counter()

    def add(self, seconds: float, count: int = 1) -> None:
        """Note a time, `count` times."""
        self._buckets[math.ceil(math.log(max(seconds, FLOOR_S) / FLOOR_S, BUCKET_RATIO))] += count

    def quantile_s(self, share: float) -> float | None:
        """The time that `share` (0 to 1) of all are below or at, in seconds; None when there are none."""
        wanted = share * self._buckets.total()
        reached = 0
        for bucket in sorted(self._buckets):
            reached += self._buckets[bucket]
            if reached >= wanted:
                return float(FLOOR_S * BUCKET_RATIO**bucket)
        return None


@dataclass(slots=True)
class Tally:
    """The numbers of a run."""

    read: int = 0
    unreadable: int = 0
    accepted: int = 0
    segments: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """By verdict."""
    unanswered: Counter[str] = field(default_factory=Counter)
    """Perhaps accepted: no answer came. By what happened."""
    final: Counter[str] = field(default_factory=Counter)
    """By state, with its reason and code where it is not DELIVERED."""
    delivered: int = 0
    accept: Latencies = field(default_factory=Latencies)
    """From handing a batch in to its answer."""
    to_final: Latencies = field(default_factory=Latencies)
    """From handing a batch in to the sight of the final state; by the engine's clock where it was looked up."""
    seconds: float = 0.0
    """From the first line to the last answer or final state."""

    def settled(self, state: int, reason: int, code: str, seconds: float, count: int) -> None:
        """Note `count` lines whose message ended."""
        name = enum_name(m.MessageState.DESCRIPTOR, state)
        if state == m.MESSAGE_STATE_DELIVERED:
            self.delivered += count
        else:
            name = " ".join(part for part in (name, enum_name(m.Reason.DESCRIPTOR, reason), code) if part)
        self.final[name] += count
        self.to_final.add(seconds, count)

    @property
    def settled_lines(self) -> int:
        """Lines whose message has ended."""
        return self.final.total()

    @property
    def pending(self) -> int:
        """Lines accepted whose message has not ended."""
        return self.accepted - self.settled_lines

    def complete(self, *, waited: bool) -> bool:
        """Whether every line was accepted and, where that was waited for, ended."""
        answered = self.accepted == self.read
        return answered and (not waited or self.pending == 0)

    def document(self, *, waited: bool) -> dict[str, Any]:
        """All of it as JSON values; times in seconds."""
        values: dict[str, Any] = {
            "lines": self.read,
            "accepted": self.accepted,
            "segments": self.segments,
            "refused": dict(self.refused),
            "unreadable": self.unreadable,
            "unanswered": dict(self.unanswered),
            "seconds": round(self.seconds, 3),
            "lines_per_second": round(self.rate, 1),
            "accept_p50_s": _rounded(self.accept.quantile_s(0.5)),
            "accept_p99_s": _rounded(self.accept.quantile_s(0.99)),
        }
        if waited:
            values |= {
                "delivered": self.delivered,
                "final": dict(self.final),
                "not_final": self.pending,
                "final_p50_s": _rounded(self.to_final.quantile_s(0.5)),
                "final_p99_s": _rounded(self.to_final.quantile_s(0.99)),
            }
        return values

    @property
    def rate(self) -> float:
        """Lines a second, over the whole run."""
        return self.read / self.seconds if self.seconds else 0.0

    def rows(self, *, waited: bool) -> list[tuple[str, str]]:
        """All of it for people: name and value."""
        rows = [("lines", f"{self.read:,}"), ("accepted", f"{self.accepted:,}")]
        rows += [(f"refused {name}", f"{count:,}") for name, count in self.refused.most_common()]
        if self.unreadable:
            rows.append(("unreadable", f"{self.unreadable:,}"))
        rows += [(f"no answer {name}", f"{count:,}") for name, count in self.unanswered.most_common()]
        rows.append(("segments", f"{self.segments:,}"))
        if waited:
            rows += [(name.lower() if " " not in name else name, f"{n:,}") for name, n in self.final.most_common()]
            if self.pending:
                rows.append(("not final yet", f"{self.pending:,}"))
        rows.append(("rate", f"{self.rate:,.0f} lines/s over {self.seconds:.1f} s"))
        rows.append(("accept p50 / p99", _pair(self.accept)))
        if waited:
            rows.append(("final p50 / p99", _pair(self.to_final)))
        return rows


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


def _pair(latencies: Latencies) -> str:
    return " / ".join(_time(latencies.quantile_s(share)) for share in (0.5, 0.99))


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.2f} s"
