"""Fates come from the seed alone."""

import itertools
from statistics import fmean
from typing import TYPE_CHECKING, Any

import pytest

from loadtest.carrier.config import Config, parse_config
from loadtest.carrier.fate import Dice, spread

if TYPE_CHECKING:
    from tests.carrier.conftest import StartBench

MIX: dict[str, Any] = {
    "error_share": 0.1,
    "throttle_share": 0.1,
    "late_error_share": 0.1,
    "garbage_share": 0.1,
    "garbage_kinds": ["html", "bad_json", "no_id"],
    "async_failure_share": 0.3,
    "receipt_duplicate_share": 0.2,
    "receipt_lost_share": 0.2,
    "receipt_wrong_signature_share": 0.1,
}


async def _fates(start_bench: "StartBench", seed: int, stride: int) -> list[tuple[object, ...]]:
    bench = await start_bench(seed=seed, **MIX)
    for position in range(60):
        # A stride without common factor with 60 visits every number, in another order; so do the keys differ.
        number = position * stride % 60
        await bench.send(text=f"text {number % 30}", key=f"{stride}-{position}")
    return sorted(
        (record["text_sha256"], record["copy"], record["outcome"], str(record["final"]), *record["receipt_faults"])
        for record in await bench.records()
    )


async def test_two_runs_of_a_seed_are_the_same_whatever_order_and_keys(start_bench: "StartBench") -> None:
    first = await _fates(start_bench, 7, 1)
    assert first == await _fates(start_bench, 7, 7)
    assert first != await _fates(start_bench, 8, 1)
    assert len({fate[2] for fate in first}) > 5


def test_shares_are_met() -> None:
    dice = Dice(parse_config(MIX, Config()))
    fates = [dice.fate("+12025550123", number.to_bytes(32, "big"), 1) for number in range(20_000)]
    for kind in ("error", "throttle", "late_error", "garbage"):
        assert sum(fate.answer == kind for fate in fates) == pytest.approx(2_000, abs=200)
    assert sum(fate.final.status != "delivered" for fate in fates) == pytest.approx(6_000, abs=300)
    assert sum(fate.duplicate for fate in fates) == pytest.approx(4_000, abs=300)


def test_one_share_does_not_move_another_fate() -> None:
    plain = Dice(parse_config({"receipt_lost_share": 0.5}, Config()))
    more = Dice(parse_config({"receipt_lost_share": 0.5, "receipt_duplicate_share": 0.9}, Config()))
    for number in range(200):
        content = number.to_bytes(32, "big")
        assert plain.fate("+12025550123", content, 1).sent_lost == more.fate("+12025550123", content, 1).sent_lost


def test_copies_are_drawn_apart() -> None:
    dice = Dice(parse_config({"error_share": 0.5}, Config()))
    assert {dice.fate("+12025550123", bytes(32), copy).answer for copy in range(1, 50)} == {"ok", "error"}


def test_networks_follow_weights_seed_and_number() -> None:
    weights = {"AT&T": 3.0, "Verizon": 1.0, "Nobody": 0.0}
    dice, other = (Dice(parse_config({"carriers": weights, "seed": seed}, Config())) for seed in (1, 2))
    numbers = [f"+1{area}555{line:04d}" for area, line in itertools.product(range(201, 241), range(100, 200))]
    names = [dice.carrier_of(number) for number in numbers]
    assert names == [dice.carrier_of(number) for number in numbers]
    assert names != [other.carrier_of(number) for number in numbers]
    assert names.count("AT&T") == pytest.approx(3_000, abs=150)
    assert "Nobody" not in names


@pytest.mark.parametrize(("low", "mean", "high"), [(5, 5, 5), (0, 10, 100), (20, 60, 100), (0, 100, 100), (0, 0, 9)])
def test_spread_stays_within_and_has_its_mean(low: float, mean: float, high: float) -> None:
    values = [spread(step / 10_000, low, mean, high) for step in range(10_000)]
    assert low <= min(values) <= max(values) <= high
    assert fmean(values) == pytest.approx(mean, abs=0.02)
