"""Named points at which a test may end or fail the process, set by `LONGWAVE_FAILPOINT=name:action[@n][,…]`.

Not armed (the only state outside tests), a point costs one dictionary look-up of an empty dictionary per batch.

Actions: `kill` ends the process with SIGKILL at the n-th passing (1 by default), `raise` raises `Injected`.
"""

import os
import signal
from dataclasses import dataclass
from typing import Final

from engine.errors import ConfigError

POINTS: Final = (
    "append.before_commit",
    "append.after_commit",
    "append.after_reply",
    "intent.before_commit",
    "intent.after_commit",
    "dispatch.before_bytes",
    "dispatch.bytes_left",
    "dispatch.after_bytes",
    "record.before_commit",
    "record.after_commit",
    "receipts.before_commit",
    "receipts.after_commit",
    "recover.before_commit",
    "recover.after_commit",
    "opt_out.before_commit",
    "opt_out.after_commit",
    "render.message",
)
# Passed over a server's store alone, when a day is dropped.
DAY_POINTS: Final = ("partitions.after_drop",)
# Those of a command that migrates; an engine passes none of them.
MIGRATION_POINTS: Final = ("migrate.after_backup", "migrate.after_step", "migrate.after_steps")


class Injected(Exception):  # noqa: N818 - it is what happens, not an error of ours
    """Raised at a point whose action is `raise`."""


@dataclass(slots=True)
class _Armed:
    action: str
    passings_left: int


_armed: dict[str, _Armed] = {}


def arm(specification: str) -> None:
    """Arm the points of `name:action[@n]`, comma-separated; an empty string disarms all. Raises ConfigError."""
    _armed.clear()
    known = (*POINTS, *DAY_POINTS, *MIGRATION_POINTS)
    for part in filter(None, (piece.strip() for piece in specification.split(","))):
        name, _, rest = part.partition(":")
        action, _, count = rest.partition("@")
        if name not in known or action not in {"kill", "raise"} or (count and not count.isdigit()):
            message = f"LONGWAVE_FAILPOINT: {part!r} is not NAME:kill|raise[@N] with NAME one of {', '.join(known)}"
            raise ConfigError([message])
        _armed[name] = _Armed(action, int(count or 1))


def passing(name: str) -> None:
    """Pass the point `name`: usually nothing."""
    if not _armed:
        return
    armed = _armed.get(name)
    if armed is None:
        return
    armed.passings_left -= 1
    if armed.passings_left > 0:
        return
    if armed.action == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    del _armed[name]
    raise Injected(name)
