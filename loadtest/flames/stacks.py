"""Reads collapsed stacks, as py-spy writes them, and says which stage of the engine each belongs to.

A line is `frame;frame;… count`, the outermost frame first. It samples nothing and draws nothing.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

# A stage, and what its frames are known by: part of a frame's text. The innermost frame that is known decides, so that
# what the store does for a receipt is the store's.
STAGES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("store", ("engine/stores/",)),
    ("gRPC edge", ("grpc/", "cygrpc", "grpc_", "server/native", "server/grpcio_edge", "server/grpc_server")),
    ("gate, services", ("server/gate", "server/auth", "server/messaging", "server/stream", "server/patience")),
    ("append", ("engine/append", "engine/entry")),
    ("receipts in (HTTP)", ("server/webhook",)),
    ("dispatch", ("engine/dispatch", "engine/providers", "engine/breaker")),
    ("HTTP out", ("engine/http_",)),
    ("record", ("engine/record", "engine/handed", "engine/insist")),
    ("events and history", ("engine/history", "server/watch")),
    ("metrics", ("engine/meter", "engine/metrics", "prometheus_client")),
    ("rest of the engine", ("engine/", "server/")),
)
OTHER: Final = "event loop"
# Frames around everything, which tell nothing.
AROUND: Final = ("server/__main__", "server/app.py", "server/cli/")


@dataclass(frozen=True, slots=True)
class Stack:
    """Frames from the outermost on, and how many samples had them."""

    frames: tuple[str, ...]
    samples: int


def read(text: str) -> list[Stack]:
    """The stacks of a recording. Raises ValueError for a line that is none."""
    found = []
    for line in text.splitlines():
        frames, _, count = line.rpartition(" ")
        if not frames:
            message = f"no collapsed stack: {line[:60]!r}"
            raise ValueError(message)
        found.append(Stack(tuple(frames.split(";")), int(count)))
    return found


def stage_of(frames: Sequence[str]) -> str:
    """The stage of a stack: that of its innermost frame that is known."""
    for frame in reversed(frames):
        if any(mark in frame for mark in AROUND):
            break
        for stage, marks in STAGES:
            if any(mark in frame for mark in marks):
                return stage
    return OTHER


def by_stage(stacks: Iterable[Stack]) -> dict[str, int]:
    """Samples of each stage, the most first."""
    counts: Counter[str] = Counter()
    for stack in stacks:
        counts[stage_of(stack.frames)] += stack.samples
    return dict(counts.most_common())


def innermost(stacks: Iterable[Stack], most: int) -> list[tuple[str, int]]:
    """The functions that run themselves, the most samples first."""
    counts: Counter[str] = Counter()
    for stack in stacks:
        counts[stack.frames[-1]] += stack.samples
    return counts.most_common(most)
