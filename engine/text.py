"""What a text costs, for tools that only count: the core's segmentation without a store.

It splits nothing and sends nothing.
"""

from engine import _core


def measure(text: str) -> tuple[str, int, int, list[str]]:
    """(encoding `GSM-7` or `UCS-2`, segments, units, characters that cost it GSM-7).

    Units are septets, escapes included, or UTF-16 units (GSM 03.38). Raises UnicodeEncodeError for a lone surrogate.
    """
    return _core.segment(text)


def smart_encode(text: str) -> str | None:
    """The text with look-alikes where that makes all of it GSM-7; None where it would not, or already is."""
    return _core.smart_encode(text)
