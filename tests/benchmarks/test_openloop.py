"""The open-loop driver: arrivals, one count for each message, honest lateness, several processes as one, the knee."""

import asyncio
import itertools
import json
import statistics
import time
import xml.etree.ElementTree as ET
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.benchmarks.children import BenchmarkError
from loadtest.openloop import __main__ as program
from loadtest.openloop import knee, steps
from loadtest.openloop.arrivals import BATCH, POISSON, STREAM, UNARY, Flow, Phase, due_times, round_of
from loadtest.openloop.calls import CHANNELS, LOST, Answer, Callers
from loadtest.openloop.driver import TURN_S, Came, Counted, Driver
from loadtest.openloop.latencies import Latencies
from loadtest.openloop.team import Whom, team
from tests.benchmarks.answering import CREDIT, Answers, answering

MIX = [Flow("few", BATCH, "CRITICAL", 0.25, 10), Flow("many", BATCH, "BULK", 0.75, 100)]
PHASE = Phase("fixed", 4_000, 1.0)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_fixed_arrivals_are_those_of_one_process_whatever_their_number(processes: int) -> None:
    alone = list(due_times(PHASE, MIX, 0, 1))
    shares = [list(due_times(PHASE, MIX, process, processes)) for process in range(processes)]
    assert sorted(itertools.chain(*shares), key=lambda due: due[0]) == alone
    for share in shares:
        assert [at_s for at_s, _ in share] == sorted(at_s for at_s, _ in share)
        assert len(share) == pytest.approx(len(alone) / processes, abs=2)
    messages: Counter[str] = Counter()
    for _, flow in alone:
        messages[flow.name] += flow.call_messages
    assert messages == {"few": 1_000, "many": 3_000}


def test_random_arrivals_come_by_a_seed_at_the_rate_and_with_the_gaps_of_chance() -> None:
    phase = Phase("poisson", 10_000, 2.0, POISSON, seed=7)
    flow = Flow("one", UNARY, "BULK", 1.0, 1)

    def times(seed: int, process: int, processes: int) -> list[float]:
        return [at_s for at_s, _ in due_times(replace(phase, seed=seed), [flow], process, processes)]

    alone = times(7, 0, 1)
    assert times(7, 0, 1) == alone
    assert times(8, 0, 1) != alone
    gaps = [later - earlier for earlier, later in itertools.pairwise(alone)]
    # Of exponential gaps the deviation is the mean; of fixed ones it is nothing.
    assert statistics.stdev(gaps) == pytest.approx(statistics.mean(gaps), rel=0.05)
    halves = [times(7, process, 2) for process in range(2)]
    assert halves[0] != halves[1]
    for total in (len(alone), sum(map(len, halves))):
        assert total == pytest.approx(20_000, rel=0.05)
    assert max(itertools.chain(alone, *halves)) < phase.seconds


def test_a_round_is_the_mix() -> None:
    assert Counter(flow.name for flow in round_of(MIX)) == {"few": 250, "many": 75}


def test_histograms_lose_nothing_when_they_are_handed_on_and_merged() -> None:
    took_s = [place / 10_000 for place in range(1, 10_001)]
    whole, even, odd = Latencies(), Latencies(), Latencies()
    for place, took in enumerate(took_s):
        whole.record(took)
        (odd if place % 2 else even).record(took)
    even.add(Latencies.of(odd.encoded()))
    assert even.count == whole.count == 10_000
    for part in (0.01, 0.5, 0.99, 0.999, 1.0):
        assert even.quantile_ms(part) == whole.quantile_ms(part) == pytest.approx(1000 * part, rel=0.002)


def test_times_beyond_the_bounds_count_as_the_bounds() -> None:
    latencies = Latencies()
    assert latencies.quantile_ms(0.5) == 0
    latencies.record(-1.0)
    latencies.record(5_000.0)
    assert latencies.count == 2
    assert latencies.quantile_ms(0.0) <= 0.001
    assert latencies.quantile_ms(1.0) == pytest.approx(600_000, rel=0.002)


@asynccontextmanager
async def driving(*flows: Flow) -> AsyncIterator[tuple[Driver, Answers]]:
    async with answering() as (address, answers):
        callers = Callers(address, (), flows, "notices")
        try:
            yield Driver(callers, list(flows)), answers
        finally:
            await callers.close()


@pytest.mark.parametrize("kind", [UNARY, BATCH, STREAM])
async def test_each_message_is_counted_once(kind: str) -> None:
    messages = 1 if kind == UNARY else 10
    classes = ("CRITICAL", "TRANSACTIONAL", "BULK")
    flows = [Flow(name, kind, name, 1 / 3, messages) for name in classes]
    async with driving(*flows) as (driver, answers):
        came = await driver.run(Phase("phase", 300 * messages, 1.0), time.monotonic())
    critical, transactional, bulk = (came.flows[name] for name in classes)
    assert (critical.stored, critical.refused, critical.unanswered) == (critical.offered, 0, 0)
    if kind == STREAM:  # a stream has a verdict for each message, never a status for one request
        assert transactional.stored == transactional.offered
    else:
        assert (transactional.stored, transactional.refused) == (0, transactional.offered)
        assert came.codes["RESOURCE_EXHAUSTED"] == transactional.latencies.count + transactional.refused / messages
    if kind != UNARY:
        assert (bulk.stored, bulk.refused) == (bulk.offered / 2, bulk.offered / 2)
        assert bulk.latencies.count == 0
    assert sum(came.stored_by_second) == came.stored
    assert critical.latencies.count * messages == critical.offered
    assert came.codes.total() == came.calls == answers.calls == 300
    assert came.lateness.count == came.calls


async def test_a_stream_stays_within_its_credit_and_waits_for_more() -> None:
    flow = Flow("stream", STREAM, "CRITICAL", 1.0, CREDIT // 2)
    async with driving(flow) as (driver, answers):
        answers.slow_s = 0.02
        # Four requests in line on each stream at once, where credit is for two.
        came = await driver.run(Phase("burst", 4 * CHANNELS * flow.call_messages / 0.02, 0.02), time.monotonic())
    assert not answers.credit_exceeded
    assert answers.streams == CHANNELS
    assert came.stored == came.offered == 4 * CHANNELS * flow.call_messages
    # The last of a line had to wait for two answers, and its time says so.
    assert came.latencies().quantile_ms(1.0) >= 60


async def test_what_has_no_credit_in_time_is_never_sent() -> None:
    flow = Flow("stream", STREAM, "CRITICAL", 1.0, CREDIT)
    async with driving(flow) as (driver, answers):
        answers.slow_s = 0.6
        phase = Phase("burst", 2 * CHANNELS * flow.call_messages / 0.02, 0.02, deadline_s=0.3)
        came = await driver.run(phase, time.monotonic())
        assert answers.calls == CHANNELS
        # Not later either, when there is credit: the next ones are all that follows.
        answers.slow_s = 0.0
        again = replace(phase, messages_a_second=phase.messages_a_second / 2, deadline_s=5)
        after = await driver.run(again, time.monotonic())
    assert after.stored == after.offered == CHANNELS * flow.call_messages
    assert answers.calls == 2 * CHANNELS
    assert came.flows["stream"].unanswered == came.offered
    assert came.codes == {"DEADLINE_EXCEEDED": 2 * CHANNELS}


async def test_a_stream_that_ends_is_opened_again() -> None:
    flow = Flow("stream", STREAM, "CRITICAL", 1.0, 10)
    async with driving(flow) as (driver, answers):
        answers.stream_requests_max = 2
        came = await driver.run(Phase("phase", 6 * CHANNELS * 10, 1.0), time.monotonic())
    # Of every three the third finds the end.
    assert answers.streams == 2 * CHANNELS
    assert came.stored == 4 * CHANNELS * 10
    assert came.flows["stream"].unanswered == 2 * CHANNELS * 10
    assert came.codes == {"OK": 4 * CHANNELS, "UNAVAILABLE": 2 * CHANNELS}


async def test_nobody_there_is_nothing_answered() -> None:
    callers = Callers("127.0.0.1:9", (), MIX, "notices")
    came = await asyncio.wait_for(Driver(callers, MIX).run(PHASE, time.monotonic()), 10)
    await callers.close()
    for counted in came.flows.values():
        assert counted.unanswered == counted.offered > 0
    with pytest.raises(TimeoutError):
        await Callers("127.0.0.1:9", (), MIX, "notices").connect(0.05)


async def test_capacity_is_what_a_few_calls_at_once_give() -> None:
    async with driving(*MIX) as (driver, _):
        came = await driver.run(Phase("capacity", 0, 0.3), time.monotonic())
    assert came.flows["few"].stored == came.flows["few"].offered > 0
    assert came.flows["many"].offered > came.flows["few"].offered


class Full(Callers):
    """A driver's process that is full: each call keeps the loop for 20 ms, then is stored."""

    def __init__(self) -> None:
        pass

    async def hand_in(self, flow: Flow, left_s: float) -> Answer:
        time.sleep(0.02)  # noqa: ASYNC251 - that is what it is about
        return Answer(stored=flow.call_messages) if left_s > 0 else Answer(unanswered=flow.call_messages)


async def test_a_driver_that_falls_behind_is_told_and_latency_counts_from_when_a_call_was_due() -> None:
    flow = Flow("one", UNARY, "BULK", 1.0, 1)
    came = await Driver(Full(), [flow]).run(Phase("too much", 100, 0.5), time.monotonic())
    assert came.driver_behind
    # Fifty calls of 20 ms each, due within half a second: the last leaves half a second late.
    assert came.lateness.quantile_ms(1.0) > 400
    assert came.latencies().quantile_ms(1.0) >= came.lateness.quantile_ms(1.0)
    calm = await Driver(Full(), [flow]).run(Phase("little", 10, 0.5), time.monotonic())
    assert not calm.driver_behind


class Slow(Callers):
    """Stores whatever it gets, after a while, and keeps when it got it."""

    def __init__(self) -> None:
        self.at_s: list[float] = []

    async def hand_in(self, flow: Flow, left_s: float) -> Answer:
        self.at_s.append(time.monotonic())
        await asyncio.sleep(left_s + 0.05)
        return Answer(stored=flow.call_messages)


async def test_what_is_stored_too_late_is_not_stored_in_time() -> None:
    flow = Flow("one", UNARY, "BULK", 1.0, 1)
    came = await Driver(Slow(), [flow]).run(Phase("slow", 100, 0.1, deadline_s=0.05), time.monotonic())
    counted = came.flows["one"]
    assert (counted.offered, counted.stored, counted.unanswered) == (10, 0, 10)
    assert sum(came.stored_by_second) == 0


@pytest.mark.parametrize("messages_a_second", [100, 0])
async def test_a_phase_begins_at_the_moment_agreed(messages_a_second: float) -> None:
    flow, callers = Flow("one", UNARY, "BULK", 1.0, 1), Slow()
    begin_s = time.monotonic() + 0.3
    await Driver(callers, [flow]).run(Phase("later", messages_a_second, 0.1, deadline_s=0.05), begin_s)
    assert len(callers.at_s) >= 6
    # Not before, but for the part of a millisecond that is worth no timer.
    assert min(callers.at_s) >= begin_s - TURN_S


async def test_processes_are_merged_into_one() -> None:
    async with answering() as (address, answers):

        def run() -> Came:
            with team(Whom(address, "key", "notices"), MIX, 2) as ready:
                return ready.run(replace(PHASE, messages_a_second=2_000))

        came = await asyncio.to_thread(run)
    assert came.calls == answers.calls == len(list(due_times(replace(PHASE, messages_a_second=2_000), MIX, 0, 1)))
    assert came.flows["few"].stored == came.flows["few"].offered == 500
    assert (came.flows["many"].stored, came.flows["many"].refused) == (750, 750)
    assert came.latencies().count == 50  # of the many none was stored whole
    assert came.codes == {"OK": came.calls}
    assert len(came.busy) == 2
    assert sum(came.stored_by_second) == came.stored
    assert Came.of(json.loads(json.dumps(came.as_json()))).as_json() == came.as_json()


def test_a_process_that_cannot_connect_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "python"
    broken.write_text("#!/bin/sh\nread line\nexit 3\n")
    broken.chmod(0o755)
    monkeypatch.setattr("loadtest.benchmarks.children.sys.executable", str(broken))
    with pytest.raises(BenchmarkError, match="ended"), team(Whom("127.0.0.1:9", "key", "notices"), MIX, 1):
        pass


def came(rate: float, *, stored: float = 1.0, took_ms: float = 5.0, late: int = 0) -> Came:
    latencies = Latencies()
    for _ in range(100):
        latencies.record(took_ms / 1e3)
    counted = Counted(round(rate), round(rate * stored), latencies=latencies)
    return Came(Phase(f"{rate:.0f}/s", rate, 1.0), {"one": counted}, [0, 0, 0], calls=100, late=late, busy=[0.5])


def engine_of(capacity: float) -> Callable[[float], Came]:
    return lambda rate: came(rate) if rate <= capacity else came(rate, took_ms=900)


@pytest.mark.parametrize("capacity", [1_000, 1_700, 9_999])
def test_the_knee_is_found(capacity: float) -> None:
    found = knee.search(500, knee.Bounds(), engine_of(capacity))
    assert found.missed is not None
    assert found.kept <= capacity < found.missed
    assert found.missed - found.kept <= found.kept * (knee.STEP - 1) / 2**knee.HALVINGS
    assert found.why == knee.SLOW


def test_what_a_step_must_keep() -> None:
    bounds = knee.Bounds(p99_ms=200, goodput=0.99)
    assert bounds.judge(came(1_000, took_ms=199)) == knee.KEPT
    assert bounds.judge(came(1_000, took_ms=201)) == knee.SLOW
    assert bounds.judge(came(1_000, stored=0.991)) == knee.KEPT
    assert bounds.judge(came(1_000, stored=0.989)) == knee.SHORT
    assert bounds.judge(came(1_000, late=1)) == knee.KEPT
    # A driver that is behind makes any engine look slow: that is said, and nothing of the engine.
    assert bounds.judge(came(1_000, took_ms=900, stored=0.5, late=2)) == knee.DRIVER


def test_a_step_that_is_missed_once_is_no_knee() -> None:
    tried: Counter[float] = Counter()

    def offer(rate: float) -> Came:
        tried[rate] += 1
        return came(rate, stored=0.5) if tried[rate] == 1 else engine_of(2_000)(rate)

    assert knee.search(500, knee.Bounds(), offer).kept > 1_700


def test_an_engine_that_keeps_nothing_has_no_knee() -> None:
    assert knee.search(500, knee.Bounds(), engine_of(10)) == knee.Knee(0, 500, knee.SLOW)


def test_the_drawing_and_the_table_have_every_phase_and_tell_when_the_driver_fell_behind() -> None:
    phases = [came(500), came(1_000, took_ms=40), came(2_000, stored=0.4, late=50)]
    root = ET.fromstring(steps.drawn(phases))  # noqa: S314 - our own
    points = list(root.iter("{http://www.w3.org/2000/svg}circle"))
    assert len(points) == 4 * len(phases)
    assert sum(point.get("fill") == "#ffffff" for point in points) == 4
    table = steps.table(phases)
    assert len(table) == 2 + len(phases)
    assert ["(driver behind)" in row for row in table[2:]] == [False, False, True]
    assert "THE DRIVER FELL BEHIND" in steps.line(phases[2])
    assert "THE DRIVER FELL BEHIND" not in steps.line(phases[0])


async def test_a_run_writes_all_that_it_saw(monkeypatch: pytest.MonkeyPatch, root: Path, tmp_path: Path) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(program, "WARM_S", 0.1)
    (tmp_path / "key").write_text("key")
    async with answering() as (address, _):
        asked = ["--address", address, "--key-file", str(tmp_path / "key"), "--campaign", "notices", "--rate", "500"]
        asked += ["--kind", "batch", "--messages", "50", "--message-class", "CRITICAL", "--seconds", "0.5"]
        asked += ["--runs", "2", "--results", str(tmp_path / "results")]
        status = await asyncio.to_thread(program.main, asked)
    [folder] = (tmp_path / "results").iterdir()
    names = {"results.json", "results.md", "results.svg", "steps.json", "steps.svg"}
    assert {path.name for path in folder.iterdir()} == names
    written = json.loads((folder / "results.json").read_text())
    figures = {figure["name"]: figure["samples"] for figure in written["figures"]}
    assert figures["batch of 50, fixed, 500/s offered: stored in time"] == [500, 500]
    told = json.loads((folder / "steps.json").read_text())
    phases = [Came.of({name: phase[name] for name in came(1).as_json()}) for phase in told]
    assert status == any(phase.driver_behind for phase in phases)
    assert [phase.latencies().count for phase in phases] == [5, 5]
    assert address not in (folder / "results.md").read_text()
    assert LOST not in (folder / "steps.json").read_text()
