"""What rounds of torture came to: one line each in `rounds.jsonl`, all of them summed up in a README.md.

It runs nothing. Invariant: the README is a function of the lines, and of the counts that the simulation left beside.
"""

import json
import os
import platform
from collections import Counter
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tests.corridor.crash_harness import Summary
from tests.proof.power.append_rig import CutCounts
from tests.proof.power.torn_rig import TornCounts

ROUNDS: Final = "rounds.jsonl"
KEPT_VIOLATIONS: Final = 20
# So begins what a round says that the rig itself did not bring to its end.
NOT_FINISHED: Final = "not finished: "
# Of one round of the simulation.
SIMULATION_SEEDS: Final = 200


@dataclass
class Round:
    """What one round came to; a line of the file."""

    kind: str = ""
    seed: int = 0
    at: str = ""
    seconds: float = 0.0
    kills: int = 0
    server_kills: int = 0
    """Of the store's server."""
    cuts: int = 0
    disk_faults: int = 0
    images: int = 0
    """Disks that a cut may have left, each opened and looked into."""
    seeds: int = 0
    acknowledged: int = 0
    lost: int = 0
    phantom: int = 0
    duplicates: int = 0
    """Copies at the carrier beyond the first; each paid for by an attempt of unknown outcome."""
    unresolved: int = 0
    violations: list[str] = field(default_factory=list)
    commit: str = ""

    @property
    def finished(self) -> bool:
        """Whether the rig brought it to its end."""
        return not any(what.startswith(NOT_FINISHED) for what in self.violations)

    @property
    def broken(self) -> list[str]:
        """Promises that it found broken."""
        return [what for what in self.violations if not what.startswith(NOT_FINISHED)]

    def count(self, summary: Summary) -> None:
        """Take over what a run of the whole engine came to."""
        self.kills += summary.kills
        self.acknowledged += summary.accepted
        self.duplicates += summary.duplicates
        self.unresolved += summary.final.get("UNRESOLVED", 0)
        by_invariant = Counter(violation.invariant for violation in summary.violations)
        self.lost += by_invariant["I1"]
        self.phantom += by_invariant["I5"]
        self.violations += [f"{v.invariant} {v.subject}: {v.what}" for v in summary.violations][:KEPT_VIOLATIONS]

    def count_cuts(self, counts: CutCounts) -> None:
        """Take over what a run of the append path came to."""
        self.kills += counts.kills
        self.cuts += counts.cuts
        self.acknowledged += counts.acknowledged
        self.lost += counts.lost
        self.phantom += sum(what.startswith("I5") for what in counts.violations)
        self.violations += counts.violations[:KEPT_VIOLATIONS]
        if counts.lost or counts.altered:
            self.violations.append(f"{counts.lost} acknowledged messages lost, {counts.altered} altered")

    def count_torn(self, counts: TornCounts) -> None:
        """Take over what images of a recording came to."""
        self.images += counts.images
        self.acknowledged += counts.acknowledged
        self.lost += counts.lost
        self.phantom += sum(what.startswith("I5") for what in counts.violations)
        self.violations += counts.violations[:KEPT_VIOLATIONS]


def newest(results: Path) -> Path:
    """The folder that holds the running total; one of today where there is none."""
    folders = sorted(results.glob("*-torture"))
    return folders[-1] if folders else results / f"{datetime.now(UTC):%Y-%m-%d}-torture"


def read_rounds(results: Path) -> list[Round]:
    """All rounds counted so far."""
    path = results / ROUNDS
    if not path.exists():
        return []
    return [Round(**json.loads(line)) for line in path.read_text().splitlines()]


@dataclass(frozen=True, slots=True)
class Simulated:
    """A file of counts that the simulation wrote by itself (`python -m tests.proof.simulation --counts FILE`)."""

    folder: str
    """Dated."""
    file: str
    seeds: range
    runs: int
    lives: int
    messages: int
    virtual_s: float
    failed: tuple[int, ...]


def read_simulations(results: Path) -> list[Simulated]:
    """All of them below the folder of results."""
    found = []
    for path in sorted(results.glob("*-simulation/counts-*.json")):
        counts = json.loads(path.read_text())
        # Seeds are run in order; one that was stopped states how many it came to.
        first = int(counts["command"].rpartition(" ")[2].partition("-")[0])
        found.append(
            Simulated(
                folder=path.parent.name,
                file=path.name,
                seeds=range(first, first + counts["seeds"]),
                runs=counts["seeds"],
                lives=counts["lives"],
                messages=counts["messages"],
                virtual_s=counts["virtual_s"],
                failed=tuple(counts["failed"]),
            )
        )
    return found


def write(results: Path, found: Round) -> None:
    """Append a round and write the summary anew."""
    results.mkdir(parents=True, exist_ok=True)
    with (results / ROUNDS).open("a") as file:
        file.write(json.dumps(asdict(found)) + "\n")
    write_summary(results)


def write_summary(results: Path) -> None:
    """The summary anew, from what is there: after counts of two branches came together, say."""
    fresh = results / f".README.{os.getpid()}"
    fresh.write_text(summary_of(read_rounds(results), read_simulations(results.parent)))
    fresh.replace(results / "README.md")


COUNTED: Final = (
    "kills", "server_kills", "cuts", "disk_faults", "images", "seeds", "acknowledged", "lost", "phantom", "duplicates",
    "unresolved",
)  # fmt: skip


LEGEND: Final = (
    "`append-…`: the engine's append path alone in a process of its own. `engine-…`: `longwave serve` with carrier,",
    "sender and independent checker of I1 to I24. A kill is SIGKILL, at a random moment or at a failpoint; a cut is",
    "a power cut: the file system stops writing, then the process is killed; what was acknowledged before it counts.",
    "Disk faults are single calls (fsync, write) that fail. `engine-starved` kills for want of memory, and gives a",
    "tenth of a processor. An image is a disk as a cut may leave it, with writes lost, torn and reordered: built from",
    "a recording, and opened as at a start. Duplicates are copies at the simulated carrier under the policy `resend`;",
    "the checker demands that each is paid for by an attempt of unknown outcome. `mariadb-…`: the same engine over a",
    "MariaDB server of its own, which is killed with SIGKILL, too, with the engine alive or at the same moment.",
)


def summary_of(rounds: list[Round], simulations: list[Simulated]) -> str:
    """README.md of a results folder."""
    kinds = sorted({one.kind for one in rounds})
    head = ["kind", "rounds", *(name.replace("_", " ") for name in COUNTED), "violations", "not finished", "hours"]
    table = [_row(kind, [one for one in rounds if one.kind == kind]) for kind in kinds]
    table.append(_row("**all**", rounds))
    broken = [f"- `{replay(one)}` ({one.commit}): {one.broken[0]}" for one in rounds if one.broken]
    unfinished = [f"- `{replay(one)}` ({one.commit}): {one.violations[0]}" for one in rounds if not one.finished]
    days = Counter(one.at[:10] for one in rounds)
    return "\n".join(
        [
            "# Torture",
            "",
            "Written by `make torture HOURS=n`, anew after every round; the rounds themselves are in `rounds.jsonl`.",
            "One running total: rounds of later days are added here.",
            "",
            f"- rounds: {', '.join(f'{day}: {count:,}' for day, count in sorted(days.items()))}",
            (
                f"- machine: {os.cpu_count()} cores, {platform.system()} {platform.release().partition('-')[0]}, Python"
                f" {platform.python_version()}; ext4 in a loop file for what needs a disk to fail"
            ),
            f"- commits: {', '.join(sorted({one.commit for one in rounds}))}",
            *_headlines(rounds, simulations),
            "",
            f"| {' | '.join(head)} |",
            f"|{' --- |' * len(head)}",
            *table,
            "",
            *LEGEND,
            "",
            *(["Rounds that found something:", "", *broken, ""] if broken else []),
            *(["Rounds that this rig did not finish, which found nothing:", "", *unfinished, ""] if unfinished else []),
            *(_simulation_table(simulations) if simulations else []),
        ]
    )


def _headlines(rounds: list[Round], simulations: list[Simulated]) -> list[str]:
    """What there is to say in a sentence each."""
    at_images = [one for one in rounds if one.images]
    faults = sum(one.kills + one.server_kills + one.cuts for one in rounds)
    lost = sum(one.lost for one in rounds) - sum(one.lost for one in at_images)
    bound = f" (95 % bound by the rule of three: {3 / faults:.2g} of a loss each)" if faults and not lost else ""
    lines = [f"- {lost} acknowledged messages lost in {faults:,} kills and power cuts{bound}"]
    if at_images:
        images, gone = sum(one.images for one in at_images), sum(one.lost for one in at_images)
        lines.append(f"- {gone} lost in {images:,} images of disks after cuts that tear and reorder")
    seeds = set[int]().union(*(one.seeds for one in simulations))
    for one in rounds:
        seeds.update(range(one.seed * SIMULATION_SEEDS, one.seed * SIMULATION_SEEDS + one.seeds))
    if seeds:
        runs = sum(one.runs for one in simulations) + sum(one.seeds for one in rounds)
        lines.append(f"- {runs:,} simulated runs of {len(seeds):,} different seeds, those listed below included")
    return lines


def _simulation_table(simulations: list[Simulated]) -> list[str]:
    """The simulation's own results, which are not rounds."""
    return [
        "Simulation: the corridor in virtual time, everything drawn from a seed. What each named seed found, and that",
        "it was mended, stands in its folder.",
        "",
        "| counts | runs | lives | messages | simulated hours | seeds that found something |",
        "| --- | --- | --- | --- | --- | --- |",
        *(
            f"| [{one.folder}](../{one.folder}/README.md) `{one.file}` | {one.runs:,} | {one.lives:,} "
            f"| {one.messages:,} | {one.virtual_s / 3600:,.0f} | {', '.join(map(str, one.failed)) or 'none'} |"
            for one in simulations
        ),
        "",
    ]


def _row(name: str, rounds: list[Round]) -> str:
    sums = [sum(getattr(one, counted) for one in rounds) for counted in COUNTED]
    broken, unfinished = sum(len(one.broken) for one in rounds), sum(not one.finished for one in rounds)
    hours = sum(one.seconds for one in rounds) / 3600
    counts = " | ".join(f"{one:,}" for one in (*sums, broken, unfinished))
    return f"| {name} | {len(rounds)} | {counts} | {hours:.2f} |"


def replay(found: Round) -> str:
    """The command that runs it again."""
    return f"python -m tests.proof.torture --only {found.kind} --seed {found.seed} --rounds 1"


def line_of(found: Round) -> str:
    """For people who watch."""
    counts = ", ".join(f"{name} {getattr(found, name)}" for name in COUNTED if getattr(found, name))
    return f"{found.at} {found.kind} seed {found.seed}: {counts}; {found.seconds} s"
