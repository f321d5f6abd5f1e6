"""Counts instructions of the Rust core beside those accepted: `python -m loadtest.benchmarks.instructions [--accept]`.

A count hardly depends on what else the machine does, so it can fail a build where a time could not. callgrind runs
`rust_core/examples/core_instructions.rs`, whose inputs are fixed; a figure is the instructions of one of its `work`
functions, with all that it calls, an item. Says nothing of caches, waits and time: those are of `make bench`.

`loadtest/instructions.toml` has what was accepted, a table for each architecture. Fewer instructions fail as more do:
what was won is accepted, or it could be lost again unnoticed.
"""

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadtest.benchmarks.children import BenchmarkError

ACCEPTED: Final = Path("loadtest/instructions.toml")
EXAMPLE: Final = "core_instructions"
PROFILE: Final = "instructions"
MANIFEST: Final = Path("rust_core/Cargo.toml")
WORK: Final = "::work::"
BUILD_S_MAX: Final = 1_800.0
RUN_S_MAX: Final = 300.0
TOLERANCE_PERCENT: Final = 3.0
# The same source costs more or less with another compiler; beyond this it is rather the source.
OTHER_COMPILER_PERCENT: Final = 15.0
FUNCTION: Final = re.compile(r"^(c?)fn=\((\d+)\)(?: (.*))?$")
# A position (absolute, relative or the same), then the cost: of the line itself, or of the call named before it.
COST: Final = re.compile(r"^(?:[+-]?\d+|\*) (\d+)$")


@dataclass(frozen=True, slots=True)
class Counted:
    """What one architecture and compiler gave."""

    rustc: str
    per_item: dict[str, float]


def main(arguments: Sequence[str] | None = None) -> int:
    """Count and compare; returns the exit code: 0 as accepted, 1 moved, 2 cannot be counted here."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.benchmarks.instructions", description=__doc__)
    parser.add_argument("--accept", action="store_true", help=f"write what is counted into {ACCEPTED}")
    options = parser.parse_args(arguments)
    try:
        counted = count(Path.cwd())
        before = accepted(ACCEPTED.read_text("utf-8")) if ACCEPTED.exists() else {}
        if options.accept:
            ACCEPTED.write_text(as_toml(before | {platform.machine(): counted}), "utf-8")
            sys.stdout.write(f"written: {ACCEPTED}\n")
            return 0
    except (BenchmarkError, OSError, ValueError, subprocess.TimeoutExpired) as error:
        sys.stderr.write(f"instructions: {error}\n")
        return 2
    known = before.get(platform.machine())
    if known is None:
        sys.stderr.write(f"instructions: none accepted for {platform.machine()}: make bench-instructions ACCEPT=1\n")
        return 2
    lines, moved = compare(known, counted)
    sys.stdout.write("\n".join(lines) + "\n")
    if moved:
        sys.stderr.write(
            f"instructions: moved: {', '.join(moved)}. If that is meant, make bench-instructions ACCEPT=1 and say why "
            "in the commit.\n"
        )
    return int(bool(moved))


def count(root: Path) -> Counted:
    """Build the example and run it under callgrind. Raises BenchmarkError when either cannot be done."""
    if shutil.which("valgrind") is None:
        raise BenchmarkError("valgrind is missing; on Debian: apt-get install valgrind")
    flags = ["--profile", PROFILE, "--locked", "--offline", "--manifest-path", str(root / MANIFEST)]
    _run(["cargo", "build", "--quiet", *flags, "--example", EXAMPLE], BUILD_S_MAX)
    metadata = ["cargo", "metadata", "--format-version", "1", "--no-deps", "--offline", "--manifest-path"]
    target = json.loads(_run([*metadata, str(root / MANIFEST)], RUN_S_MAX))["target_directory"]
    with tempfile.TemporaryDirectory(prefix="instructions-") as folder:
        out = Path(folder) / "callgrind.out"
        program = str(Path(target) / PROFILE / "examples" / EXAMPLE)
        told = _run(["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={out}", program], RUN_S_MAX)
        costs = inclusive(out.read_text("utf-8", "replace").splitlines())
    rustc = _run(["rustc", "--version"], RUN_S_MAX).split()[1]
    return Counted(rustc, per_item(costs, told.splitlines()))


def inclusive(lines: Iterable[str]) -> dict[str, int]:
    """Instructions of each `work` function with all that it calls, from callgrind's file.

    Right for functions that do not call themselves: the costs of calls within are counted where they are made.
    """
    names: dict[str, str] = {}
    costs: dict[str, int] = {}
    current = ""
    for line in lines:
        if found := FUNCTION.match(line):
            called, number, name = found.groups()
            # A name stands where its number is first used, be that as the called one.
            if name:
                names[number] = name
            if not called:
                current = names[number]
        elif WORK in current and (cost := COST.match(line)):
            name = current.partition(WORK)[2]
            costs[name] = costs.get(name, 0) + int(cost[1])
    return costs


def per_item(costs: Mapping[str, int], told: Iterable[str]) -> dict[str, float]:
    """By the numbers of items that the example printed. Raises BenchmarkError for a function that was not seen."""
    items = {shown["function"]: int(shown["items"]) for shown in map(json.loads, told)}
    if items.keys() != costs.keys():
        raise BenchmarkError(f"counted and printed differ: {sorted(items.keys() ^ costs.keys())}")
    return {name: round(costs[name] / items[name], 1) for name in items}


def accepted(text: str) -> dict[str, Counted]:
    """Architecture → what was accepted for it. Raises ValueError for any other text."""
    tables: dict[str, Any] = tomllib.loads(text)
    return {
        architecture: Counted(table["rustc"], {name: float(value) for name, value in table["per_item"].items()})
        for architecture, table in tables.items()
    }


def as_toml(tables: Mapping[str, Counted]) -> str:
    """The file of what is accepted."""
    lines = ["# Instructions an item, counted by callgrind; written by `make bench-instructions ACCEPT=1`."]
    for architecture, counted in sorted(tables.items()):
        lines += ["", f"[{architecture}]", f'rustc = "{counted.rustc}"', "", f"[{architecture}.per_item]"]
        lines += [f"{name} = {value}" for name, value in counted.per_item.items()]
    return "\n".join(lines) + "\n"


def compare(known: Counted, counted: Counted) -> tuple[list[str], list[str]]:
    """Lines to read, and the names of what moved by more than is tolerated, came or went."""
    same = known.rustc == counted.rustc
    tolerated = TOLERANCE_PERCENT if same else OTHER_COMPILER_PERCENT
    lines = [f"rustc {counted.rustc}, accepted with {known.rustc}: {tolerated:g} % is tolerated"]
    moved = sorted(known.per_item.keys() ^ counted.per_item.keys())
    lines += [f"{name:20} {'new' if name in counted.per_item else 'gone'}" for name in moved]
    for name, value in counted.per_item.items():
        if name not in known.per_item:
            continue
        change = 100 * (value / known.per_item[name] - 1)
        verdict = "moved" if abs(change) > tolerated else "as accepted"
        moved += [name] if verdict == "moved" else []
        lines.append(f"{name:20} {known.per_item[name]:12,.1f} → {value:12,.1f}  {change:+6.2f} %  {verdict}")
    return lines, moved


def _run(command: list[str], seconds_max: float) -> str:
    # Flags that this environment gives the compiler would count, too.
    environment = {name: value for name, value in os.environ.items() if "RUSTFLAGS" not in name}
    done = subprocess.run(  # noqa: S603 - cargo, rustc and valgrind, with arguments of ours
        command, env=environment, capture_output=True, text=True, timeout=seconds_max, check=False
    )
    if done.returncode:
        raise BenchmarkError(f"{' '.join(command[:2])} failed:\n{done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())
