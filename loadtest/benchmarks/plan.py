"""How much is measured: the counts of a full and of a quick run.

It measures nothing. Every count bounds a run, and `MEASUREMENT_S_MAX` its time.
"""

from dataclasses import dataclass
from typing import Self

# One measurement of one run; beyond it something hangs and the figure would mean nothing.
MEASUREMENT_S_MAX = 900.0


@dataclass(frozen=True, slots=True)
class Plan:
    """Counts of one run; messages unless the name says otherwise."""

    runs: int = 3
    batch_messages: int = 500
    accept_messages: int = 50_000
    unary_calls: int = 10_000
    unary_callers: int = 64
    edge_calls: int = 100_000
    edge_callers: int = 256
    sdk_submissions: int = 30_000
    sdk_callers: int = 2_000
    delivery_messages: int = 20_000
    urgent_messages: int = 300
    urgent_every_ms: float = 20.0
    backlog_messages: int = 20_000
    restart_messages: int = 20_000
    lookups: int = 5_000
    growth_rows: tuple[int, ...] = (100_000, 1_000_000, 10_000_000)
    core_rounds: int = 50
    core_waiting: tuple[int, ...] = (1_000, 100_000, 1_000_000, 10_000_000)

    @classmethod
    def quick(cls) -> Self:
        """Only shows that everything works: its figures mean nothing."""
        return cls(
            runs=1,
            accept_messages=3_000,
            unary_calls=640,
            edge_calls=2_560,
            sdk_submissions=2_000,
            sdk_callers=500,
            delivery_messages=500,
            urgent_messages=20,
            backlog_messages=2_000,
            restart_messages=2_000,
            lookups=500,
            growth_rows=(2_000, 4_000),
            core_rounds=3,
            core_waiting=(1_000, 10_000),
        )

    def problems(self) -> list[str]:
        """What is wrong with the counts, a sentence each."""
        counts = {
            "runs": self.runs,
            "accept_messages": self.accept_messages,
            "delivery_messages": self.delivery_messages,
            "backlog_messages": self.backlog_messages,
            "restart_messages": self.restart_messages,
        }
        found = [f"{name} is {count}: at least 1" for name, count in counts.items() if count < 1]
        if self.accept_messages % self.batch_messages:
            found.append(f"accept_messages is {self.accept_messages}: whole batches of {self.batch_messages}")
        return found
