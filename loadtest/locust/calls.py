"""Answered calls by how long they took, as Locust counts them: milliseconds, rounded to two digits above 100."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(slots=True)
class Calls:
    """Of one kind or of several."""

    by_ms: Counter[int] = field(default_factory=Counter)
    errors: int = 0

    @property
    def count(self) -> int:
        """Answered, rightly or not."""
        return self.by_ms.total()

    def add(self, by_ms: Mapping[int, int], errors: int) -> None:
        """Count these, too."""
        self.by_ms.update(by_ms)
        self.errors += errors

    def since(self, before: "Calls") -> "Calls":
        """Those that came after an earlier look."""
        return Calls(self.by_ms - before.by_ms, self.errors - before.errors)

    def percentile_ms(self, share: float) -> float:
        """The shortest time that this share of calls did not take longer than; 0 without a call."""
        wanted, seen = share * self.count, 0
        for took_ms in sorted(self.by_ms):
            seen += self.by_ms[took_ms]
            if seen >= wanted:
                return float(took_ms)
        return 0.0
