"""Seeds of three pods are clean, a seed is the same everywhere, and planted bugs of several pods are found.

Corridor, core and the MySQL store are the real ones; the server is the model that passes the stores' conformance suite
and, lock by lock, the tests of the real one (`tests/servers/test_model.py`).
"""

import asyncio
import os
import random
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, Final
from unittest import mock

import pytest

from engine.stores.mysql import shared, stages
from engine.stores.mysql.reads import MySQLReads
from engine.stores.mysql.transactions import Transaction
from engine.stores.store import Lease
from tests.proof.simulation.calm_pods import used
from tests.proof.simulation.pods_run import simulate_pods
from tests.proof.simulation.pods_world import PodsLoop, total

pytestmark = pytest.mark.timeout(600)
SEEDS: Final = range(1, 41)
AT_ONCE: Final = 40
# A bug is found within so many seeds, or the simulation is blind to it.
FIND_WITHIN: Final = 20
# Of a rate that calm pods share, by its window: a bucket runs over 26/25 of a second, or 51/50 of a longer window.
UTILISED_MIN: Final = {(120, 1): 0.95, (600, 10): 0.97}
ROOT: Final = Path(__file__).resolve().parents[3]


@pytest.mark.parametrize("start", SEEDS[::AT_ONCE])
def test_no_promise_breaks(start: int, processes: ProcessPoolExecutor) -> None:
    outcomes = list(processes.map(simulate_pods, range(start, start + AT_ONCE), chunksize=4))
    for outcome in outcomes:
        assert outcome.violations == [], f"python -m tests.proof.simulation --pods --seed {outcome.seed}"
    assert sum(outcome.messages for outcome in outcomes) > 30 * AT_ONCE
    met = total(outcome.faults for outcome in outcomes)
    assert {
        "frozen", "partitioned", "server away", "answer to COMMIT lost", "deadlock", "connection lost", "vanished",
        "gave up", "clock set", "redis flushed", "lost answer", "forged receipt",
    } <= met.keys()  # fmt: skip
    assert sum(count for fault, count in met.items() if fault.startswith("killed at ")) > AT_ONCE / 2
    assert sum(outcome.lives for outcome in outcomes) > 4 * AT_ONCE


def test_a_seed_is_the_same_in_every_process() -> None:
    def fingerprint(hash_seed: str) -> str:
        again = "from tests.proof.simulation.pods_run import simulate_pods; print(simulate_pods(5).fingerprint)"
        environment = os.environ | {"PYTHONHASHSEED": hash_seed}
        ran = subprocess.run([sys.executable, "-c", again], cwd=ROOT, env=environment, capture_output=True, check=True)
        return ran.stdout.decode().strip()

    assert fingerprint("1") == fingerprint("2")


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(1114, id="a pod lost its connection while the registry was made"),
        pytest.param(2065, id="a pod drained while the carrier did not answer what was sent before"),
        pytest.param(104, id="what expired last had not reached the subscriber"),
        pytest.param(345, id="one pod refused for an opt-out what another took a moment later"),
    ],
)
def test_what_misled_the_simulation_once_is_judged_right(seed: int) -> None:
    assert simulate_pods(seed).violations == []


def test_a_run_that_does_not_end_says_so() -> None:
    async def wait_always() -> None:
        while True:  # noqa: ASYNC110 - nothing will ever come
            await asyncio.sleep(1000)

    loop = PodsLoop(random.Random(1))  # noqa: S311 - it draws nothing
    waiting = loop.create_task(wait_always())
    with pytest.raises(RuntimeError, match="does not end"):
        loop.run_until_complete(waiting)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        loop.run_until_complete(waiting)
    loop.close()


def test_calm_pods_use_nearly_all_of_a_rate_that_they_share(processes: ProcessPoolExecutor) -> None:
    amounts, windows = zip(*UTILISED_MIN, strict=True)
    for least, share in zip(UTILISED_MIN.values(), processes.map(used, amounts, windows), strict=True):
        assert least <= share <= 1


def _no_epoch_is_checked() -> Any:
    async def held_of(_self: Transaction, holds: dict[int, int]) -> set[int]:
        return set(holds)

    return mock.patch.object(Transaction, "held_of", held_of)


def _everybodys_attempts_are_recovered() -> Any:
    """Who takes a shard over takes the open attempts of all shards for its own."""
    in_state = MySQLReads.in_state

    async def of_all(self: MySQLReads, state: int, _shards: Any = None) -> list[int]:
        return await in_state(self, state, None)

    return mock.patch.object(MySQLReads, "in_state", of_all)


def _ids_by_each_clock() -> Any:
    async def keep_order(_tx: Any, _admission: Any, _now_us: int) -> None:
        pass

    return mock.patch.object(stages, "_keep_order", keep_order)


def _cursor_over_the_inbox() -> Any:
    """What is committed late, with a lower position, is never read."""
    inbox = shared.MySQLShared.inbox

    async def behind(self: Any, without: Any, rows_max: int) -> Any:
        rows = [row for row in await inbox(self, without, rows_max) if row.position > getattr(self, "newest", 0)]
        self.newest = max([row.position for row in rows], default=getattr(self, "newest", 0))
        return rows

    return mock.patch.object(shared.MySQLShared, "inbox", behind)


def _bucket_of_ones_own() -> Any:
    """Each pod takes what it wants of a rate that all share."""

    async def lease(_self: Any, asks: Any, _registry: Any, mono_us: Any) -> list[Lease]:
        return [Lease(quota, tokens, mono_us() + 1_000_000, 0) for quota, tokens, _ in asks]

    return mock.patch.object(shared.MySQLShared, "lease", lease)


def _day_cap_of_ones_own() -> Any:
    """Of a day's cap each pod knows what it reserved itself."""

    async def reserve(_tx: Any, _dispatch: Any, _scheduler: Any) -> tuple[list[int], list[Any]]:
        return [], []

    return mock.patch.object(stages, "_reserve", reserve)


# Each with the invariants that name it, and the seed to begin with: where it was found, so that a run stays short.
PLANTED: Final = {
    "no epoch is checked": (_no_epoch_is_checked, {"I8"}, 9),
    "everybody's attempts are recovered": (_everybodys_attempts_are_recovered, {"I2", "I7", "I8"}, 2),
    "ids by each node's clock": (_ids_by_each_clock, {"I13"}, 6),
    "a cursor over the inbox": (_cursor_over_the_inbox, {"I2"}, 24),
    "a bucket for each pod": (_bucket_of_ones_own, {"I12"}, 5),
    "a day's cap for each pod": (_day_cap_of_ones_own, {"I12", "I19"}, 3),
}  # fmt: skip


def invariants_of(bug: str) -> set[str]:
    """What is found, up to the first that names the bug; in a process of its own: killed pods leave warnings."""
    plant, invariants, first = PLANTED[bug]
    found: set[str] = set()
    for seed in range(first, first + FIND_WITHIN):
        found |= {violation.invariant for violation in simulate_pods(seed, around=plant()).violations}
        if invariants & found:
            break
    return found


def test_planted_bugs_are_found(processes: ProcessPoolExecutor) -> None:
    for bug, found in zip(PLANTED, processes.map(invariants_of, PLANTED), strict=True):
        assert found & PLANTED[bug][1], f"{bug}: not found within {FIND_WITHIN} seeds, only {sorted(found)}"
