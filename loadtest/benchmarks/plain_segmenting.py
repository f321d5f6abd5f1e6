"""Segmenting in plain Python, a character at a time, as it is written at first: what the core's speed is a multiple of.

It is right (the golden vectors say so) and nothing else uses it.
"""

import time
from typing import Final

from loadtest.benchmarks.figures import Sheet
from loadtest.carrier.segments import GSM_DEFAULT, GSM_EXTENSION, GSM_UNITS, UCS2_UNITS

_DEFAULT: Final = frozenset(GSM_DEFAULT)
_EXTENSION: Final = frozenset(GSM_EXTENSION)
_BASIC_PLANE_END: Final = 0xFFFF
TIMES: Final = 2_000
WANTED: Final = "≥ 100"

# The texts of rust_core/examples/text_speed.rs, by the names that it prints, with their parts.
_PLAIN: Final = "Your order is on its way and arrives today between two and four in the afternoon"
TEXTS: Final = {
    "segment, 80 GSM-7": (_PLAIN, 1),
    "segment, 80 GSM-7 with extension": (_PLAIN.replace("order", "€rder"), 1),
    "segment, 80 UCS-2": (_PLAIN.replace("order", "\u043erder"), 2),
    "segment, 328 GSM-7": (f"{_PLAIN}. " * 4, 3),
}


def count_parts(text: str) -> tuple[str, int]:
    """(`GSM-7` or `UCS-2`, parts) of a text (3GPP TS 23.038 and TS 23.040)."""
    costs = []
    for character in text:
        if character in _DEFAULT:
            costs.append(1)
        elif character in _EXTENSION:
            costs.append(2)
        else:
            break
    encoding, (whole_units, part_units) = "GSM-7", GSM_UNITS
    if len(costs) < len(text):
        encoding, (whole_units, part_units) = "UCS-2", UCS2_UNITS
        costs = [2 if ord(character) > _BASIC_PLANE_END else 1 for character in text]
    if sum(costs) <= whole_units:
        return encoding, 1
    parts, used = 1, 0
    for cost in costs:
        if used + cost > part_units:
            parts, used = parts + 1, 0
        used += cost
    return encoding, parts


def compare(core_ns: dict[str, float], sheet: Sheet) -> None:
    """Put in how long each text takes here, and how many times as long as the core's median of the same run."""
    for name, (text, _) in TEXTS.items():
        began_ns = time.perf_counter_ns()
        for _ in range(TIMES):
            count_parts(text)
        each_ns = (time.perf_counter_ns() - began_ns) / TIMES
        sheet.add(f"plain Python: {name}", "ns", each_ns)
        sheet.add(f"core: {name}: faster than plain Python", "times", each_ns / core_ns[name], wanted=WANTED)
