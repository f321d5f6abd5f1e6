"""Draws a replay: what arrives, what waits, and the pods. It computes nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from loadtest import svg
from loadtest.autoscale.simulate import Came, Moment

WIDTH: Final = 760
PANEL: Final = 150
MARGIN: Final = 70
GAP: Final = 40
PANELS: Final[Mapping[str, Callable[[Moment], float]]] = {
    "arriving, messages/s": lambda moment: moment.arriving_per_s,
    "waiting and allowed to leave": lambda moment: moment.queued,
    "replicas": lambda moment: moment.replicas,
}


def drawn(title: str, runs: Sequence[tuple[str, Came]]) -> str:
    """A panel each for arrivals, queue and replicas over minutes, a colour a run; an SVG."""
    parts = [svg.text(MARGIN, 22, title)]
    minutes = svg.from_zero([came.moments[-1].at_s / 60 for _, came in runs], MARGIN, WIDTH - 20)
    for place, (name, value_of) in enumerate(PANELS.items()):
        top = 60 + place * (PANEL + GAP)
        values = [value_of(moment) for _, came in runs for moment in came.moments]
        axis = svg.from_zero(values, top + PANEL, top)
        for tick in axis.ticks():
            parts.append(svg.rule((MARGIN, axis.at(tick)), (WIDTH - 20, axis.at(tick))))
            parts.append(svg.text(MARGIN - 8, axis.at(tick) + 4, svg.number(tick), "end"))
        parts.append(svg.text(MARGIN, top - 8, name))
        for at, (_, came) in enumerate(runs):
            points = [(minutes.at(moment.at_s / 60), axis.at(value_of(moment))) for moment in came.moments]
            parts.append(svg.path(points, svg.COLOURS[at % len(svg.COLOURS)]))
    bottom = 60 + len(PANELS) * (PANEL + GAP) - GAP
    parts += [svg.text(minutes.at(tick), bottom + 18, svg.number(tick), "middle") for tick in minutes.ticks()]
    parts.append(svg.text(WIDTH / 2, bottom + 36, "minutes", "middle"))
    for at, (label, _) in enumerate(runs):
        parts.append(svg.square(WIDTH - 330, 12 + 16 * at, svg.COLOURS[at % len(svg.COLOURS)]))
        parts.append(svg.text(WIDTH - 314, 22 + 16 * at, label))
    return svg.drawing(WIDTH, bottom + 50, parts)
