"""Who may send what from where, as the engine holds it now: the registry's picture and the consent that forbids.

It reads no store: `corridor.py` replaces the picture when the registry's version moves.
"""

from dataclasses import dataclass

from engine import _core


@dataclass(slots=True)
class Rights:
    """Written by the corridor on the loop's thread, read by every stage on the same thread."""

    registry: _core.Registry
    consent: _core.Consent
    caps: frozenset[int] = frozenset()
    """Keys of the picture's day caps."""
