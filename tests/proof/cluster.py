"""Nodes over one MariaDB under load, killed, stopped, frozen and added at random; then heal, wait, check, report.

    python -m tests.proof.cluster --minutes 1 --seed 1

Writes `report.json` and `report.md` into `--folder` (var/cluster); exit code 0 when every promise held, 1 when not.
What the run left behind lies beside them. Times are those of `tests/cluster/cluster_harness.py`: a lease lasts 3 s.
"""

import argparse
import asyncio
import json
import shutil
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Final

from tests.cluster.cluster_harness import LEASE_S, TAKE_OVER_S, ClusterRun, Node, cluster_run
from tests.corridor.crash_harness import Options, Summary
from tests.servers.mariadb import MariaDB, quick_folder

NODES: Final = 3
ENDLESS: Final = 10_000_000
# Between two faults: long enough for work to flow, short beside a run of a minute.
CALM_S: Final = (2.0, 5.0)
FAULTS: Final = ("kill the owner", "kill another", "stop the owner", "freeze the owner", "add a node")
# How often each is drawn.
WEIGHTS: Final = (4, 2, 2, 1, 2)


async def befall(run: ClusterRun, fault: str) -> None:
    """One fault, and what a supervisor does about it."""
    owner = await run.until_owner()
    others = [node for node in run.nodes if node.alive and node is not owner]
    match fault:
        case "kill the owner":
            await run.end_node(owner)
            await run.until_owner(but=owner)
            await run.start_node(owner)
        case "kill another":
            fallen = run.draw.choice(others)
            await run.end_node(fallen)
            await run.start_node(fallen)
        case "stop the owner":
            await run.drain_node(owner)
            await run.until_owner(but=owner)
            await run.start_node(owner)
        case "freeze the owner":
            await run.start_node(await run.freeze_owner(2 * LEASE_S))
        case "add a node":
            idle = [node for node in run.nodes if node.process is None]
            if idle:
                await run.start_node(idle[0])


async def torment(run: ClusterRun, until_s: float, faults: Counter[str]) -> None:
    """Fault after fault, while work goes on beside."""
    while time.monotonic() < until_s:
        await asyncio.sleep(run.draw.uniform(*CALM_S))
        [fault] = run.draw.choices(FAULTS, WEIGHTS)
        await befall(run, fault)
        faults[fault] += 1


async def run_for(folder: Path, minutes: float, seed: int, url: str) -> dict[str, Any]:
    """A whole run; its report."""
    # Limits bind while what waited for a takeover leaves; else as much leaves as comes, or the end would take for ever.
    options = Options(seed=seed, messages=ENDLESS, batch=20, recipients=2000, metered_per_s=60, database_url=url)
    faults: Counter[str] = Counter()
    async with cluster_run(folder, options, nodes=NODES + 1) as run:
        added: Node = run.nodes.pop()
        await run.start()
        run.nodes.append(added)
        began_s = time.monotonic()
        working = asyncio.ensure_future(run.work())
        try:
            await torment(run, began_s + minutes * 60, faults)
        finally:
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        loaded_s = time.monotonic() - began_s
        summary: Summary = await run.finish(stop_feeding=True)
        takeovers = sorted(run.takeovers)
    held = not summary.violations and (not takeovers or takeovers[-1] <= TAKE_OVER_S)
    return {
        "verdict": "every promise held" if held else "a promise broke",
        "seed": seed,
        "minutes": minutes,
        "nodes": NODES,
        "lease_s": LEASE_S,
        "faults": dict(faults),
        "accepted": summary.accepted,
        "accepted_per_s": round(summary.accepted / loaded_s, 1),
        "unknown_attempts": summary.unknown,
        "copies_beyond_the_first": summary.duplicates,
        "takeovers": len(takeovers),
        "takeover_s_median": round(takeovers[len(takeovers) // 2], 2) if takeovers else None,
        "takeover_s_worst": round(takeovers[-1], 2) if takeovers else None,
        "takeover_s_allowed": TAKE_OVER_S,
        "final": summary.final,
        "violations": [violation._asdict() for violation in summary.violations],
    }


def table(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = ["# Nodes over one store", "", f"**{report['verdict']}**", "", "| what | found |", "| --- | --- |"]
    for name, value in report.items():
        if name not in {"verdict", "violations"}:
            shown = ", ".join(f"{key} {count}" for key, count in value.items()) if isinstance(value, dict) else value
            lines.append(f"| {name.replace('_', ' ')} | {shown} |")
    lines += [f"| violation | {v['invariant']} {v['subject']}: {v['what']} |" for v in report["violations"]]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Read the command line, run, report."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.cluster", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=1, help="of faults (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="of everything random (default: %(default)s)")
    parser.add_argument(
        "--folder", type=Path, default=Path("var/cluster"), help="for the report (default: %(default)s)"
    )
    wanted = parser.parse_args()
    folder: Path = wanted.folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    with quick_folder() as place:
        server = MariaDB(place / "server")
        server.start()
        try:
            url = server.create_database("cluster")
            report = asyncio.run(run_for(folder, wanted.minutes, wanted.seed, url))
        finally:
            server.remove()
    (folder / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(table(report), encoding="utf-8")
    sys.stdout.write(table(report))
    return 0 if report["verdict"] == "every promise held" else 1


if __name__ == "__main__":
    sys.exit(main())
