"""What the programs that measure have in common: where results and data go, and how they speak.

It measures nothing.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

from loadtest.benchmarks.children import BenchmarkError

RESULTS: Final = Path("loadtest/results")
# Ignored by version control; a folder in the system's temporary place may be memory, where an fsync proves nothing.
SCRATCH: Final = Path("var")


def add_places(parser: argparse.ArgumentParser) -> None:
    """Options for where results are written and data lies."""
    parser.add_argument(
        "--results", type=Path, help=f"where results are written (default: {RESULTS}; --quick: nowhere)"
    )
    parser.add_argument(
        "--folder", type=Path, default=SCRATCH, help="where stores lie meanwhile (default: %(default)s)"
    )


def results_of(options: argparse.Namespace) -> Path | None:
    """Where to write; None for nowhere."""
    given: Path | None = options.results
    return given or (None if options.quick else RESULTS)


def say(text: str) -> None:
    """To whoever waits."""
    sys.stderr.write(text + "\n")
    sys.stderr.flush()


def exit_code_of(name: str, work: Callable[[], None]) -> int:
    """Measure and write; returns the exit code: 0 measured, 1 something failed, 2 cannot be measured here."""
    try:
        work()
    except BenchmarkError as error:
        say(f"{name}: {error}")
        return 2
    except (OSError, ValueError, subprocess.SubprocessError, ExceptionGroup) as error:
        say(f"{name}: {type(error).__name__}: {error}")
        return 1
    return 0


def new_folder(results: Path, name: str) -> Path:
    """A new one, with a number behind its name where it is taken. Raises OSError."""
    folder, copy = results / name, 1
    while folder.exists():
        copy += 1
        folder = results / f"{name}-{copy}"
    folder.mkdir(parents=True)
    return folder
