"""Draws stacks as a flame graph: width is time, above is who called. It samples nothing."""

import zlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from typing import Final

from loadtest.flames.stacks import Stack
from loadtest.svg import drawing, text

WIDTH: Final = 1200.0
ROW: Final = 17.0
HEAD: Final = 30.0
# Narrower ones are left out: nobody could read them, and there are thousands.
NARROWEST: Final = 1.5
CHARACTER: Final = 6.6
SHORTEST: Final = 4


@dataclass(slots=True)
class _Node:
    samples: int = 0
    children: dict[str, "_Node"] = field(default_factory=dict)


def drawn(stacks: Iterable[Stack], title: str) -> str:
    """The flame graph as SVG; hovering over a frame names it."""
    root = _Node()
    for stack in stacks:
        root.samples += stack.samples
        node = root
        for frame in stack.frames:
            node = node.children.setdefault(frame, _Node())
            node.samples += stack.samples
    boxes: list[tuple[int, str]] = []
    if root.samples:
        _lay(root, 0.0, 0, WIDTH / root.samples, root.samples, boxes)
    depth = max((row for row, _ in boxes), default=0) + 1
    parts = [text(0, 14, f"{title}: {root.samples:,} samples")]
    return drawing(WIDTH, HEAD + depth * ROW, parts + [box for _, box in boxes])


def _lay(node: _Node, left: float, row: int, scale: float, whole: int, boxes: list[tuple[int, str]]) -> None:
    for name, child in sorted(node.children.items()):
        width = child.samples * scale
        if width >= NARROWEST:
            boxes.append((row, _box(name, left, row, width, child.samples / whole)))
            _lay(child, left, row + 1, scale, whole, boxes)
        left += width


def _box(name: str, left: float, row: int, width: float, share: float) -> str:
    top = HEAD + row * ROW
    characters = int((width - 4) / CHARACTER)
    words = name if len(name) <= characters else name[: max(0, characters - 1)] + "…"
    label = "" if characters < SHORTEST else text(left + 2, top + 12, words)
    return (
        f'<g><title>{escape(name)}: {share:.1%}</title><rect x="{left:.1f}" y="{top:.0f}" width="{width:.1f}" '
        f'height="{ROW - 1:.0f}" fill="{_colour(name)}"/>{label}</g>'
    )


def _colour(name: str) -> str:
    """The same for the same name, warm; Python's and native frames differ."""
    shade = zlib.crc32(name.encode()) % 60
    return f"hsl({20 + shade if '.py' in name else 200 + shade // 2} 70% {72 + shade % 12}%)"
