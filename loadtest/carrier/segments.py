"""Counts the parts of a text as a carrier bills them (3GPP TS 23.038 and TS 23.040).

It does not encode, replace or normalise anything, and knows no national shift tables.

Invariants: an escape pair and a surrogate pair are never split between two parts, so a part may hold 152 septets or 66
units; a text is GSM-7 as a whole or UCS-2 as a whole.
"""

import re
from typing import Final

# TS 23.038 section 6.2.1 in code order, 0x1B (escape) left out. 0x09 is the capital C with cedilla.
GSM_DEFAULT: Final = (
    "@£$¥èéùìòÇ\nØø\rÅå\u0394_\u03a6\u0393\u039b\u03a9\u03a0\u03a8\u03a3\u0398\u039eÆæßÉ"
    " !\"#¤%&'()*+,-./0123456789:;<=>?¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§"
    "¿abcdefghijklmnopqrstuvwxyzäöñüà"
)
GSM_EXTENSION: Final = "\f^{}\\[~]|€"

# (one part, each of several parts): 140 octets, less 6 octets of user data header when there are several.
GSM_UNITS: Final = (160, 153)
UCS2_UNITS: Final = (70, 67)

_GSM_TEXT: Final = re.compile("[" + re.escape(GSM_DEFAULT + GSM_EXTENSION) + "]*")
_GSM_WIDE: Final = re.compile("[" + re.escape(GSM_EXTENSION) + "]")
_UCS2_WIDE: Final = re.compile("[\U00010000-\U0010ffff]")


def is_gsm7(text: str) -> bool:
    """Say whether every character stands in the GSM 03.38 default or extension table."""
    return _GSM_TEXT.fullmatch(text) is not None


def count_parts(text: str, *, gsm7: bool) -> int:
    """Count the parts of `text`, at least 1; with `gsm7` the text must be `is_gsm7`."""
    wide = _GSM_WIDE if gsm7 else _UCS2_WIDE
    whole_units, part_units = GSM_UNITS if gsm7 else UCS2_UNITS
    length = len(text)
    wide_count = len(wide.findall(text)) if wide.search(text) else 0
    if length + wide_count <= whole_units:
        return 1
    if not wide_count:
        return -(-length // part_units)
    parts, used = 1, 0
    for character in text:
        width = 2 if wide.match(character) else 1
        if used + width > part_units:
            parts, used = parts + 1, 0
        used += width
    return parts
