"""Measures the Rust core alone, by its own examples (`rust_core/examples/*_speed.rs`), one process for each.

It builds them with cargo, in release, before anything is timed.
"""

import json
import subprocess
from pathlib import Path
from typing import Final

from loadtest.benchmarks import plain_segmenting
from loadtest.benchmarks.children import BenchmarkError
from loadtest.benchmarks.figures import Sheet
from loadtest.benchmarks.plan import MEASUREMENT_S_MAX, Plan

METHOD: Final = (
    "examples of the core (release), which print the median and the best of their rounds; here the median of each run. "
    "The scheduler passes six limits a message in one of 100 lanes; batches of 500. Segmenting beside plain Python "
    "that goes character by character (loadtest/benchmarks/plain_segmenting.py), same texts, same run."
)
EXAMPLES: Final = ("admit", "text", "quota", "schedule", "settle", "telnyx")
CARGO: Final = ("cargo", "--quiet")
FLAGS: Final = ("--release", "--locked", "--offline", "--manifest-path", "rust_core/Cargo.toml")
# The first build compiles every dependency with thin LTO; two cores and a busy machine take minutes.
BUILD_S_MAX: Final = 1_800.0
# What the bars of the project ask of the core, in the same unit.
WANTED: Final = {
    "quota decision, passed": "≤ 100 (10 million/s)",
    "quota decision, refused": "≤ 100 (10 million/s)",
}


def build(root: Path) -> None:
    """Build all examples. Raises BenchmarkError with what cargo said."""
    asked = [part for name in EXAMPLES for part in ("--example", f"{name}_speed")]
    _cargo(root, ["build", *FLAGS, *asked], BUILD_S_MAX)


def measure(plan: Plan, root: Path, sheet: Sheet) -> None:
    """One run of every example."""
    for name in EXAMPLES:
        # A process for each number of waiting messages: memory that an earlier one gave back would not count again.
        sizes = [[str(waiting)] for waiting in plan.core_waiting] if name == "schedule" else [[]]
        medians: dict[str, float] = {}
        for size in sizes:
            asked = ["run", *FLAGS, "--example", f"{name}_speed", "--", str(plan.core_rounds), *size]
            for line in _cargo(root, asked, MEASUREMENT_S_MAX).splitlines():
                figure, median = take_line(line, sheet)
                medians[figure] = median
        if name == "text":
            plain_segmenting.compare(medians, sheet)


def take_line(line: str, sheet: Sheet) -> tuple[str, float]:
    """Put in what an example printed, one JSON object a line; returns it. Raises BenchmarkError for anything else."""
    try:
        shown = json.loads(line)
        name, unit, median = shown["figure"], shown["unit"], float(shown["median"])
    except (ValueError, KeyError, TypeError) as error:
        raise BenchmarkError(f"an example printed {line[:200]!r}") from error
    sheet.add(f"core: {name}", unit, median, wanted=WANTED.get(name, ""))
    return name, median


def _cargo(root: Path, arguments: list[str], seconds_max: float) -> str:
    done = subprocess.run(  # noqa: S603 - cargo, with arguments of ours
        [*CARGO, *arguments], cwd=root, capture_output=True, text=True, timeout=seconds_max, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"cargo {arguments[0]} failed:\n{done.stderr.strip()}")
    return done.stdout
