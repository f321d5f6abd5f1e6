"""One thing that `longwave doctor` looked at.

It holds no check.
"""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How it is."""

    OK = "ok"
    WARN = "warn"
    """It runs, but look at it."""
    FAIL = "fail"
    """It does not run, or breaks a promise."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found."""

    level: Level
    check: str
    """What was looked at, such as `store`."""
    found: str
    """What is the case."""
    advice: str = ""
    """What to do; empty when nothing is to be done."""
