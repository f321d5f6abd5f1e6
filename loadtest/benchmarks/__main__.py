"""Runs the benchmarks: `python -m loadtest.benchmarks [--quick]`, from the root of a checkout.

Each run takes every measurement once, each beside its ceiling, and ends what it started before the next begins. Nothing
leaves this machine. A core that was not built for release is refused.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from loadtest.benchmarks import (
    accept_batches,
    accept_batches_mysql,
    accept_edges,
    accept_sdk,
    accept_unary,
    accept_unary_native,
    core_speed,
    delivery,
    delivery_nodes,
    growth_mysql,
    look_ups,
    machine,
    report,
    restart,
    traced,
    urgent,
)
from loadtest.benchmarks.children import BenchmarkError
from loadtest.benchmarks.figures import Sheet
from loadtest.benchmarks.plan import Plan
from loadtest.benchmarks.program import add_places, exit_code_of, results_of, say

Measure = Callable[[Plan, Path, Sheet], None]

CORE: Final = "core"
NATIVE: Final = "accept-unary-native"
EDGES: Final = "accept-edges"
GROWTH: Final = "growth-mysql"
TRACED: Final = "traced"
# In this order; the engine is new for each of them.
MEASUREMENTS: Final[dict[str, tuple[str, Measure]]] = {
    "accept-batches": (accept_batches.METHOD, accept_batches.measure),
    "accept-batches-mysql": (accept_batches_mysql.METHOD, accept_batches_mysql.measure),
    "accept-unary": (accept_unary.METHOD, accept_unary.measure),
    NATIVE: (accept_unary_native.METHOD, accept_unary_native.measure),
    EDGES: (accept_edges.METHOD, accept_edges.measure),
    TRACED: (traced.METHOD, traced.measure),
    "accept-sdk": (accept_sdk.METHOD, accept_sdk.measure),
    "delivery": (delivery.METHOD, delivery.measure),
    "delivery-nodes": (delivery_nodes.METHOD, delivery_nodes.measure),
    GROWTH: (growth_mysql.METHOD, growth_mysql.measure),
    "look-ups": (look_ups.METHOD, look_ups.measure),
    "urgent": (urgent.METHOD, urgent.measure),
    "restart": (restart.METHOD, restart.measure),
    CORE: (core_speed.METHOD, core_speed.measure),
}
# Not part of a quick run: building the core's examples takes minutes, once, and h2load may not be there.
SLOW_OR_WANTING: Final = (CORE, NATIVE, EDGES, TRACED, GROWTH)
# Measured when it is named: ten million messages take a quarter of an hour and 10 GB; traces are off by default.
BY_NAME_ALONE: Final = (GROWTH, TRACED)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; returns the exit code as `program.exit_code_of` has it."""
    options = _options(arguments)
    return exit_code_of("benchmarks", lambda: _bench(options))


def _bench(options: argparse.Namespace) -> None:
    plan = _plan(options)
    chosen = options.only or usual(quick=options.quick)
    root = Path.cwd()
    _check(plan, root)
    if {NATIVE, EDGES, TRACED} & set(chosen):
        accept_unary_native.check_tools()  # now, not after a quarter of an hour
    options.folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="benchmarks-", dir=options.folder) as scratch:
        done = _measure(plan, chosen, root, Path(scratch), command(plan, chosen, quick=options.quick))
    sys.stdout.write("\n".join(report.table(done.figures)) + "\n")
    results = results_of(options)
    if results is not None:
        say(f"written: {report.write(done, results, options.machine or machine_name(done)).name}")


def usual(*, quick: bool) -> list[str]:
    """What is measured when nothing is named."""
    left_out = SLOW_OR_WANTING if quick else BY_NAME_ALONE
    return [name for name in MEASUREMENTS if name not in left_out]


def machine_name(done: report.Report) -> str:
    """A name that tells a machine's kind, never which one it is."""
    return f"{done.hardware['cores']}-core"


def _measure(plan: Plan, chosen: Sequence[str], root: Path, scratch: Path, again: str) -> report.Report:
    if CORE in chosen:
        say("building the core's examples")
        core_speed.build(root)
    began, load_before, sheet = datetime.now(UTC), machine.load_average(), Sheet()
    hardware, source = machine.hardware(scratch), machine.source(root)
    if hardware["file_system"] in machine.VOLATILE:
        raise BenchmarkError(f"the scratch folder is on {hardware['file_system']}: give --folder one on a real disk")
    for run in range(1, plan.runs + 1):
        # Every other run backwards, so that what comes late in a run does not always come late.
        for name in chosen if run % 2 else reversed(chosen):
            say(f"run {run} of {plan.runs}: {name}")
            MEASUREMENTS[name][1](plan, root if name == CORE else scratch, sheet)
    return report.Report(
        began=began,
        ended=datetime.now(UTC),
        command=again,
        source=source,
        hardware=hardware,
        versions=machine.versions(),
        plan=asdict(plan),
        methods={name: MEASUREMENTS[name][0] for name in chosen},
        load_before=load_before,
        load_after=machine.load_average(),
        figures=sheet.figures(),
    )


def command(plan: Plan, chosen: Sequence[str], *, quick: bool) -> str:
    """How to measure the same again, without the folders of this machine."""
    parts = ["python -m loadtest.benchmarks", *(["--quick"] if quick else []), f"--runs {plan.runs}"]
    if list(chosen) != usual(quick=quick):
        parts += [f"--only {name}" for name in chosen]
    counts = Plan.quick() if quick else Plan()
    if plan.backlog_messages != counts.backlog_messages:
        parts.append(f"--backlog {plan.backlog_messages}")
    if plan.restart_messages != counts.restart_messages:
        parts.append(f"--waiting {plan.restart_messages}")
    return " ".join(parts)


def _check(plan: Plan, root: Path) -> None:
    problems = plan.problems()
    if not (root / "rust_core" / "Cargo.toml").is_file():
        problems.append("run it from the root of a checkout")
    if problems:
        raise BenchmarkError("; ".join(problems))
    profile = machine.core_profile()
    if profile != "release":
        raise BenchmarkError(f"the core was built for {profile}, whose figures mean nothing: run make setup")


def _plan(options: argparse.Namespace) -> Plan:
    plan = Plan.quick() if options.quick else Plan()
    given = {"runs": options.runs, "backlog_messages": options.backlog, "restart_messages": options.waiting}
    return replace(plan, **{name: value for name, value in given.items() if value is not None})


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m loadtest.benchmarks", description="Measure Longwave on this machine."
    )
    parser.add_argument(
        "--quick", action="store_true", help="small counts, one run, without the core: shows that it works"
    )
    parser.add_argument("--runs", type=int, help="how often everything is measured (default: 3)")
    parser.add_argument(
        "--only", action="append", choices=list(MEASUREMENTS), help="measure this; may be given several times"
    )
    parser.add_argument("--backlog", type=int, help="BULK messages before the one-time passwords (default: 20,000)")
    parser.add_argument("--waiting", type=int, help="messages waiting at the restart (default: 20,000)")
    parser.add_argument("--machine", help="the machine's kind in the folder's name (default: its cores)")
    add_places(parser)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
