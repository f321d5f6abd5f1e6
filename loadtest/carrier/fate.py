"""Draws what becomes of a message from (seed, recipient, content, n-th copy), and which network a number belongs to.

It keeps no state, has no clock and touches no message: the same inputs give the same fate in every run, whatever the
timing, the idempotency key or the order of other messages.

Layout: one keyed BLAKE2b digest of 64 bytes is sixteen 32-bit draws; each draw has one purpose (`_DRAWS`), so that
changing one share leaves the other fates as they were.
"""

import struct
from bisect import bisect_right
from collections.abc import Sequence
from hashlib import blake2b
from itertools import accumulate
from typing import Final, Literal

from loadtest.carrier.config import Config, FailureMix, GarbageKind, RefusalMix

AnswerKind = Literal[
    "ok",
    "error",
    "throttle",
    "silence_untaken",
    "silence_taken",
    "drop_untaken",
    "drop_taken",
    "drop_midway",
    "late_error",
    "garbage",
]
# Answer kinds after which the message was not taken. Every other kind takes it.
UNTAKEN: Final[frozenset[AnswerKind]] = frozenset({"error", "throttle", "silence_untaken", "drop_untaken"})

_DRAWS: Final = struct.Struct("<16I")
_UNIT: Final = 2.0**-32
_DELIVERED: Final = FailureMix("", "delivered")


class Fate:
    """What the carrier does with one request to send. Delays are in seconds."""

    __slots__ = (
        "answer",
        "delayed",
        "duplicate",
        "early",
        "final",
        "finalized_delay_s",
        "finalized_lost",
        "forged",
        "garbage",
        "late_status",
        "latency_s",
        "receipts_faulty",
        "refusal",
        "reordered",
        "sent_delay_s",
        "sent_lost",
        "stale",
        "wrong_signature",
    )

    def __init__(self, latency_s: float, sent_delay_s: float, finalized_delay_s: float) -> None:
        """Begin with a message that goes well; `Dice.fate` changes what the draws say."""
        self.answer: AnswerKind = "ok"
        self.latency_s = latency_s
        self.refusal: RefusalMix | None = None
        self.late_status = 0
        self.receipts_faulty = False
        self.garbage: GarbageKind | None = None
        self.final = _DELIVERED
        self.sent_delay_s = sent_delay_s
        self.finalized_delay_s = finalized_delay_s
        self.sent_lost = self.finalized_lost = False
        self.duplicate = self.reordered = self.early = self.delayed = False
        self.wrong_signature = self.forged = self.stale = False

    def receipt_faults(self) -> list[str]:
        """Name the receipt faults, in a fixed order, for the record."""
        if not self.receipts_faulty:
            return []
        names = ("duplicate", "reordered", "early", "delayed", "sent_lost", "finalized_lost", "wrong_signature",
                 "forged", "stale")  # fmt: skip
        return [name for name in names if getattr(self, name)]


class Dice:
    """The draws of one configuration: thresholds are laid out once, each fate then costs one digest."""

    def __init__(self, config: Config) -> None:
        """Prepare the thresholds of `config`; a changed configuration needs a new `Dice`."""
        self._config: Final = config
        self._key: Final = blake2b(b"fate|%d" % config.seed, digest_size=32).digest()
        kinds: list[AnswerKind] = ["error", "throttle", "silence_untaken", "silence_taken", "drop_untaken",
                                   "drop_taken", "drop_midway", "late_error", "garbage"]  # fmt: skip
        self._answers: Final[list[AnswerKind]] = [*kinds, "ok"]
        self._answer_edges: Final = list(accumulate(getattr(config, f"{kind}_share") for kind in kinds))
        self._error_edges: Final = _edges([item.weight for item in config.errors])
        self._failure_edges: Final = _edges([item.weight for item in config.async_failures])
        self._carriers: Final = tuple(config.carriers)
        self._carrier_edges: Final = _edges(list(config.carriers.values()))
        self._latency_s: Final = _seconds(config.latency_min_ms, config.latency_mean_ms, config.latency_max_ms)
        self._receipt_delay_s: Final = _seconds(
            config.receipt_delay_min_ms, config.receipt_delay_mean_ms, config.receipt_delay_max_ms
        )
        self._receipts_go_well: Final = not any(
            getattr(config, f"receipt_{name}_share")
            for name in ("duplicate", "reorder", "early", "delayed", "lost", "wrong_signature", "forged", "stale")
        )

        self._all_goes_well: Final = (
            self._receipts_go_well and not self._answer_edges[-1] and not config.async_failure_share
        )

    def fate(self, to: str, content_sha256: bytes, copy: int) -> Fate:
        """Draw the fate of the `copy`-th request (from 1) with this recipient and content."""
        digest = blake2b(b"%b|%b|%d" % (to.encode(), content_sha256, copy), key=self._key).digest()
        draws = _DRAWS.unpack(digest)
        fate = Fate(
            spread(draws[0] * _UNIT, *self._latency_s),
            spread(draws[1] * _UNIT, *self._receipt_delay_s),
            spread(draws[2] * _UNIT, *self._receipt_delay_s),
        )
        if not self._all_goes_well:
            self._draw_faults(fate, [draw * _UNIT for draw in draws])
        return fate

    def _draw_faults(self, fate: Fate, draws: list[float]) -> None:
        config = self._config
        self._draw_answer(fate, draws[3], draws[4])
        if draws[5] < config.async_failure_share:
            fate.final = config.async_failures[bisect_right(self._failure_edges, draws[6])]
        if not self._receipts_go_well:
            fate.receipts_faulty = True
            fate.duplicate = draws[7] < config.receipt_duplicate_share
            fate.reordered = draws[8] < config.receipt_reorder_share
            fate.early = draws[9] < config.receipt_early_share
            fate.delayed = draws[10] < config.receipt_delayed_share
            fate.sent_lost = draws[11] < config.receipt_lost_share
            fate.finalized_lost = draws[12] < config.receipt_lost_share
            fate.wrong_signature = draws[13] < config.receipt_wrong_signature_share
            fate.forged = draws[14] < config.receipt_forged_share
            fate.stale = draws[15] < config.receipt_stale_share

    def carrier_of(self, number: str) -> str:
        """Name the network of a number; it depends on the seed, the number and the weights alone."""
        digest = blake2b(b"carrier|" + number.encode(), digest_size=4, key=self._key).digest()
        return self._carriers[bisect_right(self._carrier_edges, int.from_bytes(digest, "little") * _UNIT)]

    def _draw_answer(self, fate: Fate, kind_draw: float, choice_draw: float) -> None:
        config = self._config
        kind = fate.answer = self._answers[bisect_right(self._answer_edges, kind_draw)]
        if kind == "error":
            fate.refusal = config.errors[bisect_right(self._error_edges, choice_draw)]
        elif kind == "throttle":
            fate.refusal = RefusalMix(429, "10011")
        elif kind == "late_error":
            fate.late_status = config.late_error_statuses[int(choice_draw * len(config.late_error_statuses))]
        elif kind == "garbage":
            fate.garbage = config.garbage_kinds[int(choice_draw * len(config.garbage_kinds))]


def spread(draw: float, low: float, mean: float, high: float) -> float:
    """Map a uniform draw (0 to 1) to [low, high] with exactly this mean.

    Two uniform pieces, [low, mean] with probability (high - mean) / (high - low) and [mean, high] with the rest: the
    mean of the two middles, so weighted, is `mean`. Bounded, unlike an exponential, and needs one draw.
    """
    if high <= low:
        return low
    lower_share = (high - mean) / (high - low)
    if draw < lower_share:
        return low + (mean - low) * draw / lower_share
    return mean + (high - mean) * (draw - lower_share) / (1 - lower_share) if lower_share < 1 else high


def _seconds(*times_ms: float) -> tuple[float, ...]:
    return tuple(time_ms / 1000 for time_ms in times_ms)


def _edges(weights: Sequence[float]) -> list[float]:
    """Give the inner edges (one fewer than weights) at which a uniform draw passes from one item to the next."""
    total = sum(weights)
    return [edge / total for edge in accumulate(weights)][:-1] if weights else []
