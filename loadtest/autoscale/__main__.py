"""Records and replays: `python -m loadtest.autoscale record|replay --results FOLDER`, from a checkout's root.

`record` runs an engine under a spike, a day in minutes, and a backlog that a limit holds back, and keeps what
Prometheus would see as CSV (some 11 minutes; one of them with `--only`). `replay` plays it to an autoscaler (`--hpa`,
any file with one of autoscaling/v2) over model pods, and writes what came of it with plots.
"""

import argparse
import json
import math
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from loadtest.autoscale import plot, record, scenes, spec
from loadtest.autoscale.pods import ability_of
from loadtest.autoscale.simulate import Came
from loadtest.benchmarks import machine
from loadtest.benchmarks.children import BenchmarkError
from loadtest.locust.profiles import SWING, Profile

SCRATCH: Final = Path("var")
BASE_PER_S: Final = 80.0
SPIKE_TIMES: Final = 10.0
SPIKE_FROM_S: Final = 60.0
SPIKE_TO_S: Final = 120.0
DAY_MEAN_PER_S: Final = 130.0
RUN_S: Final = 300.0
PACED_MESSAGES: Final = 40_000
PACED_S: Final = 60.0


def _spike(at_s: float) -> float:
    return BASE_PER_S * (SPIKE_TIMES if SPIKE_FROM_S <= at_s < SPIKE_TO_S else 1.0)


def _day(at_s: float) -> float:
    return DAY_MEAN_PER_S * (1 - SWING * math.cos(2 * math.pi * at_s / RUN_S))


PROFILES: Final = {
    scenes.SPIKE: Profile(scenes.SPIKE, RUN_S, _spike, BASE_PER_S * SPIKE_TIMES),
    scenes.DAY: Profile(scenes.DAY, RUN_S, _day, DAY_MEAN_PER_S * (1 + SWING)),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Do one of the two; 2: it cannot be done here."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.autoscale", description=__doc__)
    parser.add_argument("what", choices=["record", "replay"])
    parser.add_argument("--results", type=Path, required=True, help="folder of the recordings and what comes of them")
    parser.add_argument("--only", choices=[scenes.SPIKE, scenes.DAY, scenes.PACED], help="record one of them")
    parser.add_argument("--hpa", type=Path, help="file with the autoscaler to replay to")
    parser.add_argument("--name", help="of the autoscaler, where the file has several")
    options = parser.parse_args(arguments)
    try:
        if options.what == "record":
            _record(options.results, options.only)
        elif options.hpa is None:
            parser.error("replay needs --hpa")
        else:
            _replay(options.results, spec.read(options.hpa.read_text(encoding="utf-8"), options.name))
    except (BenchmarkError, OSError, ValueError) as error:
        sys.stderr.write(f"autoscale: {error}\n")
        return 2
    return 0


def _record(results: Path, only: str | None) -> None:
    results.mkdir(parents=True, exist_ok=True)
    SCRATCH.mkdir(exist_ok=True)
    for name in (scenes.SPIKE, scenes.DAY, scenes.PACED):
        if only not in {None, name}:
            continue
        with tempfile.TemporaryDirectory(prefix="autoscale-", dir=SCRATCH) as scratch:
            folder = Path(scratch)
            if name == scenes.PACED:
                rows = record.record_paced(folder, PACED_MESSAGES, PACED_S)
            else:
                rows = record.record(folder, PROFILES[name])
            record.write(rows, results / f"{name}.csv")
            source = machine.source(Path.cwd())
            about = {
                "commit": source.commit,
                "commit_differs": source.dirty,
                "machine": machine.hardware(folder),
                "versions": machine.versions(),
                "load_average": machine.load_average(),
            }
        (results / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
        most = max(rows, key=lambda row: row.queue_length)
        sys.stdout.write(f"{name}: {len(rows)} scrapes, queue length up to {most.queue_length:g} at {most.at_s:g} s\n")


def _replay(results: Path, shipped: spec.Spec) -> None:
    rows = scenes.recordings(results)
    ability = ability_of(rows[scenes.SPIKE])
    quick = scenes.looks_back(shipped, scenes.QUICK_WINDOW_S)
    written: dict[str, Any] = {"autoscaler": shipped.name, "pod": _rounded(ability), "replays": []}
    for name in scenes.SCENES:
        runs = []
        for label, one in (("as shipped", shipped), (f"scale-up window {scenes.QUICK_WINDOW_S} s", quick)):
            came = scenes.played(name, one, rows)
            runs.append((label, came))
            written["replays"].append({"scene": name, "autoscaler": label, **_summary(came, ability)})
        (results / f"{name}.svg").write_text(plot.drawn(f"{name}: {shipped.name}", runs), encoding="utf-8")
    (results / "replays.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    for replay in written["replays"]:
        sys.stdout.write(json.dumps(replay) + "\n")


def _rounded(ability: Any) -> dict[str, float]:
    return {name: float(f"{getattr(ability, name):.3g}") for name in ability.__slots__}


def _summary(came: Came, ability: Any) -> dict[str, Any]:
    most = max(came.moments, key=lambda moment: moment.queued)
    return {
        "replicas_most": max(came.replicas),
        "replicas_at_the_end": came.replicas[-1],
        "turns": came.turns,
        "first_rise_min": _minutes(came.first_rise_s(0.0)),
        "most_waiting": round(most.queued),
        "most_waiting_min": _minutes(most.at_s),
        "drained_min": _minutes(came.drained_s(ability, 0.0)),
    }


def _minutes(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds / 60, 1)


if __name__ == "__main__":
    sys.exit(main())
