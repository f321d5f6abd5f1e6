"""Compares the systems: `python -m loadtest.peers [--quick] [--only NAME]`, from the root of a checkout.

Rounds are interleaved, every other backwards. Everything runs on this machine and listens on loopback alone; what was
started is ended, and all data goes with its folder. Results are written as those of `make bench`, with both tables in
`table.md`.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from loadtest.benchmarks import machine, report
from loadtest.benchmarks.children import BenchmarkError
from loadtest.benchmarks.figures import Sheet
from loadtest.benchmarks.program import add_places, exit_code_of, results_of, say
from loadtest.peers import home_made, kannel
from loadtest.peers.candidates import HOME_MADE, KANNEL, KANNEL_SPOOL, NAMES, candidates
from loadtest.peers.longwave_engine import make_store
from loadtest.peers.measure import METHODS, measure
from loadtest.peers.plan import Plan
from loadtest.peers.sink_process import sink
from loadtest.peers.table import side_by_side

MACHINE: Final = "peers"


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and write; returns the exit code as `program.exit_code_of` has it."""
    options = _options(arguments)
    return exit_code_of("peers", lambda: _compare(options))


def _compare(options: argparse.Namespace) -> None:
    plan = Plan.quick() if options.quick else Plan()
    plan = replace(plan, runs=options.runs or plan.runs)
    chosen = options.only or list(NAMES)
    versions = _check(chosen)
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="peers-", dir=options.folder) as scratch:
        done = _measure(plan, chosen, Path(scratch).resolve(), versions, command(plan, chosen, quick=options.quick))
    table = "\n".join(side_by_side(done.figures, chosen)) + "\n"
    sys.stdout.write(table)
    results = results_of(options)
    if results is not None:
        folder = report.write(done, results, MACHINE)
        (folder / "table.md").write_text(table, "utf-8")
        say(f"written: {folder.name}")


def _measure(plan: Plan, chosen: Sequence[str], scratch: Path, versions: dict[str, str], again: str) -> report.Report:
    began, load_before, sheet = datetime.now(UTC), machine.load_average(), Sheet()
    hardware, source = machine.hardware(scratch), machine.source(Path.cwd())
    if hardware["file_system"] in machine.VOLATILE:
        raise BenchmarkError(f"the scratch folder is on {hardware['file_system']}: give --folder one on a real disk")
    made = scratch / "made"
    make_store(made)
    with sink(scratch) as taking:
        compared = [candidate for candidate in candidates(plan, taking, made) if candidate.name in chosen]
        for run in range(1, plan.runs + 1):
            for candidate in compared if run % 2 else reversed(compared):
                say(f"run {run} of {plan.runs}: {candidate.name}")
                measure(candidate, plan, scratch, taking, sheet)
    return report.Report(
        began=began,
        ended=datetime.now(UTC),
        command=again,
        source=source,
        hardware=hardware,
        versions=machine.versions() | versions,
        plan=asdict(plan),
        methods=METHODS,
        load_before=load_before,
        load_after=machine.load_average(),
        figures=sheet.figures(),
    )


def _check(chosen: Sequence[str]) -> dict[str, str]:
    """Versions of the peers. Raises BenchmarkError when one cannot be run, or the core is no release."""
    if machine.core_profile() != "release":
        raise BenchmarkError("the core was not built for release: its figures mean nothing: run make setup")
    found: dict[str, str] = {}
    if {KANNEL, KANNEL_SPOOL}.intersection(chosen):
        found["kannel"] = kannel.version()
    if HOME_MADE in chosen:
        found |= {f"home-made: {name}": version for name, version in home_made.versions().items()}
    return found


def command(plan: Plan, chosen: Sequence[str], *, quick: bool) -> str:
    """How to measure the same again."""
    parts = ["python -m loadtest.peers", *(["--quick"] if quick else []), f"--runs {plan.runs}"]
    if list(chosen) != list(NAMES):
        parts += [f'--only "{name}"' for name in chosen]
    return " ".join(parts)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.peers", description="Compare Longwave on this machine.")
    parser.add_argument("--quick", action="store_true", help="small counts, one run: shows that it works")
    parser.add_argument("--runs", type=int, help="how often everything is measured (default: 3)")
    parser.add_argument("--only", action="append", choices=NAMES, help="this system; may be given several times")
    add_places(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
