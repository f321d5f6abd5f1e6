"""Calm pods with more to send than a rate that they share lets pass: how much of it they use, in virtual time.

Nothing fails, and nobody else takes the processor; statements take as long as a server in the same zone lets them.
"""

import asyncio
import contextlib
import random
from typing import Any, Final
from unittest import mock

from engine.registry.quotas import default_burst
from engine.registry.records import Scope
from tests.corridor.engine_fixture import submission
from tests.proof.simulation import pods_run, pods_world, world
from tests.proof.simulation.pods_run import LEASE_S, POD_SETTINGS, PodEngine, PodsRun
from tests.proof.simulation.pods_world import PODS
from tests.proof.simulation.run import Outcome

# One way: half a round trip between zones, and a commit.
WAY_S: Final = (0.0002, 0.002)
CONNECTIONS: Final = 64
BATCH: Final = 25
# Until shards are spread, and until what waits is more than what may leave.
SPREAD_S: Final = 3 * LEASE_S
BEFORE_S: Final = 3.0
SETTINGS: Final = POD_SETTINGS | {"in_flight_max": 64, "batch_messages_max": 100, "held_messages_max": 2000}


class CalmRun(PodsRun):
    """One rate, over one window."""

    def __init__(self, *args: Any, amount: int, window_s: int, seconds: float) -> None:
        """`amount` segments may leave in each window."""
        super().__init__(*args)
        self.kind, self.settings, self.redis = "plain", SETTINGS, False
        self.amount, self.window_s, self.seconds = amount, window_s, seconds
        self.world.healed = True
        self.used = 0.0
        """What left, of what one bucket alone lets pass."""

    async def live(self) -> Outcome:
        """Send for as long as is asked; nothing is judged but what left."""
        await self._start(0)
        await self._make_registry()

        async def limit(engine: PodEngine) -> None:
            await engine.set_quota(Scope.TENANT, "tenants/acme", self.amount, window_ms=1000 * self.window_s)

        await self.engine.ask(limit)
        for pod in range(1, PODS):
            await self._start(pod)
        await asyncio.sleep(SPREAD_S)
        rate = (self.amount - default_burst(self.amount)) / self.window_s
        await self._hand_in_more(self.amount + int(rate * (self.seconds + BEFORE_S)))
        await asyncio.sleep(BEFORE_S)
        from_us = self.world.clock.right_us()
        await asyncio.sleep(self.seconds)
        to_us = self.world.clock.right_us()
        # A segment each.
        sent = sum(from_us <= request.at_us < to_us for request in self.world.requests)
        self.used = sent / (rate * self.seconds)
        await asyncio.gather(*(self._drain(life) for life in self.world.living))
        return self._judged()

    async def _hand_in_more(self, messages: int) -> None:
        for first in range(0, messages, BATCH):
            batch = [submission(place, f"message {place}") for place in range(first, first + BATCH)]
            for place, one in enumerate(batch):
                one.campaign = f"campaigns/{self._names[place % len(self._names)]}"
            await self.engine.call(batch)


def used(amount: int, window_s: int, seconds: float = 10) -> float:
    """The share of a rate that calm pods use."""
    made: list[CalmRun] = []

    def make(seed: int, folder: Any, loop: Any, draw: random.Random) -> CalmRun:
        made.append(CalmRun(seed, folder, loop, draw, amount=amount, window_s=window_s, seconds=seconds))
        return made[0]

    with contextlib.ExitStack() as stack:
        for target, name, value in (
            (pods_world, "WAY_S", WAY_S), (world, "CONNECTIONS_MAX", CONNECTIONS), (pods_run, "PodsRun", make),
        ):  # fmt: skip
            stack.enter_context(mock.patch.object(target, name, value))
        pods_run.simulate_pods(5)
    return made[0].used
