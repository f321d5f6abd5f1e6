"""Simulates seeds: `python -m tests.proof.simulation --seed 7` tells what happens, `--seeds 1-1000` counts.

`--pods` simulates three pods over one server instead of one engine over its file.
Exit code 1 when a promise broke; each seed that found something is printed with the command that repeats it.
"""

import argparse
import json
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from tests.proof.simulation.pods_run import simulate_pods
from tests.proof.simulation.run import Outcome, simulate


def main() -> int:
    """Run what the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.simulation", description=__doc__)
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--seed", type=int, help="one seed, everything that happens is told")
    what.add_argument("--seeds", help="A-B: these seeds, both ends included")
    parser.add_argument("--pods", action="store_true", help="several pods over one server, instead of one engine")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: %(default)s)")
    parser.add_argument("--json", action="store_true", help="print the counts as JSON")
    parser.add_argument("--counts", type=Path, help="write the counts here after every hundred seeds")
    options = parser.parse_args()
    if options.seed is not None:
        outcome = (simulate_pods if options.pods else simulate)(options.seed, verbose=print)
        _tell(outcome, options)
        print(f"seed {outcome.seed}: {outcome.messages} messages, fingerprint {outcome.fingerprint[:16]}")  # noqa: T201
        return 1 if outcome.violations else 0
    first, _, last = options.seeds.partition("-")
    counts = _many(range(int(first), int(last or first) + 1), options)
    text = json.dumps(counts, indent=1, sort_keys=True)
    print(text if options.json else _line(counts))  # noqa: T201
    return 1 if counts["violations"] else 0


def _many(seeds: range, options: argparse.Namespace) -> dict[str, Any]:
    began = time.monotonic()
    faults: Counter[str] = Counter()
    counts: dict[str, Any] = {
        "command": f"{_command(options)} --seeds {options.seeds}",
        **dict.fromkeys(("seeds", "messages", "requests", "lives", "virtual_s", "violations"), 0),
        "failed": [],
    }
    with ProcessPoolExecutor(options.jobs) as pool:
        work = simulate_pods if options.pods else simulate
        for done, outcome in enumerate(pool.map(work, seeds, chunksize=8), 1):
            for name in ("messages", "requests", "lives", "virtual_s"):
                counts[name] += getattr(outcome, name)
            counts["seeds"] = done
            counts["violations"] += len(outcome.violations)
            faults += outcome.faults
            if outcome.violations:
                counts["failed"].append(outcome.seed)
                _tell(outcome, options)
            if options.counts is not None and (done % 100 == 0 or done == len(seeds)):
                ended = counts | {"wall_s": round(time.monotonic() - began, 1), "faults": dict(faults)}
                options.counts.write_text(json.dumps(ended, indent=1, sort_keys=True) + "\n")
    return counts | {"wall_s": round(time.monotonic() - began, 1), "faults": dict(faults)}


def _command(options: argparse.Namespace) -> str:
    return f"python -m tests.proof.simulation{' --pods' * options.pods}"


def _tell(outcome: Outcome, options: argparse.Namespace) -> None:
    for violation in outcome.violations:
        print(f"seed {outcome.seed}: {violation.invariant} {violation.subject}: {violation.what}", file=sys.stderr)  # noqa: T201
    if outcome.violations:
        print(f"again: {_command(options)} --seed {outcome.seed}", file=sys.stderr)  # noqa: T201


def _line(counts: dict[str, Any]) -> str:
    hours = counts["virtual_s"] / 3600
    return (
        f"{counts['seeds']} seeds, {counts['messages']} messages, {counts['requests']} requests, "
        f"{counts['lives']} lives, "
        f"{hours:.1f} simulated hours, {sum(counts['faults'].values())} faults, {counts['violations']} violations, "
        f"{counts['wall_s']} s"
    )


if __name__ == "__main__":
    sys.exit(main())
