"""The overload curve: the mix is what was asked for, a row is what came, the drawing has every mode."""

import os
import xml.etree.ElementTree as ET
from collections import Counter

import pytest

from loadtest.openloop.arrivals import Phase, due_times
from loadtest.openloop.calls import LOST
from loadtest.openloop.driver import Came, Counted
from loadtest.openloop.latencies import Latencies
from loadtest.overload import __main__ as program
from loadtest.overload import curve
from loadtest.overload.__main__ import MIX, Row

PHASE = Phase("2 x", 20_000, 1.0)


def test_calls_are_due_in_order_and_in_the_shares_asked_for() -> None:
    due = list(due_times(PHASE, MIX, 0, program.PROCESSES))
    assert [at_s for at_s, _ in due] == sorted(at_s for at_s, _ in due)
    messages = dict.fromkeys(MIX, 0)
    for _, flow in due:
        messages[flow] += flow.call_messages
    total = sum(messages.values())
    assert total == pytest.approx(20_000, rel=0.05)
    for flow in MIX:
        assert messages[flow] / total == pytest.approx(flow.share, abs=0.03)


def test_a_row_is_what_came() -> None:
    urgent, rest = Latencies(), Latencies()
    for _ in range(99):
        urgent.record(0.010)
    rest.record(0.500)
    flows = {"CRITICAL": Counted(1_000, 990, latencies=urgent), "BULK": Counted(9_000, 3_000, latencies=rest)}
    codes = Counter({"OK": 90, LOST: 3})
    came = Came(Phase("2 x", 5_000, 2.0), flows, [100, 2_000, 1_890, 0], calls=100, late=7, codes=codes)

    class Running:
        pid = os.getpid()

    row = program._row("shedding", came, 2_500, Running())  # type: ignore[arg-type]
    assert (row.offered, row.stored) == (5_000, 1_995)
    assert row.share == pytest.approx(0.798)
    assert [row.p50_ms, row.p99_ms] == pytest.approx([10, 10], rel=0.002)
    assert row.by_class == {"CRITICAL": 99.0, "BULK": pytest.approx(100 / 3)}
    assert (row.driver_late, row.driver_lost, row.steady_after_s) == (7, 3, 1)
    assert row.memory_mib > 0


def row(mode: str, name: str, offered: float, stored: float) -> Row:
    return Row(mode, name, offered, stored, stored / 1000, 10, 20, {"CRITICAL": 100.0}, 0, 0, 100, 0)


def test_the_curve_is_a_drawing_and_the_table_has_every_phase() -> None:
    rows = [row("a", "0.8 x", 800, 800), row("a", "5 x", 5000, 950), row("b", "5 x", 5000, 10)]
    drawing = ET.fromstring(curve.drawn(rows, 1000))  # noqa: S314 - our own
    paths = [path for path in drawing.iter("{http://www.w3.org/2000/svg}path") if path.get("fill") == "none"]
    assert len(paths) == 2
    assert len(curve.table(rows).splitlines()) == 2 + len(rows)
