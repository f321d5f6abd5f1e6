"""One process of the driver: `python -m loadtest.openloop.driver`, started by `loadtest.openloop.team`.

Arrivals are not slowed by answers; a call's time counts from when it was due. The first JSON line on standard input
says whom to call, each further one is a phase with the moment of its beginning (the machine's monotonic clock, the same
for all processes); one on standard output says that it is ready, or what came of a phase.

A call that leaves late is counted as such: a driver that is full, or whose processors others use, must not be taken for
an engine that is slow.
"""

import asyncio
import itertools
import json
import sys
import time
from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Self

import uvloop

from loadtest.openloop.arrivals import Flow, Phase, due_times, round_of
from loadtest.openloop.calls import Callers
from loadtest.openloop.latencies import Latencies

CONNECT_S: Final = 20.0
# Shorter waits are not worth a timer.
TURN_S: Final = 0.001
# Behind its time by more, the driver is the bound, not the engine.
LATE_S_MAX: Final = 0.05
LATE_SHARE_MAX: Final = 0.01


@dataclass(slots=True)
class Counted:
    """Messages of one flow."""

    offered: int = 0
    stored: int = 0
    """Within the deadline, counted from when the call was due."""
    refused: int = 0
    unanswered: int = 0
    latencies: Latencies = field(default_factory=Latencies)
    """Of calls that were stored whole, from when they were due."""


@dataclass(slots=True)
class Came:
    """What came of a phase, in one process or in all of them."""

    phase: Phase
    flows: dict[str, Counted]
    stored_by_second: list[int]
    calls: int = 0
    late: int = 0
    """Calls that left later than they were due by more than `LATE_S_MAX`."""
    codes: Counter[str] = field(default_factory=Counter)
    """gRPC statuses of the calls; `LOST` for those that the client never ended, which count as unanswered."""
    lateness: Latencies = field(default_factory=Latencies)
    """Of every call, from when it was due until it left."""
    busy: list[float] = field(default_factory=list)
    """Of each process: its processor time by the phase's."""

    @property
    def driver_behind(self) -> bool:
        """Whether these figures are in part the driver's and not the engine's."""
        return self.late > LATE_SHARE_MAX * self.calls

    @property
    def stored(self) -> int:
        """Messages that were stored in time."""
        return sum(counted.stored for counted in self.flows.values())

    @property
    def offered(self) -> int:
        """Messages that were due."""
        return sum(counted.offered for counted in self.flows.values())

    def latencies(self) -> Latencies:
        """Of all flows."""
        every = Latencies()
        for counted in self.flows.values():
            every.add(counted.latencies)
        return every

    def add(self, other: Self) -> None:
        """Count another process's, too."""
        for name, counted in other.flows.items():
            mine = self.flows[name]
            mine.offered += counted.offered
            mine.stored += counted.stored
            mine.refused += counted.refused
            mine.unanswered += counted.unanswered
            mine.latencies.add(counted.latencies)
        self.stored_by_second = [
            mine + theirs for mine, theirs in zip(self.stored_by_second, other.stored_by_second, strict=True)
        ]
        self.calls += other.calls
        self.late += other.late
        self.codes += other.codes
        self.lateness.add(other.lateness)
        self.busy += other.busy

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        flows = {
            name: {
                "offered": counted.offered,
                "stored": counted.stored,
                "refused": counted.refused,
                "unanswered": counted.unanswered,
                "latencies": counted.latencies.encoded(),
            }
            for name, counted in self.flows.items()
        }
        return {
            "phase": asdict(self.phase),
            "flows": flows,
            "stored_by_second": self.stored_by_second,
            "calls": self.calls,
            "late": self.late,
            "codes": dict(self.codes),
            "lateness": self.lateness.encoded(),
            "busy": self.busy,
        }

    @classmethod
    def of(cls, values: dict[str, Any]) -> Self:
        """From JSON values."""
        flows = {
            name: Counted(**{**counted, "latencies": Latencies.of(counted["latencies"])})
            for name, counted in values["flows"].items()
        }
        lateness, codes = Latencies.of(values["lateness"]), Counter(values["codes"])
        return cls(
            **{**values, "phase": Phase(**values["phase"]), "flows": flows, "lateness": lateness, "codes": codes}
        )


class Driver:
    """Calls one engine as process `process` of `processes`."""

    def __init__(self, callers: Callers, flows: list[Flow], process: int = 0, processes: int = 1) -> None:
        """Send these flows."""
        self._callers = callers
        self._flows = flows
        self._process = process
        self._processes = processes

    async def run(self, phase: Phase, begin_s: float) -> Came:
        """Send this process's share of a phase from a moment on, and wait for the last answer."""
        came = Came(phase, {flow.name: Counted() for flow in self._flows}, [0] * (int(phase.seconds) + 2))
        await asyncio.sleep(begin_s - time.monotonic())
        busy_s = time.process_time()
        if phase.messages_a_second:
            await self._at_fixed_times(came, begin_s)
        else:
            flows, places = round_of(self._flows), range(self._process, phase.closed_calls, self._processes)
            await asyncio.gather(*(self._one_after_another(came, begin_s, place, flows) for place in places))
        came.busy.append(round((time.process_time() - busy_s) / phase.seconds, 3))
        return came

    async def _at_fixed_times(self, came: Came, begin_s: float) -> None:
        loop = asyncio.get_running_loop()
        going: set[asyncio.Task[None]] = set()
        for due_s, flow in due_times(came.phase, self._flows, self._process, self._processes):
            wait_s = begin_s + due_s - time.monotonic()
            if wait_s > TURN_S:
                await asyncio.sleep(wait_s)
            task = loop.create_task(self._call(came, begin_s, due_s, flow))
            going.add(task)
            task.add_done_callback(going.discard)
            if wait_s <= 0:
                await asyncio.sleep(0)
        if going:
            await asyncio.wait(going)

    async def _one_after_another(self, came: Came, begin_s: float, place: int, flows: list[Flow]) -> None:
        for turn in itertools.count(place * len(flows) // came.phase.closed_calls):
            now_s = time.monotonic() - begin_s
            if now_s > came.phase.seconds:
                return
            await self._call(came, begin_s, now_s, flows[turn % len(flows)])

    async def _call(self, came: Came, begin_s: float, due_s: float, flow: Flow) -> None:
        counted = came.flows[flow.name]
        counted.offered += flow.call_messages
        late_s = time.monotonic() - begin_s - due_s
        came.calls += 1
        came.late += late_s > LATE_S_MAX
        came.lateness.record(late_s)
        answer = await self._callers.hand_in(flow, came.phase.deadline_s - late_s)
        took_s = time.monotonic() - begin_s - due_s
        came.codes[answer.code] += 1
        counted.refused += answer.refused
        counted.unanswered += answer.unanswered
        if took_s > came.phase.deadline_s:
            counted.unanswered += answer.stored
        else:
            counted.stored += answer.stored
            came.stored_by_second[min(len(came.stored_by_second) - 1, int(due_s + took_s))] += answer.stored
        if answer.stored == flow.call_messages:
            counted.latencies.record(took_s)


async def main() -> None:
    """Serve phases until the input ends."""
    loop = asyncio.get_running_loop()
    whom = json.loads(await loop.run_in_executor(None, sys.stdin.readline))
    flows = [Flow(**flow) for flow in whom["flows"]]
    metadata = (("authorization", f"Bearer {whom['key']}"),)
    callers = Callers(whom["address"], metadata, flows, whom["campaign"])
    driver = Driver(callers, flows, whom["process"], whom["processes"])
    await callers.connect(CONNECT_S)
    _say({"ready": True})
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        asked = json.loads(line)
        came = await driver.run(Phase(**asked["phase"]), asked["begin_s"])
        _say(came.as_json())
    await callers.close()


def _say(what: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    uvloop.run(main())
