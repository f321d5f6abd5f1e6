"""A simulated run of pods over one server: clients, carrier and faults drawn from a seed, judged by the checker.

It plants nothing. The same seed gives the same trace, in any process.
"""

import asyncio
import contextlib
import logging
import random
import secrets
import shutil
import tempfile
import time
import warnings
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Final
from unittest import mock

import structlog
from asyncmy.errors import MySQLError

from engine import duty, failpoints, lease, look_up, redis_access, sweep
from engine.config import Settings
from engine.corridor import Corridor
from engine.errors import Refused, StoreBroken, StoreLocked
from engine.history import History
from engine.metrics import Metrics
from engine.providers.telnyx import link
from engine.registry.records import CampaignState, Scope
from engine.secrets import open_secrets
from engine.stores.mysql import transactions
from engine.stores.mysql.transactions import EVENT_SLOTS
from longwave.v1 import messaging_pb2 as pb
from tests.corridor import crash_evidence
from tests.corridor.crash_checker import Promises, check
from tests.corridor.crash_evidence import US, Evidence
from tests.corridor.engine_fixture import API_KEY, CAMPAIGN, SENDER, CallRefused, Engine, Signing, Taken
from tests.proof.simulation.pods_world import (
    PODS,
    Life,
    PodsLoop,
    PodsPool,
    PodsWorld,
    right_us,
    start_lease,
)
from tests.proof.simulation.run import FORGER, SETTINGS, Outcome, Run
from tests.proof.simulation.world import SimulatedPool, uncollected
from tests.servers.mariadb import PASSWORD
from tests.servers.model.installed import URL, installed
from tests.servers.model.server import Server
from tests.servers.model.words import make_database

CAMPAIGNS: Final = 5
STEPS: Final = (12, 24)
# So many ask at once.
CALLERS: Final = (1, 1, 3)
# A client waits so long for an answer; then it knows nothing.
ANSWER_S: Final = 20.0
LEASE_S: Final = 12.0
# A subscriber that hears nothing asks again after so long.
WATCH_S: Final = 4.0
SCHEDULED_S: Final = 62
POD_SETTINGS: Final = SETTINGS | {
    "lease_s": LEASE_S, "heartbeat_s": 2.0, "send_s": 5, "margin_s": 1, "queue_target_ms": 1000,
}  # fmt: skip
# Between the end of a life and the next.
AGAIN_AFTER_S: Final = (0.2, 25.0)
FREEZE_S: Final = (0.5, 3 * LEASE_S)
AWAY_S: Final = (0.2, 20.0)
CLOCK_ERRORS_S: Final = (-30, -1, 1, 30)
CLOCK_ERROR_MAX_S: Final = 30
CLOCK_SHARE: Final = 0.3
# What heals after the last fault: every timer that is set has run out by then.
HEAL_S: Final = 400
KINDS: Final = ("plain", "rate", "day cap")
RATE: Final = 12
RATE_WINDOW_MS: Final = 2000
DAY_CAP: Final = 60


class NoAnswer(Exception):  # noqa: N818 - it is what is the case
    """The pod that was asked was killed, frozen or too slow: nobody knows."""


class PodEngine(Engine):
    """The fixture's engine as one life of a pod."""

    def __init__(self, folder: Path, life: Life, signing: Signing, settings: dict[str, Any]) -> None:
        """Start nothing."""
        super().__init__(folder, "http://127.0.0.1:9/v2", signing, store_url=URL)
        self.life = life
        self.wanted = settings

    async def start(self) -> None:
        """Begin; in the life's context."""
        assert self.signing is not None
        values: dict[str, Any] = {
            "store_url": self.store_url,
            "store_password": PASSWORD,
            "secret_file": self.folder / "longwave.secrets",
            "telnyx_base_url": self.base_url,
            "telnyx_api_key": API_KEY,
            "telnyx_public_key": self.signing.public_base64,
            "webhook_address": "127.0.0.1:9",
            "history_file": self.folder / f"history-{self.life.name}.jsonl",
        }
        settings = Settings(**(values | self.wanted))
        keys = open_secrets(settings.secrets_path, create=True, now_us=1)
        corridor = Corridor(settings, keys, Metrics("0", "mysql"), self.life.world.clocks[self.life.pod])
        await corridor.start()
        self._corridor = corridor


class AnyPod:
    """What a client sees of them all: each call goes to one that lives, and may never be answered."""

    def __init__(self, world: PodsWorld) -> None:
        """Nobody is asked yet."""
        self.world = world
        self.tenant_key = 0
        self.signing: Signing | None = None

    @property
    def corridor(self) -> "AnyPod":
        """It has what is asked of one."""
        return self

    async def ask(self, work: Callable[[PodEngine], Awaitable[Any]]) -> Any:
        """Have one do it. Raises NoAnswer, and what that raises."""
        living = self.world.living
        if not living:
            raise NoAnswer
        life = self.world.draw.choice(living)
        task = life.run(work(life.engine))
        ended = asyncio.ensure_future(life.ended.wait())
        await asyncio.wait([task, ended], timeout=ANSWER_S, return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if life.dead or not task.done():
            raise NoAnswer
        return task.result()

    async def call(self, submissions: list[pb.Submission]) -> list[Taken]:
        """See `Engine.call`."""
        taken: list[Taken] = await self.ask(lambda engine: engine.call(submissions, self.tenant_key))
        return taken

    async def cancel_message(self, tenant: int, identity: int) -> Any:
        """See `Corridor.cancel_message`."""
        return await self.ask(lambda engine: engine.corridor.cancel_message(tenant, identity))

    async def add_opt_out(self, tenant: int, recipient: int) -> Any:
        """See `Corridor.add_opt_out`."""
        return await self.ask(lambda engine: engine.corridor.add_opt_out(tenant, recipient))

    async def set_campaign(self, state: CampaignState) -> None:
        """See `Engine.set_campaign`."""
        await self.ask(lambda engine: engine.set_campaign(state))


class PodsRun(Run):
    """One seed."""

    world: PodsWorld
    engine: AnyPod  # type: ignore[assignment] # what the steps use of it

    def __init__(self, seed: int, folder: Path, loop: PodsLoop, draw: random.Random) -> None:
        """Draw what stays the same for the run."""
        super().__init__(seed, folder, loop, draw)
        self.folder = folder
        self.signing = self.engine.signing
        self.world = PodsWorld(seed, loop, draw)
        self.kind = draw.choice(KINDS)
        self.redis = draw.random() < 0.5
        self.engine = AnyPod(self.world)
        self.engine.signing = self.signing
        self.settings = POD_SETTINGS | {"in_flight_max": draw.choice((1, 4, 16))}
        if self.redis:
            self.settings |= {"redis_url": "redis://127.0.0.1:9", "redis_cache": True, "redis_wait_ms": 100}
        self._watchers: list[asyncio.Task[None]] = []
        self._heard = 0  # up to this position of the event log
        self._tenant: Any = None
        self._names = [CAMPAIGN, *(f"campaign-{number}" for number in range(1, CAMPAIGNS))]

    async def live(self) -> Outcome:
        """Pods come and go; then healing, then the judgement."""
        world, draw = self.world, self.draw
        await self._start(0)
        await self._make_registry()
        for pod in range(1, PODS):
            await self._start(pod)
        self._watchers = [asyncio.ensure_future(self._watch(first)) for first in range(1)]
        for _ in range(draw.randint(*STEPS)):
            steps = draw.choices((self._submit, self._again, self._reuse, self._cancel, self._opt_out, self._pause),
                                 (12, 3, 1, 2, 1, 1), k=draw.choice(CALLERS))  # fmt: skip
            await asyncio.gather(*(self._unless_killed(step()) for step in steps))
            await asyncio.sleep(draw.choice((0.01, 0.2, 1, 8)))
            self._befall()
        world.heal()
        await self._all_up()
        await self._resume()
        await self._settle()
        await asyncio.gather(*(self._drain(life, last=True) for life in world.living))
        for watcher in self._watchers:
            watcher.cancel()
        return self._judged()

    # Pods.

    async def _start(self, pod: int) -> None:
        """Begin lives of a pod until one is up."""
        world = self.world
        while True:
            world.started += 1
            life = Life(world, pod, world.started)
            world.lives[pod] = life
            engine = PodEngine(self.folder, life, self.signing, self.settings)  # type: ignore[arg-type] # is set
            engine.tenant = self._tenant
            world.tell("starts", life.name)
            starting = life.run(engine.start())
            ended = asyncio.ensure_future(life.ended.wait())
            await asyncio.wait([starting, ended], return_when=asyncio.FIRST_COMPLETED)
            ended.cancel()
            if not life.dead and starting.exception() is None:
                break
            if not life.dead:
                world.faults["could not start"] += 1
                if not isinstance(starting.exception(), Refused | StoreBroken | StoreLocked | MySQLError | OSError):
                    starting.result()
                world.tell("could not start", repr(starting.exception()))
                life.die("at a failed start")
            await asyncio.sleep(self.draw.uniform(0.5, 3))
        life.engine = engine
        asyncio.ensure_future(self._look_after(life))  # noqa: RUF006 - it ends with the life

    async def _look_after(self, life: Life) -> None:
        """A supervisor: who ends or gives up is started again."""
        ended = asyncio.ensure_future(life.ended.wait())
        broken: asyncio.Future[Any] = life.engine.corridor.broken
        await asyncio.wait([ended, broken], return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not life.dead:
            self.world.faults["gave up"] += 1
            self.world.tell("gave up", life.name)
            life.die("by itself")
        await asyncio.sleep(self.draw.uniform(*AGAIN_AFTER_S))
        if self.world.lives[life.pod] is life:
            await self._start(life.pod)

    async def _drain(self, life: Life, *, last: bool = False) -> None:
        """As SIGTERM."""
        world = self.world
        from_us = world.clock.right_us()
        world.tell("drains", life.name)
        stopping = life.run(life.engine.corridor.stop(5))
        ended = asyncio.ensure_future(life.ended.wait())
        await asyncio.wait([stopping, ended], return_when=asyncio.FIRST_COMPLETED)
        ended.cancel()
        if not life.dead:
            # Before the last ones another pod may tell of attempts of one that was killed.
            if last:
                world.note("drained", from_us=from_us, to_us=world.clock.right_us(), exit_code=0, faultless=False)
            life.die("after its drain")

    async def _freeze(self, life: Life, seconds: float) -> None:
        from_us = self.world.clock.right_us()
        life.freeze()
        await asyncio.sleep(seconds)
        life.thaw()
        self.world.note("frozen", from_us=from_us, to_us=self.world.clock.right_us())

    def _befall(self) -> None:
        """Between two steps something may happen."""
        world, draw = self.world, self.draw
        what = draw.choices(
            ("nothing", "kill", "kill at a point", "freeze", "drain", "partition", "server", "clock", "redis"),
            (60, 6, 8, 4, 3, 4, 2, 3, 4),
        )[0]
        living = world.living
        if what == "server":
            world.server_away(draw.uniform(*AWAY_S))
        elif what == "redis":
            self._hurt_redis()
        if not living:
            return
        life = draw.choice(living)
        if what == "kill":
            life.die("at a moment")
        elif what == "kill at a point":
            life.kill_after = draw.randint(1, 30)
        elif what == "freeze" and not life.frozen:
            asyncio.ensure_future(self._freeze(life, draw.uniform(*FREEZE_S)))  # noqa: RUF006 - it ends in time
        elif what == "drain" and not life.frozen:
            asyncio.ensure_future(self._drain(life))  # noqa: RUF006 - as above
        elif what == "partition":
            world.partition(life, draw.uniform(*AWAY_S))
        elif what == "clock" and world.clock_errors:
            world.set_pod_clock(life.pod, draw.choice(CLOCK_ERRORS_S) * US)

    def _hurt_redis(self) -> None:
        redis, draw = self.world.redis, self.draw
        what = draw.choice(("flush", "away", "refuses", "well"))
        if what == "flush":
            redis.flush()
        redis.away, redis.refuses = what == "away", what == "refuses"
        self.world.faults[f"redis {what}"] += 1

    async def _all_up(self) -> None:
        await asyncio.sleep(0.1)  # what befell last has begun by then
        while len(self.world.living) < PODS or any(life.frozen for life in self.world.living):  # noqa: ASYNC110 - virtual
            await asyncio.sleep(1)

    # Client.

    async def _make_registry(self) -> None:
        left: deque[Callable[[PodEngine], Awaitable[Any]]] = deque()
        left.append(lambda engine: engine.make_sample(on_unknown=self.policy))
        for place, name in enumerate(self._names[1:], 1):
            left.append(partial(PodEngine.make_campaign, name=name, sender=SENDER + place, on_unknown=self.policy))
        if self.kind == "rate":
            rate = {"window_ms": RATE_WINDOW_MS, "burst": 2}
            left.append(lambda engine: engine.set_quota(Scope.TENANT, "tenants/acme", RATE, **rate))
        elif self.kind == "day cap":
            left.append(lambda engine: engine.set_quota(Scope.BRAND_CARRIER_DAY, "brands/acme", DAY_CAP, carrier=3))

        async def make(engine: PodEngine) -> None:
            """What was made before an attempt ended is not made again."""
            engine.tenant = engine.tenant or self._tenant
            while left:
                await left[0](engine)
                left.popleft()
                self._tenant = engine.tenant

        await self._insist(lambda: self.engine.ask(make))
        self.engine.tenant_key = self._tenant.key

    @staticmethod
    async def _insist(work: Callable[[], Awaitable[Any]]) -> Any:
        while True:
            try:
                return await work()
            except (NoAnswer, Refused):
                await asyncio.sleep(1)

    async def _resume(self) -> None:
        await self._insist(lambda: self.engine.set_campaign(CampaignState.ACTIVE))

    async def _unless_killed(self, work: Any) -> None:
        with contextlib.suppress(NoAnswer, Refused, CallRefused):
            await work

    def _new(self) -> pb.Submission:
        one = super()._new()
        one.campaign = f"campaigns/{self.draw.choice(self._names)}"
        return one

    async def _watch(self, number: int) -> None:
        """Follow the tenant's events on whichever pod there is, from wherever it was cut off."""
        position, seen = 0, list[list[int]]()
        while True:
            at = position

            async def read(engine: PodEngine, at: int = at) -> tuple[list[bytes], int]:
                rows, reached = await engine.corridor.read_events(self.engine.tenant_key, at, 100)
                if not rows and reached == at:
                    await engine.corridor.wait_for_events(self.engine.tenant_key, at, WATCH_S)
                return rows, reached

            try:
                rows, position = await self.engine.ask(read)
                self._heard = position
            except (NoAnswer, Refused):
                await asyncio.sleep(1)
                continue
            for encoded in rows:
                for event in pb.WatchEventsResponse.FromString(encoded).events:
                    if event.kind == pb.Event.KIND_MESSAGE:
                        seen.append([crash_evidence.id_of(event.message.removeprefix("messages/")), event.seq])
            self._seen = {**getattr(self, "_seen", {}), number: seen}

    # Receipts.

    async def _deliver(self, number: int, query: str, body: bytes, forged: bool, tries: int) -> None:  # noqa: FBT001
        signing = FORGER if forged else self.signing
        assert signing is not None
        inbound = signing.sign(query, body, self.world.clock.right_us())
        status = 503

        async def receive(engine: PodEngine) -> int:
            return (await engine.receive([inbound]))[0] if engine.corridor.not_ready() is None else 503

        with contextlib.suppress(NoAnswer, Refused):
            status = await self.engine.ask(receive)
        self.world.tell("webhook", (number, status))
        if not self._told(number, query, body, forged, tries, status):
            self.world.receipts -= 1

    # The end.

    async def _settle(self) -> None:
        capped = self.kind == "day cap"
        until = self.world.loop.time() + HEAL_S + 2 * CLOCK_ERROR_MAX_S
        if capped:  # what waits may wait for tomorrow, but nothing is scheduled for later than this
            await asyncio.sleep(SCHEDULED_S)
        which = "state < 16 AND state <> 1" if capped else "state < 16"
        unfinished = f"SELECT COUNT(*) FROM messages WHERE {which}"  # noqa: S608 - two constants
        while self.world.loop.time() < until:
            if self.world.server._reader.execute(unfinished).fetchone()[0] == 0:
                break
            await asyncio.sleep(2)
        while self.world.loop.time() < until and self.world.receipts > 0:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(1)
        await asyncio.sleep(2 * WATCH_S)
        # Under a cap what waits may expire at any moment: the subscriber hears of the last one, too.
        while self.world.loop.time() < until and self._heard < self._newest():  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.5)

    def _newest(self) -> int:
        """The last position of the tenant's log."""
        of_slot = "SELECT next_position - 1 FROM event_slots WHERE slot = ?"
        newest: int = self.world.server._reader.execute(of_slot, (self.engine.tenant_key % EVENT_SLOTS,)).fetchone()[0]
        return newest

    def _judged(self) -> Outcome:
        world = self.world
        world.server.close()
        evidence = Evidence(client=world.lines, requests=world.requests)
        crash_evidence.read_store(self.folder / "model.db", evidence)
        notes = [crash_evidence.read_lines(path) for path in sorted(self.folder.glob("history-*.jsonl"))]
        evidence.notes = sorted((line for lines in notes for line in lines), key=lambda line: line["right_us"])
        for number, seen in getattr(self, "_seen", {}).items():
            world.note("watched", subscriber=f"w{number}", tenant=self.engine.tenant_key, events=seen, caught_up=True)
        promises = Promises(
            honours_keys=False,
            nodes=PODS,
            all_final=self.kind != "day cap",
            no_receipt_after_us=int(SETTINGS["no_receipt_after_h"] * 3600 * US),
            clock_error_us=2 * CLOCK_ERROR_MAX_S * US if world.clock_errors else 0,
        )
        violations = check(evidence, promises)
        world.tell("rows", [(row.id, row.state, row.seq) for row in evidence.rows])
        return Outcome(
            world.seed, violations, world.trace.hexdigest(), len(evidence.rows), len(world.requests), world.started,
            world.loop.time(), world.faults,
        )  # fmt: skip


@lru_cache(maxsize=1)
def _empty_database() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.db"
        make_database(path)
        return path.read_bytes()


@contextlib.contextmanager
def _replaced(run: PodsRun) -> Iterator[None]:
    """The engine's seams, for one run."""
    world = run.world
    SimulatedPool.world = world
    SimulatedPool.deliver = staticmethod(run.deliver)
    note = History.note
    begun = transactions._Group.__init__

    def note_when(self: History, kind: str, **fields: Any) -> None:
        """The right time beside the engine's."""
        note(self, kind, right_us=world.clock.right_us(), **fields)

    def begin_group(self: Any, jobs: list[Any], began_s: float | None = None) -> None:
        begun(self, jobs, world.loop.time() if began_s is None else began_s)

    random_before = random.getstate()
    random.seed(world.seed)
    with contextlib.ExitStack() as stack:
        stack.callback(random.setstate, random_before)
        stack.enter_context(installed(world.server))
        for target, name, value in (
            (link, "make_pool", lambda _settings, _clock, may, on_results: PodsPool(on_results, may)),
            (failpoints, "passing", world.passing),
            (History, "note", note_when),
            (lease.Lease, "start", start_lease),
            (redis_access, "access_of", lambda _settings: _Access(world)),
            (transactions._Group, "__init__", begin_group),
            (time, "monotonic", world.loop.time),
            (secrets, "randbits", world.draw.getrandbits),
            (sweep, "DUE_EVERY_S", 1.0),
            (sweep, "BACKLOG_EVERY_S", 60.0),
            (sweep, "DAYS_EVERY_S", 10.0),
            (sweep, "REFILL_EVERY_S", 5.0),
            (look_up, "LOOK_S", 1.0),
            (duty, "ASK_S", 2.0),
            (duty, "INBOX_S", 0.7),
            (duty, "CONSENT_S", 2.0),
            (duty, "OUTCOME_LOOK_S", 0.2),
            (duty, "INBOX_COUNT_S", 60.0),
        ):
            stack.enter_context(mock.patch.object(target, name, value))
        yield


class _Access:
    """As `engine.redis_access.Access`."""

    wait_s = 0.1

    def __init__(self, world: PodsWorld) -> None:
        self.open = world.redis.open


async def _end(world: PodsWorld) -> None:
    """What lives left behind when they were killed."""
    for life in world.lives:
        if life is not None:
            life.dead = True
    for task in asyncio.all_tasks() - {asyncio.current_task()}:
        with contextlib.suppress(BaseException):
            task.get_coro().close()


def simulate_pods(seed: int, *, verbose: Callable[[str], None] | None = None, around: Any = None) -> Outcome:
    """Run one seed; `around` is a context manager to plant a bug with."""
    logging_before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    # Of connections that broke; and of what killed pods never came to do.
    logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", "coroutine .* was never awaited", RuntimeWarning)
    draw = random.Random(seed)  # noqa: S311 - it must repeat
    loop = PodsLoop(draw)
    folder = Path(tempfile.mkdtemp(prefix="simulation-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None))  # noqa: S108
    (folder / "model.db").write_bytes(_empty_database())
    try:
        asyncio.set_event_loop(loop)
        loop.set_exception_handler(lambda _loop, _context: None)
        run = PodsRun(seed, folder, loop, draw)
        run.world.verbose = verbose
        run.world.server = Server(folder / "model.db", lambda: right_us(loop), travel=run.world.travel)
        with uncollected(), _replaced(run), around or contextlib.nullcontext():
            outcome = loop.run_until_complete(run.live())
            loop.run_until_complete(_end(run.world))
            return outcome
    finally:
        structlog.configure(**logging_before)
        asyncio.set_event_loop(None)
        loop.close()
        shutil.rmtree(folder, ignore_errors=True)
