"""Offers a rate, or looks for the knee: `python -m loadtest.openloop [--rate N | --knee N] …`, from a checkout's root.

Without `--address` it starts an engine of its own, which has the first processor for itself; the driver's processes
share the others. Each run follows a warm one. Messages are really handed in: never point it at a real carrier.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from loadtest.benchmarks import machine, report
from loadtest.benchmarks.__main__ import machine_name
from loadtest.benchmarks.children import BenchmarkError
from loadtest.benchmarks.engine_process import EDGES, OPEN, engine, pin
from loadtest.benchmarks.figures import Sheet
from loadtest.openloop import knee, steps
from loadtest.openloop.arrivals import FIXED, KINDS, POISSON, UNARY, Flow, Phase
from loadtest.openloop.driver import Came
from loadtest.openloop.team import Team, Whom, team

SCRATCH: Final = Path("var")
WARM_S: Final = 3.0
# Between two steps, so that what one left in line is not the next one's.
CALM_S: Final = 1.5
METHOD: Final = (
    "Open loop: calls of {messages} message(s) by {kind}, at {arrivals} times, from {processes} process(es) with 16 "
    "connections each, whatever the answers; a call counts from when it was due, as stored in time within "
    "{deadline_s} s. No carrier. {where}Where more than one call in a hundred left over 50 ms late, the figures are "
    "in part the driver's. The knee: the highest rate with p99 up to {p99_ms:g} ms and 99 % stored in time; "
    "a step that was missed was tried twice."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Offer and write; returns the exit code: 0 measured, 1 the driver fell behind, 2 cannot be measured here."""
    options = _options(arguments)
    flow = Flow(options.kind, options.kind, options.message_class, 1.0, options.messages)
    began, load_before, sheet, phases = datetime.now(UTC), machine.load_average(), Sheet(), list[Came]()
    try:
        SCRATCH.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix="openloop-", dir=SCRATCH) as scratch:
            hardware = machine.hardware(Path(scratch))
            for run in range(1, options.runs + 1):
                with (
                    _target(options, Path(scratch)) as (whom, cores),
                    team(whom, [flow], options.processes, cores) as ready,
                ):
                    _run(options, run, ready, sheet, phases)
        if options.results is not None:
            done = _report(options, began, load_before, hardware, sheet)
            name = f"{options.machine or machine_name(done)}-openloop-{options.kind}"
            folder = report.write(done, options.results, name)
            _write_steps(folder, phases)
            sys.stdout.write(f"written: {folder.name}\n")
    except (BenchmarkError, OSError, ValueError) as error:
        sys.stderr.write(f"openloop: {error}\n")
        return 2
    return int(options.knee is None and any(came.driver_behind for came in phases))


def _run(options: argparse.Namespace, run: int, on: Team, sheet: Sheet, phases: list[Came]) -> None:
    phase = Phase("warm", 0, options.seconds, options.arrivals, options.seed + run, options.deadline_s)
    on.run(replace(phase, seconds=WARM_S))

    def offer(rate: float) -> Came:
        time.sleep(CALM_S)
        came = on.run(replace(phase, name=f"{rate:,.0f}/s, run {run}", messages_a_second=rate))
        phases.append(came)
        sys.stdout.write(steps.line(came) + "\n")
        sys.stdout.flush()
        return came

    what = f"{options.kind} of {options.messages}, {options.arrivals}"
    if options.knee is None:
        _rate(f"{what}, {options.rate:,.0f}/s offered", offer(options.rate), sheet)
    else:
        _knee(what, options, offer, sheet)


def _rate(name: str, came: Came, sheet: Sheet) -> None:
    latencies = came.latencies()
    sheet.add(f"{name}: stored in time", "messages/s", came.stored / came.phase.seconds)
    for quantile, part in steps.QUANTILES.items():
        sheet.add(f"{name}: {quantile}", "ms", latencies.quantile_ms(part))
    sheet.add(f"{name}: driver's own delay, p99", "ms", came.lateness.quantile_ms(0.99))


def _knee(name: str, options: argparse.Namespace, offer: Callable[[float], Came], sheet: Sheet) -> None:
    found = knee.search(options.knee, knee.Bounds(options.p99_ms), offer)
    missed = "nothing was missed" if found.missed is None else f"{found.missed:,.0f}/s was {found.why}"
    sys.stdout.write(f"knee: {found.kept:,.0f} messages/s; {missed}\n")
    if found.why == knee.DRIVER:
        sys.stdout.write(
            "knee: the driver fell behind: the engine's may lie higher; give it processes, and processors of its own\n"
        )
        sheet.add(f"{name}: knee, at least (the driver fell behind)", "messages/s", found.kept)
    else:
        sheet.add(f"{name}: knee", "messages/s", found.kept)


@contextmanager
def _target(options: argparse.Namespace, scratch: Path) -> Iterator[tuple[Whom, list[int] | None]]:
    """Whom to call, and the driver's processors where the engine has one of its own."""
    if options.address is not None:
        yield Whom(options.address, options.key_file.read_text("ascii").strip(), options.campaign), None
        return
    if (profile := machine.core_profile()) != "release":
        raise BenchmarkError(f"the core was built for {profile}, whose figures mean nothing: run make setup")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:  # noqa: PLR2004 - one for each
        raise BenchmarkError("the engine and the driver need a processor each")
    with engine(scratch, {"LONGWAVE_EDGE": options.edge}) as running:
        pin(running, cores[:1])
        yield Whom(running.address, running.api_key, OPEN), cores[1:]


def _report(
    options: argparse.Namespace, began: datetime, load_before: list[float], hardware: dict[str, object], sheet: Sheet
) -> report.Report:
    plan = {
        name: getattr(options, name)
        for name in (
            "runs",
            "kind",
            "messages",
            "message_class",
            "arrivals",
            "seed",
            "seconds",
            "processes",
            "rate",
            "edge",
        )
    } | {"knee_from": options.knee, "p99_ms": options.p99_ms, "deadline_s": options.deadline_s}
    where = "The engine has the first processor, the driver the others. " if options.address is None else ""
    return report.Report(
        began=began,
        ended=datetime.now(UTC),
        command=_command(options),
        source=machine.source(Path.cwd()),
        hardware=hardware,
        versions=machine.versions(),
        plan=plan,
        methods={"openloop": METHOD.format(**plan, where=where)},
        load_before=load_before,
        load_after=machine.load_average(),
        figures=sheet.figures(),
    )


def _command(options: argparse.Namespace) -> str:
    """How to measure the same again; where an engine that runs already is, is nobody's business."""
    load = (
        f"--rate {options.rate:g}" if options.knee is None else f"--knee {options.knee:g} --p99-ms {options.p99_ms:g}"
    )
    return (
        f"python -m loadtest.openloop {load} --kind {options.kind} --messages {options.messages} "
        f"--message-class {options.message_class} --arrivals {options.arrivals} --seed {options.seed} "
        f"--seconds {options.seconds:g} --deadline-s {options.deadline_s:g} --processes {options.processes} "
        f"--runs {options.runs} --edge {options.edge}"
    )


def _write_steps(folder: Path, phases: Sequence[Came]) -> None:
    (folder / "steps.json").write_text(json.dumps(steps.as_json(phases), indent=1) + "\n", "utf-8")
    (folder / "steps.svg").write_text(steps.drawn(phases), "utf-8")
    with (folder / "results.md").open("a", encoding="utf-8") as page:
        page.write("\n".join(["\n## Phases", "", *steps.table(phases), "", "![Latency and goodput](steps.svg)", ""]))


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.openloop", description=__doc__)
    parser.add_argument("--rate", type=float, default=1_000, help="messages a second of all processes (default: 1000)")
    parser.add_argument("--knee", type=float, help="look for the knee from so many messages a second on")
    parser.add_argument("--p99-ms", type=float, default=200.0, help="of the knee (default: 200)")
    parser.add_argument("--kind", choices=KINDS, default=UNARY)
    parser.add_argument("--messages", type=int, help="of a call (default: 1 for unary, else 100)")
    parser.add_argument(
        "--message-class",
        choices=("CRITICAL", "TRANSACTIONAL", "BULK"),
        default="TRANSACTIONAL",
        help="of all messages",
    )
    parser.add_argument("--arrivals", choices=(FIXED, POISSON), default=FIXED)
    parser.add_argument("--seed", type=int, default=1, help="of Poisson arrivals; each run adds its number")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each phase (default: 10)")
    parser.add_argument("--deadline-s", type=float, default=1.0, help="of a call, from when it was due (default: 1)")
    parser.add_argument("--processes", type=int, default=2, help="of the driver (default: 2)")
    parser.add_argument("--runs", type=int, default=1, help="each with an engine of its own (default: 1)")
    parser.add_argument("--edge", choices=EDGES, default=EDGES[0], help="of the engine that it starts")
    parser.add_argument("--address", help="of an engine that runs, without TLS; wants --key-file, --campaign")
    parser.add_argument("--key-file", type=Path, help="a file with a tenant's API key")
    parser.add_argument("--campaign", help="that messages are handed in for")
    parser.add_argument("--results", type=Path, help="folder in which a new one is written (default: nowhere)")
    parser.add_argument("--machine", help="the machine's kind in the folder's name (default: its cores)")
    options = parser.parse_args(arguments)
    if options.messages is None:
        options.messages = 1 if options.kind == UNARY else 100
    if options.kind == UNARY and options.messages != 1:
        parser.error("a unary call has one message")
    if options.address is not None and (options.key_file is None or options.campaign is None):
        parser.error("--address wants --key-file and --campaign")
    if min(options.processes, options.runs, options.messages, options.seconds, options.rate, options.deadline_s) <= 0:
        parser.error("counts, rates and times are above zero")
    if options.knee is not None and options.knee <= 0:
        parser.error("--knee is above zero")
    return options


if __name__ == "__main__":
    sys.exit(main())
