"""A simulated run: lives of one engine, a client and a carrier drawn from a seed, judged by the independent checker.

It plants nothing. The same seed gives the same trace, in any process.
"""

import asyncio
import contextlib
import logging
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final
from unittest import mock

import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine import failpoints, lease, sweep
from engine.config import Settings
from engine.corridor import Corridor
from engine.errors import Refused
from engine.history import History
from engine.metrics import Metrics
from engine.providers.telnyx import link
from engine.registry.records import CampaignState, OnUnknown
from engine.secrets import open_secrets
from engine.stores import embedded
from engine.stores.migrate import migrate_store
from loadtest.carrier.signing import key_seed_from
from longwave.v1 import messaging_pb2 as pb
from tests.corridor import crash_evidence
from tests.corridor.crash_checker import Promises, Violation, check
from tests.corridor.crash_evidence import US, Evidence, sha256
from tests.corridor.engine_fixture import API_KEY, CallRefused, Engine, Signing, recipient, submission
from tests.proof.simulation.world import (
    CLOCK_ERROR_MAX_S,
    START_US,
    InlineWriter,
    Killed,
    SimulatedPool,
    VirtualLoop,
    World,
    uncollected,
)

CLASSES: Final = (pb.MESSAGE_CLASS_CRITICAL, pb.MESSAGE_CLASS_TRANSACTIONAL, pb.MESSAGE_CLASS_BULK)
STALE: Final = 401
FORGER: Final = Signing(Ed25519PrivateKey.from_private_bytes(key_seed_from(2)))
STEPS: Final = (8, 16)
LIVES_MAX: Final = 4
# A receipt that found nobody is sent again after so long, as the carrier does, so often.
AGAIN_S: Final = 5.0
AGAIN_MAX: Final = 8
# What heals after the last fault: every timer that is set below has run out by then.
HEAL_S: Final = 400
SETTINGS: Final[dict[str, Any]] = {
    "send_s": 5,
    "reconcile_wait_s": 20,
    "lookup_after_min": 0.5,
    "lookup_after_restart_s": 10,
    "no_receipt_after_h": 0.02,
    "backoff_cap_s": 20,
    "breaker_open_s": 3,
    "lease_s": 1e9,
    "reserve_file_mib": 0,
    "group_linger_ms": 0,
    "held_messages_max": 32,
    "batch_messages_max": 16,
}


@dataclass
class Outcome:
    """What a seed came to."""

    seed: int
    violations: list[Violation]
    fingerprint: str
    messages: int
    requests: int
    lives: int
    virtual_s: float
    faults: Counter[str]


class SimulatedEngine(Engine):
    """The fixture's engine without its HTTP edge, over the world's clock."""

    def __init__(self, folder: Path, world: World, **settings: Any) -> None:
        """Start nothing."""
        super().__init__(
            folder, "http://127.0.0.1:9/v2", Signing(Ed25519PrivateKey.from_private_bytes(key_seed_from(1)))
        )
        self.world = world
        self.wanted = SETTINGS | settings
        self._settings: Settings | None = None

    async def start(self) -> None:
        """Begin a life on the store as it is."""
        world = self.world
        world.life += 1
        world.alive = True
        world.died.clear()
        settings = self._settings = self._settings or self._read_settings()
        secrets = open_secrets(settings.secrets_path, create=True, now_us=1)
        corridor = Corridor(settings, secrets, Metrics("0", "sqlite"), world.clock)
        starting = asyncio.ensure_future(corridor.start())
        died = asyncio.ensure_future(world.died.wait())
        await asyncio.wait([starting, died], return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        self._corridor = corridor
        if not world.alive:
            starting.cancel()
            await asyncio.gather(starting, return_exceptions=True)
            await self.crash()
        else:
            await starting

    def _read_settings(self) -> Settings:
        assert self.signing is not None
        values: dict[str, Any] = {
            "store_url": f"sqlite:///{self.store_file}",
            "telnyx_base_url": self.base_url,
            "telnyx_api_key": API_KEY,
            "telnyx_public_key": self.signing.public_base64,
            "webhook_address": "127.0.0.1:9",
            "history_file": self.folder / "history.jsonl",
        }
        return Settings(**(values | self.wanted))

    async def crash(self) -> None:
        """What the process held is gone; files are closed as its end would close them."""
        corridor, self._corridor = self.corridor, None
        writer = getattr(getattr(corridor, "store", None), "writer", None)
        if writer is not None:
            writer._closed = True
        record, dispatch = getattr(corridor, "record", None), getattr(corridor, "dispatch", None)
        tasks = [*corridor._tasks, *(record._tasks if record else ())]
        for holder, name in (
            (dispatch, "_task"),
            (dispatch, "_recording"),
            (getattr(corridor, "refill", None), "_task"),
        ):
            if getattr(holder, name, None) is not None:
                tasks.append(getattr(holder, name))
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await corridor._closing.aclose()


class Run:
    """One seed."""

    def __init__(self, seed: int, folder: Path, loop: VirtualLoop, draw: random.Random) -> None:
        """Draw what stays the same for the run."""
        self.world = World(seed, loop, draw)
        self.draw = draw
        self.honours_keys = False
        self.policy = draw.choice((OnUnknown.UNRESOLVED, OnUnknown.RESEND))
        self.engine = SimulatedEngine(folder, self.world, in_flight_max=draw.choice((1, 4, 16)))
        self.handed_in: list[pb.Submission] = []
        self.ids: list[int] = []
        self._numbered = 0
        self._after = "new"

    async def live(self) -> Outcome:
        """Lives, then healing, then the judgement."""
        world, draw = self.world, self.draw
        await self._begin()
        await self.engine.make_sample(on_unknown=self.policy)
        lives = draw.randint(1, LIVES_MAX)
        for life in range(lives):
            if life < lives - 1:
                world.kill_after = draw.randint(1, 120)
            await self._some_steps()
            if life < lives - 1:
                if world.alive:
                    world.kill_after = None
                    world.die("at a moment")
                await self._end()
                await self._begin()
        world.heal()
        if not world.clock_errors:  # times written down while the clock was ahead come so much later
            world.note("faulted", from_us=START_US, to_us=world.clock.right_us())
        with contextlib.suppress(Refused, CallRefused):
            await self.engine.set_campaign(CampaignState.ACTIVE)
        await self._settle()
        await self.engine.stop()
        evidence = self._evidence()
        # A clock that was set back lets the engine's times of intents run ahead of it for as long again.
        error_us = 2 * CLOCK_ERROR_MAX_S * US if world.clock_errors else 0
        promises = Promises(
            honours_keys=self.honours_keys,
            no_receipt_after_us=int(SETTINGS["no_receipt_after_h"] * 3600 * US),
            clock_error_us=error_us,
        )
        violations = check(evidence, promises)
        found = {change.state for change in evidence.changes}
        world.tell("ended", sorted(found))
        world.tell("rows", [(row.id, row.state, row.seq) for row in evidence.rows])
        return Outcome(
            world.seed, violations, world.trace.hexdigest(), len(evidence.rows), len(world.requests), world.life,
            world.loop.time(), world.faults,
        )  # fmt: skip

    async def _begin(self) -> None:
        self.world.note("life", after=self._after, failpoint="")
        await self.engine.start()
        while self.engine._corridor is None:  # killed while it recovered
            await self._end()
            self.world.note("life", after="kill", failpoint="")
            await self.engine.start()
        self._after = "kill"

    async def _end(self) -> None:
        if self.engine._corridor is not None:
            await self.engine.crash()
        self.world.note("ended", exit_code=-9)
        await asyncio.sleep(self.draw.uniform(0.01, 2))  # no two lives in one microsecond

    async def _some_steps(self) -> None:
        for _ in range(self.draw.randint(*STEPS)):
            if not self.world.alive:
                return
            step = self.draw.choices((self._submit, self._again, self._reuse, self._cancel, self._opt_out, self._pause),
                                     (12, 3, 1, 2, 1, 1))[0]  # fmt: skip
            await self._unless_killed(step())
            await self._unless_killed(asyncio.sleep(self.draw.choice((0.01, 0.2, 1, 8))))
            self.world.befall()

    async def _unless_killed(self, work: Any) -> None:
        """Wait for it, or for the end of the process: then its answer never comes."""
        task, died = asyncio.ensure_future(work), asyncio.ensure_future(self.world.died.wait())
        await asyncio.wait([task, died], return_when=asyncio.FIRST_COMPLETED)
        died.cancel()
        if self.world.alive:
            with contextlib.suppress(Refused, CallRefused):
                await task
        else:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    # Steps.

    async def _submit(self) -> None:
        batch = [self._new() for _ in range(self.draw.randint(1, 12))]
        for one in batch:
            self.world.note("handed_in", **crash_evidence.handed_in(one))
        self.handed_in += batch
        await self._hand_in(batch)

    def _new(self) -> pb.Submission:
        draw = self.draw
        self._numbered += 1
        number = self._numbered
        one = submission(
            draw.randrange(40),
            f"message {number} of the run",
            request_id=f"r{number}",
            message_class=draw.choice(CLASSES),
        )
        if draw.random() < 0.25:
            one.ordering_key = f"key-{draw.randrange(3)}"
        if draw.random() < 0.1:
            one.schedule_time.FromMicroseconds(self.world.clock.now_us() + draw.randint(1, 60) * 1_000_000)
        if draw.random() < 0.15:
            one.validity.FromSeconds(draw.choice((60, 120)))
        return one

    async def _hand_in(self, batch: list[pb.Submission]) -> None:
        taken = await self.engine.call(batch)
        if not self.world.alive:
            return
        for one, result in zip(batch, taken, strict=True):
            fields = {"request_id": one.request_id, "text_sha256": sha256(one.text)}
            if result.verdict == "ACCEPTED":
                self.ids.append(result.id)
                self.world.note("acked", message=result.id, recipient=one.recipient, **fields)
            elif not result.result.HasField("retry_delay"):  # else: not now, and nobody was refused for good
                self.world.note("refused", verdict=result.verdict, **fields)

    async def _again(self) -> None:
        if self.handed_in:
            count = min(len(self.handed_in), self.draw.randint(1, 8))
            await self._hand_in(self.draw.sample(self.handed_in, count))

    async def _reuse(self) -> None:
        acked = [line["request_id"] for line in self.world.lines if line["kind"] == "acked"]
        if acked:
            request_id = self.draw.choice(acked)
            [taken] = await self.engine.call([submission(1, "something else", request_id=request_id)])
            if self.world.alive and not taken.result.HasField("retry_delay"):
                accepted = taken.verdict == "ACCEPTED"
                self.world.note("reused", request_id=request_id, accepted=accepted, verdict=taken.verdict)

    async def _cancel(self) -> None:
        if self.ids:
            identity = self.draw.choice(self.ids)
            self.world.note("cancel_asked", message=identity)
            await self.engine.corridor.cancel_message(self.engine.tenant_key, identity)

    async def _opt_out(self) -> None:
        number = recipient(self.draw.randrange(40))
        await self.engine.corridor.add_opt_out(self.engine.tenant_key, int(number[1:]))
        if self.world.alive:
            self.world.note("opt_out_acked", recipient=number, by="api")

    async def _pause(self) -> None:
        await self.engine.set_campaign(CampaignState.PAUSED)
        await asyncio.sleep(self.draw.uniform(0, 3))
        await self.engine.set_campaign(CampaignState.ACTIVE)

    # Receipts.

    def deliver(self, number: int, query: str, body: bytes, forged: bool, tries: int = 0) -> None:  # noqa: FBT001
        """The carrier's webhook comes in; without a 200 it comes again."""
        self.world.loop.create_task(self._deliver(number, query, body, forged, tries))

    async def _deliver(self, number: int, query: str, body: bytes, forged: bool, tries: int) -> None:  # noqa: FBT001
        signing = FORGER if forged else self.engine.signing
        assert signing is not None
        status = 503
        corridor = self.engine._corridor
        if corridor is not None and self.world.alive and corridor.not_ready() is None:
            inbound = signing.sign(query, body, self.world.clock.right_us())
            received = asyncio.ensure_future(self.engine.receive([inbound]))
            died = asyncio.ensure_future(self.world.died.wait())
            # A process that is killed closes its connections: the carrier has no 200 and comes again.
            await asyncio.wait([received, died], return_when=asyncio.FIRST_COMPLETED)
            died.cancel()
            if received.done() and received.exception() is None and self.world.alive:
                status = received.result()[0]
            received.cancel()
        self.world.tell("webhook", (number, status))
        self._told(number, query, body, forged, tries, status)

    def _told(self, number: int, query: str, body: bytes, forged: bool, tries: int, status: int) -> bool:  # noqa: FBT001 - of one receipt
        """What the carrier does with the answer; whether it comes again."""
        # A clock that is far off takes what is genuine for stale.
        refused = status >= 500 or (self.world.clock_errors and status == STALE and not forged)
        if refused and tries < AGAIN_MAX:
            self.world.loop.call_later(AGAIN_S, self.deliver, number, query, body, forged, tries + 1)
            return True
        if refused and not forged:
            self.world.tell("webhook given up", number)
            request = self.world.requests[number - 1]
            lost = replace(request, receipt_faults=(*request.receipt_faults, "finalized_lost"))
            self.world.requests[number - 1] = lost
        return False

    # The end.

    async def _settle(self) -> None:
        # Times that were written down while the clock was ahead come so much later.
        until = self.world.loop.time() + HEAL_S + 2 * CLOCK_ERROR_MAX_S * self.world.clock_errors
        while self.world.loop.time() < until:
            states = await self.engine.rows("SELECT count(*) FROM messages WHERE state < 16")
            if states[0][0] == 0:
                break
            await asyncio.sleep(2)
        await asyncio.sleep(AGAIN_S * AGAIN_MAX)  # what the carrier still has to tell

    def _evidence(self) -> Evidence:
        evidence = Evidence(client=self.world.lines, requests=self.world.requests)
        crash_evidence.read_store(self.engine.store_file, evidence)
        evidence.notes = crash_evidence.read_lines(self.engine.folder / "history.jsonl")
        return evidence


@lru_cache(maxsize=1)
def _empty_store() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "longwave.db"
        migrate_store(path, now_us=1)
        return path.read_bytes()


@contextlib.contextmanager
def _replaced(run: Run) -> Iterator[None]:
    """The engine's seams, for one run."""
    world = run.world
    InlineWriter.world = SimulatedPool.world = world
    SimulatedPool.deliver = staticmethod(run.deliver)

    note = History.note

    def note_when(self: History, kind: str, **fields: Any) -> None:
        """The right time beside the engine's."""
        note(self, kind, right_us=world.clock.right_us(), **fields)

    def start_lease(self: lease.Lease, asked_us: int) -> None:
        self._until_us = asked_us + self._lease_us

    with contextlib.ExitStack() as stack:
        for target, name, value in (
            (embedded, "Writer", InlineWriter),
            (link, "make_pool", lambda _settings, _clock, _may, on_results: SimulatedPool(on_results)),
            (failpoints, "passing", world.passing),
            (History, "note", note_when),
            (lease.Lease, "start", start_lease),
            (sweep, "DUE_EVERY_S", 1.0),
            (sweep, "BACKLOG_EVERY_S", 60.0),
            (sweep, "DAYS_EVERY_S", 10.0),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        yield


def simulate(seed: int, *, verbose: Callable[[str], None] | None = None, around: Any = None) -> Outcome:
    """Run one seed; `around` is a context manager to plant a bug with."""
    logging_before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    draw = random.Random(seed)  # noqa: S311 - it must repeat
    loop = VirtualLoop(draw)
    folder = Path(tempfile.mkdtemp(prefix="simulation-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))  # noqa: S108
    (folder / "longwave.db").write_bytes(_empty_store())

    def handler(loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        if run.world.alive and not isinstance(context.get("exception"), Killed):
            loop.default_exception_handler(context)

    try:
        asyncio.set_event_loop(loop)
        loop.set_exception_handler(handler)
        run = Run(seed, folder, loop, draw)
        run.world.verbose = verbose
        with uncollected(), _replaced(run), around or contextlib.nullcontext():
            outcome = loop.run_until_complete(run.live())
            # Callers of lives that were killed wait for answers that never come.
            left = asyncio.all_tasks(loop)
            for task in left:
                task.cancel()
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
            return outcome
    finally:
        structlog.configure(**logging_before)
        asyncio.set_event_loop(None)
        loop.close()
        shutil.rmtree(folder, ignore_errors=True)
