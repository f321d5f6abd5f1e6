"""Caps of the networks: what counts, when it is free again, how excess is told."""

from typing import TYPE_CHECKING, Any

import pytest

from loadtest.carrier.caps import CapCounters
from loadtest.carrier.config import Config, parse_config

if TYPE_CHECKING:
    from tests.carrier.conftest import StartBench

MIDNIGHT_PACIFIC_S = 1_768_550_400  # 2026-01-16 00:00 in Los Angeles


class Charges:
    """Counters with one cap and named times."""

    def __init__(self, **cap: Any) -> None:
        item = {"name": "cap", "amount": 3, "code": "40018", **cap}
        self._config = parse_config(
            {"caps": [item], "campaigns": {"+12025550100": "C1", "+12025550101": "C1"}}, Config()
        )
        self._counters = CapCounters()

    def passes(self, at_s: float = 0.0, *, sender: str = "+12025550100", carrier: str = "AT&T", parts: int = 1) -> bool:
        cap = self._counters.charge(
            self._config,
            carrier=carrier,
            sender=sender,
            parts=parts,
            monotonic_s=at_s,
            unix_s=MIDNIGHT_PACIFIC_S + at_s,
        )
        return cap is None


def test_minute_is_every_window_of_sixty_seconds() -> None:
    charges = Charges()
    assert [charges.passes(at_s) for at_s in (0, 30, 59, 59.9)] == [True, True, True, False]
    assert [charges.passes(at_s) for at_s in (60, 60.1)] == [True, False]
    assert charges.passes(90)


def test_parts_count_unless_messages_are_asked_for() -> None:
    charges = Charges()
    assert [charges.passes(parts=2), charges.passes(parts=2), charges.passes(parts=1)] == [True, False, True]
    by_message = Charges(unit="messages")
    assert [by_message.passes(parts=9) for _ in range(4)] == [True, True, True, False]


def test_day_ends_at_midnight_of_the_time_zone() -> None:
    charges = Charges(period="day")
    assert [charges.passes(-3600 * hour) for hour in (3, 2, 1, 0.001)] == [True, True, True, False]
    assert charges.passes(0)


@pytest.mark.parametrize(
    ("scope", "passed"), [("global", [True, False, False]), ("campaign", [True, False, True]), ("from", [True] * 3)]
)
def test_scope(scope: str, passed: list[bool]) -> None:
    charges = Charges(scope=scope, amount=1)
    senders = ("+12025550100", "+12025550101", "+12025550102")
    assert [charges.passes(sender=sender) for sender in senders] == passed


def test_only_the_named_carrier_counts() -> None:
    charges = Charges(carrier="AT&T", amount=1)
    assert [charges.passes(carrier=name) for name in ("T-Mobile", "AT&T", "T-Mobile", "AT&T")] == [
        True,
        True,
        True,
        False,
    ]


async def test_excess_fails_later(start_bench: "StartBench") -> None:
    cap = {"name": "att", "amount": 2, "code": "40018", "period": "day"}
    bench = await start_bench(caps=[cap])
    for number in range(3):
        assert (await bench.send(text=f"text {number}")).status == 200
    finals = [event for event in await bench.settle() if event.kind == "message.finalized"]
    assert sorted(event.status for event in finals) == ["delivered", "delivered", "delivery_failed"]
    assert [record["final"] for record in await bench.records()][2] == "delivery_failed/40018"


@pytest.mark.parametrize(("status", "code"), [(429, "10011"), (400, "40318")])
async def test_excess_is_refused_at_once(start_bench: "StartBench", status: int, code: str) -> None:
    cap = {"name": "queue", "amount": 1, "code": code, "status": status, "scope": "from"}
    bench = await start_bench(caps=[cap])
    assert (await bench.send(text="one")).status == 200
    answer = await bench.send(text="two")
    assert (answer.status, answer.code) == (status, code)
    assert ("retry-after" in answer.headers) == (status == 429)
    assert (await bench.send(text="three", from_="+12025550101")).status == 200
    assert [(record["taken"], record["outcome"]) for record in await bench.records()] == [
        (True, "ok"),
        (False, "cap:queue"),
        (True, "ok"),
    ]
