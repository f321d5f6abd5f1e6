"""Says what moved between two results folders: `python -m loadtest.benchmarks.compare FOLDER FOLDER`.

It measures nothing. A figure moved when both hold: the medians are further apart than the wider of the two spreads
(most less least of the runs), and no run of one lies among those of the other. Anything less is noise. A figure of a
single run has no spread, so nothing is said of it.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from loadtest.benchmarks.figures import Figure
from loadtest.benchmarks.report import shown

MOVED: Final = "moved"
NOISE: Final = "within the noise"
UNKNOWN: Final = "one run: no noise known"
ONLY: Final = "only in {}"
# What must be the same, or what moved may be that.
CONDITIONS: Final = ("hardware", "versions", "plan", "methods")


@dataclass(frozen=True, slots=True)
class Results:
    """One folder's `results.json`."""

    name: str
    commit: str
    dirty: bool
    conditions: dict[str, Mapping[str, Any]]
    figures: dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Row:
    """One figure of both."""

    name: str
    unit: str
    before: Figure | None
    after: Figure | None
    verdict: str

    @property
    def ratio(self) -> float | None:
        """Median after, of the median before."""
        if self.before is None or self.after is None or not self.before.median:
            return None
        return self.after.median / self.before.median


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and print; returns the exit code: 0 compared, 2 cannot be."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.benchmarks.compare", description=__doc__)
    parser.add_argument("before", type=Path, help="a results folder")
    parser.add_argument("after", type=Path, help="another")
    options = parser.parse_args(arguments)
    try:
        before, after = read(options.before), read(options.after)
    except (OSError, ValueError, KeyError, TypeError) as error:
        sys.stderr.write(f"compare: {type(error).__name__}: {error}\n")
        return 2
    sys.stdout.write("\n".join(as_text(before, after)) + "\n")
    return 0


def read(folder: Path) -> Results:
    """The results of a folder. Raises OSError, and ValueError, KeyError or TypeError for what is none."""
    values = json.loads((folder / "results.json").read_text("utf-8"))
    figures = [
        Figure(found["name"], found["unit"], found["wanted"], [float(sample) for sample in found["samples"]])
        for found in values["figures"]
    ]
    return Results(
        name=folder.resolve().name,
        commit=values["commit"],
        dirty=values["dirty"],
        conditions={name: values[name] for name in CONDITIONS},
        figures={figure.name: figure for figure in figures},
    )


def verdict(before: Figure, after: Figure) -> str:
    """Whether a figure moved."""
    if min(len(before.samples), len(after.samples)) == 1:
        return UNKNOWN
    spread = max(before.highest - before.lowest, after.highest - after.lowest)
    apart = after.lowest > before.highest or after.highest < before.lowest
    return MOVED if apart and abs(after.median - before.median) > spread else NOISE


def rows(before: Results, after: Results) -> list[Row]:
    """All figures of either, in the order of the first."""
    found = []
    for name in dict.fromkeys([*before.figures, *after.figures]):
        old, new = before.figures.get(name), after.figures.get(name)
        if old is not None and new is not None and old.unit == new.unit:
            found.append(Row(name, old.unit, old, new, verdict(old, new)))
            continue
        if old is not None:
            found.append(Row(name, old.unit, old, None, ONLY.format(before.name)))
        if new is not None:
            found.append(Row(name, new.unit, None, new, ONLY.format(after.name)))
    return found


def differences(before: Results, after: Results) -> list[str]:
    """Sentences about what else is not the same, so that it is not taken for the code."""
    said = [f"{one.name} was measured with changes that are in no commit." for one in (before, after) if one.dirty]
    for what in CONDITIONS:
        old, new = before.conditions[what], after.conditions[what]
        # A measurement that only one folder has is told figure by figure.
        names = old.keys() & new.keys() if what == "methods" else old.keys() | new.keys()
        # What an fsync costs is itself measured each time.
        changed = sorted(name for name in names - {"fsync_median_us"} if old.get(name) != new.get(name))
        if changed:
            said.append(f"Not the same {what}: {', '.join(changed)}. What moved may be that.")
    return said


def as_text(before: Results, after: Results) -> list[str]:
    """The comparison as Markdown, what moved first."""
    compared = rows(before, after)
    moved = [row for row in compared if row.verdict == MOVED]
    lines = [f"# {before.name} ({before.commit[:10]}) → {after.name} ({after.commit[:10]})", ""]
    lines += [f"- {sentence}" for sentence in differences(before, after)]
    both = sum(row.before is not None and row.after is not None for row in compared)
    lines += [f"- {len(moved)} of {both} figures moved beyond the noise of their runs.", ""]
    lines += ["| what | unit | before | noise | after | noise | ratio | verdict |"]
    lines += ["| --- | --- | ---: | ---: | ---: | ---: | ---: | --- |"]
    for row in [*moved, *(row for row in compared if row.verdict != MOVED)]:
        ratio = "" if row.ratio is None else f"{row.ratio:.3f}"
        cells = [row.name, row.unit, *_cells(row.before), *_cells(row.after), ratio, row.verdict]
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _cells(figure: Figure | None) -> tuple[str, str]:
    if figure is None:
        return "", ""
    spread = figure.highest - figure.lowest
    return shown(figure.median), f"{100 * spread / abs(figure.median):.1f} %" if figure.median else shown(spread)


if __name__ == "__main__":
    sys.exit(main())
