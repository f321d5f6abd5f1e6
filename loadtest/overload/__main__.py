"""Draws the overload curve: `python -m loadtest.overload [--seconds 20] [--results FOLDER]`, from a checkout's root.

The engine has the first processor for itself, the driver the others: what the driver takes is not the engine's. First
the capacity is measured, then more and less of it is offered, once with shedding and once without.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from loadtest.benchmarks import machine
from loadtest.benchmarks.children import BenchmarkError
from loadtest.benchmarks.engine_process import OPEN, EngineProcess, engine, pin
from loadtest.benchmarks.process_costs import memory
from loadtest.openloop.arrivals import BATCH, Flow, Phase
from loadtest.openloop.calls import LOST
from loadtest.openloop.driver import Came
from loadtest.openloop.team import Team, Whom, team
from loadtest.overload import curve

SCRATCH: Final = Path("var")
# Times the capacity, in this order: the last shows that what was too much leaves nothing behind.
FACTORS: Final = (0.8, 1.4, 2.0, 5.0, 0.8)
CAPACITY_S: Final = 10.0
WARM_S: Final = 3.0
# Of the messages, by class, and in calls of so many. Urgent ones come a few at a time.
MIX: Final = (
    Flow("CRITICAL", BATCH, "CRITICAL", 0.05, 10),
    Flow("TRANSACTIONAL", BATCH, "TRANSACTIONAL", 0.25, 200),
    Flow("BULK", BATCH, "BULK", 0.70, 500),
)
# One is enough: what it hands in are batches, and a second would share its processor.
PROCESSES: Final = 1
MODES: Final = {"shedding": {}, "no shedding": {"LONGWAVE_QUEUE_TARGET_MS": "0"}}


@dataclass(frozen=True, slots=True)
class Row:
    """One phase as the table shows it."""

    mode: str
    name: str
    offered: float
    """Messages a second."""
    stored: float
    """Messages a second that were answered within a second as stored."""
    share: float
    """Of the capacity."""
    p50_ms: float
    p99_ms: float
    """Of calls that were stored whole."""
    by_class: dict[str, float]
    """Percent of the offered that was stored in time."""
    driver_late: int
    driver_lost: int
    memory_mib: int
    steady_after_s: int | None
    """Seconds until a second stored as much as the phase's median less a tenth; None: never."""


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.overload", description=__doc__)
    parser.add_argument("--seconds", type=float, default=20.0, help="of each phase")
    parser.add_argument("--results", type=Path, help="folder to write results.json, README.md and curve.svg into")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:  # noqa: PLR2004 - one for each
        sys.stderr.write("overload: the engine and the driver need a processor each\n")
        return 2
    try:
        SCRATCH.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="overload-", dir=SCRATCH) as scratch:
            rows, capacity = [], 0.0
            for mode, settings in MODES.items():
                with engine(Path(scratch), settings) as running, _driver(running, cores) as driver:
                    driver.run(Phase("warm", 0, WARM_S))
                    if not capacity:
                        capacity = driver.run(Phase("capacity", 0, CAPACITY_S)).stored / CAPACITY_S
                        sys.stdout.write(f"capacity: {capacity:,.0f} messages/s\n")
                    for place, factor in enumerate(FACTORS):
                        name = f"{factor:g} x" + (" again" if place and factor == FACTORS[0] else "")
                        came = driver.run(Phase(name, factor * capacity, options.seconds))
                        rows.append(_row(mode, came, capacity, running))
                        sys.stdout.write(curve.line(rows[-1]) + "\n")
            if options.results is not None:
                _write(options.results, rows, capacity, options.seconds, Path(scratch))
    except BenchmarkError as error:
        sys.stderr.write(f"overload: {error}\n")
        return 2
    return 0


@contextmanager
def _driver(running: EngineProcess, cores: list[int]) -> Iterator[Team]:
    pin(running, cores[:1])
    with team(Whom(running.address, running.api_key, OPEN), MIX, PROCESSES, cores[1:]) as driver:
        yield driver


def _row(mode: str, came: Came, capacity: float, running: EngineProcess) -> Row:
    phase, latencies = came.phase, came.latencies()
    stored = came.stored / phase.seconds
    seconds = came.stored_by_second[: int(phase.seconds)]
    enough = 0.9 * statistics.median(seconds)
    steady = next((second for second, messages in enumerate(seconds) if messages >= enough), None) if enough else None
    return Row(
        mode=mode,
        name=phase.name,
        offered=came.offered / phase.seconds,
        stored=stored,
        share=stored / capacity,
        p50_ms=latencies.quantile_ms(0.5),
        p99_ms=latencies.quantile_ms(0.99),
        by_class={name: 100 * counted.stored / max(1, counted.offered) for name, counted in came.flows.items()},
        driver_late=came.late,
        driver_lost=came.codes[LOST],
        memory_mib=round(memory(running.pid).now_mib),
        steady_after_s=steady,
    )


def _write(folder: Path, rows: list[Row], capacity: float, seconds: float, scratch: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    source = machine.source(Path.cwd())
    written = {
        "at": datetime.now(tz=UTC).isoformat(timespec="seconds"),
        "commit": source.commit,
        "commit_differs": source.dirty,
        "machine": machine.hardware(scratch),
        "versions": machine.versions(),
        "seconds_a_phase": seconds,
        "capacity_messages_a_second": round(capacity),
        "rows": [asdict(row) for row in rows],
    }
    (folder / "results.json").write_text(json.dumps(written, indent=1) + "\n", encoding="utf-8")
    (folder / "curve.svg").write_text(curve.drawn(rows, capacity), encoding="utf-8")
    (folder / "table.md").write_text(curve.table(rows) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
