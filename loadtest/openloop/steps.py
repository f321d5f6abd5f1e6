"""Shows the phases of a run: a line, a table, a drawing of rate over latency and goodput, JSON with whole histograms.

It measures nothing.
"""

from collections.abc import Sequence
from typing import Any, Final

from loadtest import svg
from loadtest.openloop.driver import Came

WIDTH: Final = 760
HEIGHT: Final = 420
MARGIN: Final = 64
QUANTILES: Final = {"p50": 0.5, "p99": 0.99, "p99.9": 0.999}


def line(came: Came) -> str:
    """One phase, for people who wait."""
    latencies = came.latencies()
    times = ", ".join(f"{name} {latencies.quantile_ms(part):.1f} ms" for name, part in QUANTILES.items())
    codes = ", ".join(f"{name} {calls:,}" for name, calls in sorted(came.codes.items()))
    behind = "; THE DRIVER FELL BEHIND: these figures are in part its own" if came.driver_behind else ""
    return (
        f"{came.phase.name:12} offered {came.offered / came.phase.seconds:10,.0f}/s, stored in time "
        f"{goodput(came):6.1%}, {times}; {codes}; left late {came.late:,} of {came.calls:,}, p99 "
        f"{came.lateness.quantile_ms(0.99):.1f} ms, driver busy {' '.join(f'{busy:.0%}' for busy in came.busy)}{behind}"
    )


def goodput(came: Came) -> float:
    """Of what was offered, stored in time."""
    return came.stored / came.offered if came.offered else 0.0


def table(phases: Sequence[Came]) -> list[str]:
    """All phases, as Markdown."""
    head = ["phase", "offered/s", "stored in time/s", "goodput", *(f"{name} ms" for name in QUANTILES), "left late"]
    lines = ["| " + " | ".join([*head, "driver busy"]) + " |", "| --- |" + " ---: |" * len(head)]
    for came in phases:
        seconds, latencies = came.phase.seconds, came.latencies()
        cells = [came.phase.name, f"{came.offered / seconds:,.0f}", f"{came.stored / seconds:,.0f}"]
        cells += [f"{goodput(came):.1%}", *(f"{latencies.quantile_ms(part):.1f}" for part in QUANTILES.values())]
        late = f"{came.late / max(1, came.calls):.1%}" + (" (driver behind)" if came.driver_behind else "")
        lines.append("| " + " | ".join([*cells, late, " ".join(f"{busy:.0%}" for busy in came.busy)]) + " |")
    return lines


def as_json(phases: Sequence[Came]) -> list[dict[str, Any]]:
    """All phases, with histograms that any HdrHistogram reads."""
    return [came.as_json() | {"driver_behind": came.driver_behind, "goodput": goodput(came)} for came in phases]


def drawn(phases: Sequence[Came]) -> str:
    """Offered over latency (left, powers of ten) and goodput (right); hollow where the driver fell behind."""
    at = [(came.offered / came.phase.seconds, came) for came in phases if came.offered]
    at.sort(key=lambda point: point[0])
    times = {
        name: [(rate, came.latencies().quantile_ms(part), came) for rate, came in at if came.latencies().count]
        for name, part in QUANTILES.items()
    }
    values = [ms for points in times.values() for _, ms, _ in points]
    x = svg.from_zero([rate for rate, _ in at], MARGIN, WIDTH - MARGIN)
    y = svg.by_powers(values or [1.0], HEIGHT - MARGIN, MARGIN)
    share = svg.Axis(0.0, 1.0, HEIGHT - MARGIN, MARGIN)
    parts = [svg.text(x.at(tick), HEIGHT - MARGIN + 18, svg.number(tick), "middle") for tick in x.ticks()]
    for tick in y.ticks():
        parts.append(svg.rule((MARGIN, y.at(tick)), (WIDTH - MARGIN, y.at(tick))))
        parts.append(svg.text(MARGIN - 8, y.at(tick) + 4, svg.number(tick), "end"))
    parts += [svg.text(WIDTH - MARGIN + 8, share.at(tick) + 4, f"{tick:.0%}") for tick in share.ticks()]
    parts.append(svg.text(WIDTH / 2, HEIGHT - 14, "offered, messages/s", "middle"))
    parts.append(svg.text(12, MARGIN - 14, "ms from when it was due"))
    parts.append(svg.text(WIDTH - 12, MARGIN - 14, "goodput", "end"))
    lines = {name: [(x.at(rate), y.at(ms), came) for rate, ms, came in points] for name, points in times.items()}
    lines["goodput"] = [(x.at(rate), share.at(goodput(came)), came) for rate, came in at]
    for place, (name, points) in enumerate(lines.items()):
        colour = svg.COLOURS[place]
        parts += [svg.path([(left, top) for left, top, _ in points], colour)] if points else []
        parts += [svg.dot(left, top, colour, hollow=came.driver_behind) for left, top, came in points]
        parts.append(svg.square(MARGIN + 130 * place, 14, colour))
        parts.append(svg.text(MARGIN + 130 * place + 18, 24, name))
    return svg.drawing(WIDTH, HEIGHT, parts)
