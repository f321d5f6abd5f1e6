"""Replays that are looked at: which recording, how often and how fast, and what the autoscaler may differ in.

A recorded run is of one engine and lasts minutes, so that it can be measured on a desk. Here three pods' worth of it
arrives, more slowly: a day of five minutes would ask no autoscaler anything.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from loadtest.autoscale import record
from loadtest.autoscale.pods import Ability, ability_of
from loadtest.autoscale.record import Row
from loadtest.autoscale.simulate import Came, Replay, simulate
from loadtest.autoscale.spec import Spec

SPIKE: Final = "spike"
DAY: Final = "day"
PACED: Final = "paced"
# How much longer than its recording a replay goes on: until the last pod that was added has gone again.
CALM_S: Final = 3600.0
QUICK_WINDOW_S: Final = 30


@dataclass(frozen=True, slots=True)
class Scene:
    """One replay."""

    recording: str
    times: float
    slower: float
    more_s: float


SCENES: Final[Mapping[str, Scene]] = {
    # A minute of ten times the rate becomes six, a day of five minutes four hours.
    SPIKE: Scene(SPIKE, times=3.0, slower=6.0, more_s=CALM_S),
    DAY: Scene(DAY, times=6.0, slower=48.0, more_s=0.0),
}


def recordings(folder: Path) -> dict[str, list[Row]]:
    """What was recorded."""
    return {name: record.read(folder / f"{name}.csv") for name in (SPIKE, DAY, PACED)}


def played(name: str, spec: Spec, rows: Mapping[str, Sequence[Row]], ability: Ability | None = None) -> Came:
    """A scene under an autoscaler; the pods can do what the engine of the recorded spike did."""
    scene = SCENES[name]
    of_it = rows[scene.recording]
    replay = Replay(of_it, scene.times, scene.slower)
    seconds = of_it[-1].at_s * scene.slower + scene.more_s
    return simulate(spec, ability or ability_of(rows[SPIKE]), replay.rate, seconds)


def looks_back(spec: Spec, seconds: int) -> Spec:
    """The same autoscaler with another window before it adds pods."""
    if spec.up is None:
        raise ValueError("the autoscaler has no behaviour")
    return replace(spec, up=replace(spec.up, stabilization_s=seconds))
