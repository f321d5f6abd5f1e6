"""A short run of one engine in this process; it leaves behind what a run with crashes leaves: the checker's evidence.

It plants nothing and judges nothing. `open` starts the engine, `close` ends it in order and gathers the evidence.

Invariants: every time in the evidence is one clock's: the carrier's record is moved by what `pass_time` let pass, the
engine's times are moved back by what `SteppedClock.step` set its wall clock wrong; a wait for the end of messages gives
up after `patience_s` and leaves the judgement to the checker.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from prometheus_client import generate_latest

from engine import failpoints
from engine.errors import Refused
from engine.registry.records import OnUnknown
from loadtest.carrier.signing import key_seed_from
from longwave.v1 import messaging_pb2 as pb
from tests.corridor import crash_evidence
from tests.corridor.carrier_process import Carrier
from tests.corridor.crash_checker import TERMINAL_MIN
from tests.corridor.crash_evidence import Evidence, Request, id_of, request_of, sha256
from tests.corridor.engine_fixture import US, CallRefused, Engine, SettableClock, Signing, submission

LOOK_S: Final = 0.01
_DESCRIPTORS: Final = Path("/proc/self/fd")
_STATM: Final = Path("/proc/self/statm")


class SteppedClock(SettableClock):
    """A clock whose wall time can be set wrong while the boot clock goes on."""

    def __init__(self) -> None:
        """Begin right."""
        super().__init__()
        self.error_us = 0
        self._steps: list[tuple[int, int]] = []

    def now_us(self) -> int:
        """Wall time, as wrong as it was set."""
        return super().now_us() + self.error_us

    def step(self, seconds: float) -> None:
        """Set the wall clock forward."""
        self.error_us += int(seconds * US)
        self._steps.append((self.now_us(), self.error_us))

    def right_us(self, at_us: int) -> int:
        """What a time of this clock would have been on a right one."""
        for stepped_at_us, error_us in reversed(self._steps):
            if at_us >= stepped_at_us:
                return at_us - error_us
        return at_us


class Scene:
    """One engine, one client, one carrier."""

    def __init__(self, folder: Path, carrier: Carrier, patience_s: float) -> None:
        """Start nothing; the store is `longwave.db` in `folder`."""
        self.carrier = carrier
        self.patience_s = patience_s
        self.clock = SteppedClock()
        self.signing = Signing(Ed25519PrivateKey.from_private_bytes(key_seed_from(1)))
        self.history = folder / "history.jsonl"
        self.engine = Engine(folder, carrier.base_url, self.signing, history_file=self.history, backoff_base_ms=1)
        self.engine.clock = self.clock
        self._lines: list[dict[str, Any]] = []
        self._requests: list[Request] = []
        self._settings: dict[str, str] = {}
        self._metrics = ""
        self._after = "new"

    # Lives.

    async def open(self, *, on_unknown: OnUnknown = OnUnknown.UNRESOLVED, **settings: Any) -> None:
        """Start, with one tenant, campaign and number; `settings` are the engine's."""
        self.engine.wanted |= settings
        await self.start()
        await self.engine.make_sample(on_unknown=on_unknown)

    async def start(self) -> None:
        """Begin a life."""
        self.note("life", after=self._after, failpoint="")
        await self.engine.start()

    async def crash(self) -> None:
        """End a life as kill -9 would."""
        await self.collect()
        await self.engine.crash()
        failpoints.arm("")
        self.note("ended", exit_code=-9)
        self._after = "kill"

    async def drain(self) -> None:
        """End a life as SIGTERM would."""
        await self._ask_the_living()
        from_us = self.now_us()
        corridor, self.engine._corridor = self.engine.corridor, None
        await corridor.stop(5)
        await self.collect()
        self.note("drained", from_us=from_us, to_us=self.now_us(), exit_code=0, faultless=True)
        self._after = "drain"

    async def close(self) -> Evidence:
        """End in order and gather everything."""
        await self.rest(lambda states: not states.get("DISPATCHING"))
        await self.carrier.settle()
        if self.engine._corridor is not None:
            await self._ask_the_living()
        await self.engine.stop()
        await self.collect()
        return self._evidence()

    # What a client does.

    def now_us(self) -> int:
        """The clock of the client's log: the engine's, were it right."""
        return self.clock.right_us(self.clock.now_us())

    def note(self, kind: str, **fields: Any) -> None:
        """A line of the client's log, as `crash_client.py` and `Evidence.client` describe them."""
        self._lines.append({"kind": kind, "at_us": self.now_us()} | fields)

    async def submit(self, *submissions: pb.Submission, known: bool = False) -> list[int]:
        """One call; ids, 0 for what was not accepted. `known`: its request ids were used before for the same."""
        for number, one in enumerate(submissions, len(self._lines)):
            one.request_id = one.request_id or f"r{number}"
            if not known:
                self.note("handed_in", **crash_evidence.handed_in(one))
        try:
            taken = await self.engine.call(submissions)
        except (Refused, CallRefused, failpoints.Injected):
            return [0] * len(submissions)
        for one, result in zip(submissions, taken, strict=True):
            fields = {"request_id": one.request_id, "text_sha256": sha256(one.text)}
            if result.verdict == "ACCEPTED":
                self.note("acked", message=result.id, recipient=one.recipient, **fields)
            else:
                self.note("refused", verdict=result.verdict, **fields)
        return [result.id for result in taken]

    async def reuse(self, request_id: str, **fields: Any) -> None:
        """Other content under a used request id."""
        [taken] = await self.engine.call([submission(request_id=request_id, **fields)])
        self.note("reused", request_id=request_id, accepted=taken.verdict == "ACCEPTED", verdict=taken.verdict)

    async def cancel(self, identity: int) -> None:
        """Cancel a message; too late is as good."""
        self.note("cancel_asked", message=identity)
        await self.engine.corridor.cancel_message(self.engine.tenant_key, identity)

    async def opt_out(self, recipient: str) -> None:
        """Forbid a recipient by the API; returns when it is in effect."""
        await self.engine.corridor.add_opt_out(self.engine.tenant_key, int(recipient[1:]))
        self.note("opt_out_acked", recipient=recipient, by="api")

    async def deliver(self, query: str, body: bytes, *, at_us: int = 0) -> int:
        """A webhook, signed as the carrier does; 503 when it could not be stored."""
        try:
            return await self.engine.deliver(query, body, at_us=at_us)
        except (Refused, failpoints.Injected):
            return 503

    # Time.

    async def pass_time(self, seconds: float) -> None:
        """Both clocks go on, for the engine and for the evidence."""
        await self.collect()
        await self.engine.pass_time(seconds)

    async def rest(self, done: Callable[[dict[str, int]], bool]) -> bool:
        """Wait until the states of all messages are as wanted, or patience ends."""
        return await self.until(lambda: self._states_are(done))

    async def _states_are(self, done: Callable[[dict[str, int]], bool]) -> bool:
        return self.engine._corridor is None or done(await self.engine.states())

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> bool:
        """Wait until something holds, or patience ends."""
        try:
            async with asyncio.timeout(self.patience_s):
                while not await holds():  # noqa: ASYNC110 - what it waits for may be in another process
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            return False
        return True

    async def requests(self, count: int) -> bool:
        """Wait until the carrier got so many requests."""

        async def got() -> bool:
            return len(await self.carrier.records()) >= count

        return await self.until(got)

    async def final(self) -> bool:
        """Wait until every message is final."""
        return await self.rest(lambda states: not UNFINISHED & states.keys())

    # Evidence.

    def sample(self) -> None:
        """What this process holds now."""
        rss_bytes = int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        tasks = len(asyncio.all_tasks())
        self.note("sample", rss_bytes=rss_bytes, descriptors=len(list(_DESCRIPTORS.iterdir())), tasks=tasks)

    async def collect(self) -> None:
        """Take over what the carrier got since the last time, moved to the engine's time."""
        for line in (await self.carrier.records())[len(self._requests) :]:
            request = request_of(line)
            self._requests.append(replace(request, at_us=request.at_us + self.clock.ahead_us))

    async def _ask_the_living(self) -> None:
        corridor = self.engine.corridor

        def pragmas(connection: Any) -> dict[str, str]:
            names = ("journal_mode", "synchronous")
            return {name: str(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in names}

        self._settings = await self.engine.store.writer.submit("control", pragmas, alone=True)
        self._metrics = generate_latest(corridor.metrics.registry).decode()

    def _evidence(self) -> Evidence:
        right = self.clock.right_us
        evidence = Evidence(client=self._lines, requests=self._requests, settings=self._settings)
        evidence.notes = crash_evidence.read_lines(self.history)
        for note in evidence.notes:
            note["at_us"] = right(note["at_us"])
        crash_evidence.read_store(self.engine.store_file, evidence)
        evidence.changes = [change._replace(at_us=right(change.at_us)) for change in evidence.changes]
        evidence.rows = [
            replace(row, timeline=tuple(entry._replace(at_us=right(entry.at_us)) for entry in row.timeline))
            for row in evidence.rows
        ]
        evidence.sinks = {"metrics.txt": self._metrics, self.history.name: self.history.read_text()}
        return evidence


UNFINISHED: Final = {
    name.removeprefix("MESSAGE_STATE_") for name, state in pb.MessageState.items() if 0 < state < TERMINAL_MIN
}


def settled(states: dict[str, int]) -> bool:
    """Nothing waits for its first answer any more."""
    return not {"QUEUED", "DISPATCHING"} & states.keys()


def seqs_of(events: list[pb.Event]) -> list[tuple[int, int]]:
    """(message, seq) of the events that are of messages."""
    return [(id_of(e.message[len("messages/") :]), e.seq) for e in events if e.kind == pb.Event.KIND_MESSAGE]
