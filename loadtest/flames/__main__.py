"""Looks into an engine's processor time: `python -m loadtest.flames [--path unary …]`, from a checkout's root.

Each path is driven twice, each time with an engine of its own: once perf samples all threads, once py-spy whoever holds
Python's interpreter. Two tables and a flame graph of each path go to a folder of the day.
"""

import argparse
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from loadtest.benchmarks import machine
from loadtest.benchmarks.children import BenchmarkError
from loadtest.benchmarks.program import SCRATCH, new_folder
from loadtest.flames import components, stacks
from loadtest.flames.drawing import drawn
from loadtest.flames.paths import PATHS
from loadtest.flames.sampling import NATIVE_A_SECOND, PYTHON_A_SECOND, by_kernel, by_python, check_tools

INNERMOST_MANY: Final = 10
COMPONENTS: Final = [
    "core: signatures", "core: HTTP/2 and framing", "core: everything else",
    *(name for name, _ in components.LIBRARIES),
    *dict.fromkeys(name for name, _ in components.SYSTEM_CALLS), components.KERNEL_OTHER, components.OTHER,
]  # fmt: skip
STAGED: Final = (
    "A sample is of the stage of its innermost Python frame that is known (`loadtest/flames/stacks.py`), native code "
    "included as long as it keeps the interpreter; SQLite's steps and signatures let it go."
)
STAGES: Final = [*(name for name, _ in stacks.STAGES), stacks.OTHER]


@dataclass(frozen=True, slots=True)
class Found:
    """Of one path."""

    components: dict[str, int]
    threads: dict[str, int]
    stacks: list[stacks.Stack]


def main(arguments: Sequence[str] | None = None) -> int:
    """Sample and write; returns the exit code: 0 done, 2 cannot be done here."""
    options = _options(arguments)
    chosen: list[str] = options.path or list(PATHS)
    load_before, found = machine.load_average(), dict[str, Found]()
    try:
        _check()
        SCRATCH.mkdir(exist_ok=True)
        for name in chosen:
            found[name] = _look(name, options.seconds)
        folder = new_folder(options.results, f"{datetime.now(UTC):%Y-%m-%d}-flames")
        for name, each in found.items():
            title = f"{_first(PATHS[name].__doc__)} Who holds the interpreter"
            (folder / f"{name}.svg").write_text(drawn(each.stacks, title), "utf-8")
        (folder / "results.md").write_text(_page(found, options.seconds, load_before), "utf-8")
    except (BenchmarkError, OSError) as error:
        sys.stderr.write(f"flames: {error}\n")
        return 2
    sys.stdout.write(
        "\n".join([*_components(found), "", *_threads(found), "", *_stages(found)]) + f"\nwritten: {folder.name}\n"
    )
    return 0


def _check() -> None:
    check_tools()
    if (profile := machine.core_profile()) != "release":
        raise BenchmarkError(f"the core was built for {profile}, whose shares mean nothing: run make setup")


def _look(name: str, seconds: float) -> Found:
    texts = []
    for sampled in (by_kernel, by_python):
        sys.stderr.write(f"{name}, {sampled.__name__}\n")
        with tempfile.TemporaryDirectory(prefix="flames-", dir=SCRATCH) as scratch:
            texts.append(PATHS[name](Path(scratch), seconds, sampled))
    samples = components.read(texts[0])
    return Found(components.by_component(samples), components.by_thread(samples), stacks.read(texts[1]))


def _page(found: Mapping[str, Found], seconds: float, load_before: Sequence[float]) -> str:
    source = machine.source(Path.cwd())
    hardware = machine.hardware(SCRATCH)
    lines = [
        f"# Where the engine's processor time goes, {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "",
        f"- Commit: {source.commit}{', with changes that are in no commit' if source.dirty else ''}",
        f"- Command: `python -m loadtest.flames {' '.join(f'--path {name}' for name in found)} --seconds {seconds:g}`",
        f"- Machine: {', '.join(f'{name} {value}' for name, value in hardware.items())}",
        f"- Versions: {', '.join(f'{name} {value}' for name, value in machine.versions().items())}",
        f"- Load average before: {load_before[0]}; after: {machine.load_average()[0]} (1 minute)",
        "",
        "## What it runs in",
        "",
        f"Parts of all samples of the engine's threads by perf, {NATIVE_A_SECOND} a second of each that runs.",
        "",
        *_components(found),
        "",
        *_threads(found),
        "",
        "## For what Python runs",
        "",
        f"Parts of the samples of whoever holds the interpreter (py-spy, {PYTHON_A_SECOND} a second). {STAGED}",
        "",
        *_stages(found),
    ]
    for name, each in found.items():
        whole = max(1, sum(stack.samples for stack in each.stacks))
        lines += ["", f"## {name}", "", _first(PATHS[name].__doc__), "", f"![Flame graph]({name}.svg)", ""]
        lines += ["| holds the interpreter, innermost | part |", "| --- | ---: |"]
        lines += [
            f"| `{frame}` | {count / whole:.1%} |" for frame, count in stacks.innermost(each.stacks, INNERMOST_MANY)
        ]
    return "\n".join(lines) + "\n"


def _components(found: Mapping[str, Found]) -> list[str]:
    return _table("runs in", COMPONENTS, {name: each.components for name, each in found.items()})


def _threads(found: Mapping[str, Found]) -> list[str]:
    rows = [*components.THREADS, components.OTHER_THREADS]
    return _table("thread", rows, {name: each.threads for name, each in found.items()})


def _stages(found: Mapping[str, Found]) -> list[str]:
    return _table("stage", STAGES, {name: stacks.by_stage(each.stacks) for name, each in found.items()})


def _table(what: str, rows: Sequence[str], counts: Mapping[str, Mapping[str, int]]) -> list[str]:
    lines = [f"| {what} | {' | '.join(counts)} |", f"| --- |{' ---: |' * len(counts)}"]
    for row in rows:
        parts = [each.get(row, 0) / max(1, sum(each.values())) for each in counts.values()]
        lines.append(f"| {row} | {' | '.join(f'{part:.1%}' for part in parts)} |")
    return [*lines, f"| samples | {' | '.join(f'{sum(each.values()):,}' for each in counts.values())} |"]


def _first(words: str | None) -> str:
    return (words or "").partition("\n")[0]


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m loadtest.flames", description=__doc__)
    parser.add_argument(
        "--path", action="append", choices=list(PATHS), help="look into this; may be given several times"
    )
    parser.add_argument("--seconds", type=float, default=6.0, help="of each run, about (default: 6)")
    parser.add_argument("--results", type=Path, default=SCRATCH / "flames", help="(default: %(default)s)")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
