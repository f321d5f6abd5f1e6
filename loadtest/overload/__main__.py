"""Draws the overload curve: `python -m loadtest.overload [--seconds 20] [--results FOLDER]`, from a checkout's root.

The engine has the first processor for itself, the driver the others: what the driver takes is not the engine's. First
the capacity is measured, then more and less of it is offered, once with shedding and once without.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final

from loadtest.benchmarks import machine
from loadtest.benchmarks.children import BenchmarkError, module_command
from loadtest.benchmarks.engine_process import EngineProcess, engine
from loadtest.benchmarks.process_costs import memory
from loadtest.overload import curve
from loadtest.overload.driver import Phase

SCRATCH: Final = Path("var")
# Times the capacity, in this order: the last shows that what was too much leaves nothing behind.
FACTORS: Final = (0.8, 1.4, 2.0, 5.0, 0.8)
CAPACITY_S: Final = 10.0
WARM_S: Final = 3.0
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
                with engine(Path(scratch), settings) as running, _driver(running, cores) as say:
                    say(Phase("warm", 0, WARM_S))
                    if not capacity:
                        capacity = _stored(say(Phase("capacity", 0, CAPACITY_S)))
                        sys.stdout.write(f"capacity: {capacity:,.0f} messages/s\n")
                    for place, factor in enumerate(FACTORS):
                        name = f"{factor:g} x" + (" again" if place and factor == FACTORS[0] else "")
                        came = say(Phase(name, factor * capacity, options.seconds))
                        rows.append(_row(mode, came, capacity, running))
                        sys.stdout.write(curve.line(rows[-1]) + "\n")
            if options.results is not None:
                _write(options.results, rows, capacity, options.seconds, Path(scratch))
    except BenchmarkError as error:
        sys.stderr.write(f"overload: {error}\n")
        return 2
    return 0


@contextmanager
def _driver(running: EngineProcess, cores: list[int]) -> Iterator[Any]:
    for thread in Path(f"/proc/{running.pid}/task").iterdir():
        os.sched_setaffinity(int(thread.name), cores[:1])
    process = subprocess.Popen(  # noqa: S603 - this interpreter and a module of ours
        module_command("loadtest.overload.driver"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    os.sched_setaffinity(process.pid, cores[1:])
    try:
        _tell(process.stdin, {"address": running.address, "key": running.api_key})

        def say(phase: Phase) -> dict[str, Any]:
            _tell(process.stdin, asdict(phase))
            line = process.stdout.readline() if process.stdout is not None else ""
            if not line:
                raise BenchmarkError("the driver ended")
            came: dict[str, Any] = json.loads(line)
            return came

        yield say
    finally:
        if process.stdin is not None:
            process.stdin.close()
        process.wait(30)


def _tell(pipe: IO[str] | None, what: dict[str, Any]) -> None:
    if pipe is not None:
        pipe.write(json.dumps(what) + "\n")
        pipe.flush()


def _stored(came: dict[str, Any]) -> float:
    seconds: float = came["phase"]["seconds"]
    total: int = sum(counted["stored"] for counted in came["classes"].values())
    return total / seconds


def _row(mode: str, came: dict[str, Any], capacity: float, running: EngineProcess) -> Row:
    phase, classes = came["phase"], came["classes"]
    stored = _stored(came)
    latencies = sorted(took for counted in classes.values() for took in counted["latencies_ms"])
    seconds = came["stored_by_second"][: int(phase["seconds"])]
    enough = 0.9 * statistics.median(seconds)
    steady = next((second for second, messages in enumerate(seconds) if messages >= enough), None) if enough else None
    return Row(
        mode=mode,
        name=phase["name"],
        offered=sum(counted["offered"] for counted in classes.values()) / phase["seconds"],
        stored=stored,
        share=stored / capacity,
        p50_ms=curve.quantile(latencies, 0.5),
        p99_ms=curve.quantile(latencies, 0.99),
        by_class={name: 100 * counted["stored"] / max(1, counted["offered"]) for name, counted in classes.items()},
        driver_late=came["driver_late"],
        driver_lost=came["driver_lost"],
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
