"""Whether a run was good enough: each promise, what was measured, yes or no. It knows nothing of Locust."""

from dataclasses import dataclass, field
from typing import Final

# Below this share of what was to be handed in, the figures are those of a slower run.
PACE_MIN: Final = 0.97


@dataclass(frozen=True, slots=True)
class Thresholds:
    """What is asked; None asks nothing."""

    p95_ms: float | None = 200.0
    """Of all calls: the operations guide's."""
    unary_p99_ms: float | None = None
    """Of unary submissions."""
    to_the_end: bool = True
    """Whether pace and errors count: a ramp goes on until they are no longer good."""


@dataclass(slots=True)
class Measured:
    """Of a whole run."""

    calls: int = 0
    errors: int = 0
    aimed: float = 0.0
    """Messages that the profile was to hand in."""
    handed_in: int = 0
    accepted: int = 0
    refused_rightly: int = 0
    """Wrong ones, refused as they must be."""
    p50_ms: float = 0.0
    p95_ms: float = 0.0
    p99_ms: float = 0.0
    unary_p99_ms: float = 0.0
    event_p99_ms: float = 0.0
    seconds: float = 0.0
    sampled: int = 0
    """Accepted messages that were looked up at the end."""
    lost: int = 0
    """Of these, unknown to the engine or not final in time; and whatever else was found missing."""
    found: dict[str, int] = field(default_factory=dict)
    """Of the sampled: how many were in which state."""


@dataclass(frozen=True, slots=True)
class Line:
    """One promise."""

    kept: bool
    promise: str
    measured: str


def judge(measured: Measured, asked: Thresholds) -> list[Line]:
    """All promises of a run."""
    lines = [
        Line(measured.calls > 0, "something was measured", f"{measured.calls:,} calls in {measured.seconds:,.0f} s"),
    ]
    if asked.to_the_end:
        lines += [
            Line(
                measured.handed_in >= PACE_MIN * measured.aimed,
                f"the pace was kept ({PACE_MIN:.0%} of the profile)",
                f"{measured.handed_in:,} of {measured.aimed:,.0f} messages",
            ),
            Line(measured.errors == 0, "no error", f"{measured.errors:,} errors"),
        ]
    if asked.p95_ms is not None:
        lines.append(
            Line(measured.p95_ms < asked.p95_ms, f"p95 of all calls < {asked.p95_ms:g} ms", f"{measured.p95_ms:g} ms")
        )
    if asked.unary_p99_ms is not None:
        promise = f"p99 of unary submissions < {asked.unary_p99_ms:g} ms"
        lines.append(Line(measured.unary_p99_ms < asked.unary_p99_ms, promise, f"{measured.unary_p99_ms:g} ms"))
    lost = f"{measured.lost:,} of {measured.accepted:,} accepted; {measured.sampled:,} looked up"
    lines.append(Line(measured.lost == 0 and (measured.sampled > 0 or not measured.accepted), "nothing lost", lost))
    return lines


def table(measured: Measured, lines: list[Line]) -> str:
    """For people."""
    width = max(len(line.promise) for line in lines)
    shown = [f"  {'yes' if line.kept else 'NO ':3}  {line.promise:{width}}  {line.measured}" for line in lines]
    figures = (
        f"  {measured.handed_in / max(measured.seconds, 1e-9):,.0f} messages/s handed in, calls p50/p95/p99 "
        f"{measured.p50_ms:g}/{measured.p95_ms:g}/{measured.p99_ms:g} ms, unary p99 {measured.unary_p99_ms:g} ms, "
        f"events p99 {measured.event_p99_ms:g} ms, refused as they must be {measured.refused_rightly:,}"
    )
    passed = all(line.kept for line in lines)
    return "\n".join([*shown, figures, f"{'PASSED' if passed else 'FAILED'}"])
