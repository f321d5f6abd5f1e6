"""One process in which only virtual time passes: loop, store's writer, clock and carrier of a simulated run.

The corridor, the core and the store are the real ones; what waits for the machine (threads, sockets, clocks) is
replaced at the engine's own seams, and everything random is drawn from one seed. It judges nothing.

Invariants: nothing runs in another thread; time goes on only when nothing is left to do, to the next timer; after a
crash nothing of the life that ended writes, sends or answers.
"""

import asyncio
import contextlib
import gc
import hashlib
import heapq
import json
import random
import selectors
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from typing import Any, Final

from engine.clock import Clock
from engine.http_exchange import Exchange, NoFreeSlotError, Phase
from engine.stores.writer import Writer
from tests.corridor.crash_evidence import Request, request_of, sha256
from tests.corridor.engine_fixture import US, receipt_body

START_US: Final = 1_790_000_000_000_000
BOOT_US: Final = 5_000_000_000
CONNECTIONS_MAX: Final = 16
TIMEOUT_S: Final = 5.0
# Of final receipts; only a look-up finds out.
LOST_SHARE: Final = 0.07
# Of seeds: whose wall clock is set, wrong and wrong again, at so many of the client's steps.
CLOCK_SHARE: Final = 0.3
STEP_SHARE: Final = 0.25
# A run that has not ended by then waits for what never comes.
LONGEST_S: Final = 20_000
# Timers that were cancelled leave the heap together.
CANCELLED_MAX: Final = 100
# Within the window of a webhook's time, and far outside it.
CLOCK_ERRORS_S: Final = (0, 0, -1, 1, -60, 60, -250, 250, -900, 900)
CLOCK_ERROR_MAX_S: Final = 900
# Of seeds: whose store fills up, at so many of the client's steps, for up to a quarter of a minute.
FULL_SHARE: Final = 0.3
FILL_SHARE: Final = 0.2


class Killed(BaseException):
    """The process ended at a failpoint."""


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Without the cyclic collector, which is a tenth of a short run; what it leaves is collected after it."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


class _Jump(selectors.SelectSelector):
    """Waits for nothing: what would be waited for is time, and it passes at once."""

    passed: Callable[[float], None]

    def select(self, timeout: float | None = None) -> list[Any]:
        if timeout is None:
            message = "nothing will ever happen again"
            raise RuntimeError(message)
        self.passed(max(0.0, timeout))
        return []


class VirtualLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is counted, not measured."""

    def __init__(self, draw: random.Random) -> None:
        """Time 0."""
        jump = _Jump()
        super().__init__(jump)
        jump.passed = self._pass
        self._at_s = 0.0
        self._draw = draw

    def _pass(self, seconds: float) -> None:
        self._at_s += seconds

    def _run_once(self) -> None:
        """As asyncio's, without a look at sockets: nothing here has any."""
        loop: Any = self  # what is asyncio's own is not in its stubs
        scheduled, ready = loop._scheduled, loop._ready
        if loop._timer_cancelled_count > CANCELLED_MAX and loop._timer_cancelled_count > len(scheduled) / 2:
            for timer in scheduled:
                timer._scheduled = not timer._cancelled
            scheduled = loop._scheduled = [timer for timer in scheduled if timer._scheduled]
            heapq.heapify(scheduled)
            loop._timer_cancelled_count = 0
        while scheduled and scheduled[0]._cancelled:
            loop._timer_cancelled_count -= 1
            heapq.heappop(scheduled)._scheduled = False
        if not ready and not loop._stopping:
            if not scheduled:
                message = "nothing will ever happen again"
                raise RuntimeError(message)
            self._at_s = max(self._at_s, scheduled[0]._when)
            if self._at_s > LONGEST_S:
                message = f"a run does not end: {LONGEST_S} virtual seconds are over"
                raise RuntimeError(message)
        while scheduled and scheduled[0]._when <= self._at_s:
            timer = heapq.heappop(scheduled)
            timer._scheduled = False
            ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:
                handle._run()

    def time(self) -> float:
        """Virtual seconds."""
        return getattr(self, "_at_s", 0.0)

    def call_soon_threadsafe(self, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        """There is one thread."""
        return self.call_soon(callback, *args, context=context)

    def run_in_executor(self, executor: Executor | None, func: Any, *args: Any) -> Any:  # type: ignore[override]
        """Run it here, a little later."""
        del executor
        future = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - the waiter's
                future.set_exception(error)

        self.call_later(self._draw.uniform(0, 0.003), run)
        return future


class StoreIsFullError(Exception):
    """What the driver raises, as the engine reads it."""

    sqlite_errorcode = sqlite3.SQLITE_FULL


class VirtualClock(Clock):
    """Wall and boot time of the loop; the wall clock may be set wrong, and set again."""

    def __init__(self, loop: VirtualLoop, draw: random.Random) -> None:
        """Begin right."""
        super().__init__()
        self._loop = loop
        self._draw = draw
        self.error_us = 0

    def now_us(self) -> int:
        """Wall time, as wrong as it was set."""
        return self.right_us() + self.error_us

    def right_us(self) -> int:
        """What a right clock says: the client's and the carrier's."""
        return START_US + int(self._loop.time() * US)

    def mono_us(self) -> int:
        """Boot time."""
        return BOOT_US + int(self._loop.time() * US)

    def seed(self) -> int:
        """From the seed."""
        return self._draw.getrandbits(64)


class World:
    """What all lives of one run share."""

    def __init__(self, seed: int, loop: VirtualLoop, draw: random.Random) -> None:
        """Nothing happened yet."""
        self.seed = seed
        self.draw = draw
        self.loop = loop
        self.clock = VirtualClock(loop, draw)
        # Faults that came later than the rest draw from a source of their own: seeds without them stay what they were.
        self.chance = random.Random(f"{seed} faults")  # noqa: S311 - it must repeat
        self.clock_errors = self.chance.random() < CLOCK_SHARE
        self.fills_up = random.Random(f"{seed} fills up").random() < FULL_SHARE  # noqa: S311 - it must repeat
        self.full = ""
        """Which commits find no room: `new` work's, `all`, or none."""
        self.life = 0
        self.alive = False
        self.died = asyncio.Event()
        self.kill_after: int | None = None
        """Passings of failpoints until the process is killed."""
        self.healed = False
        self.faults: Counter[str] = Counter()
        self.trace = hashlib.sha256()
        self.lines: list[dict[str, Any]] = []
        self.requests: list[Request] = []
        self.finals: dict[str, tuple[str, str]] = {}
        self.verbose: Callable[[str], None] | None = None

    def note(self, kind: str, **fields: Any) -> None:
        """A line of the client's log."""
        self.lines.append({"kind": kind, "at_us": self.clock.right_us()} | fields)
        self.tell(kind, fields)

    def tell(self, what: str, fields: Any = "") -> None:
        """Into the trace, whose hash is the run's fingerprint."""
        line = f"{self.loop.time():.6f} {what} {fields}"
        self.trace.update(line.encode())
        if self.verbose is not None:
            self.verbose(line)

    @property
    def new_work(self) -> set[str]:
        """The commits that find no room while there is some left for what was accepted before."""
        return {"append.before_commit"} if self.full == "new" else set()

    def befall(self) -> None:
        """Between two steps of the client something may happen to the machine."""
        if self.clock_errors and self.chance.random() < STEP_SHARE:
            self.set_clock(int(self.chance.choice(CLOCK_ERRORS_S) * US))

        if self.fills_up and self.alive and not self.full and self.chance.random() < FILL_SHARE:
            self.full = self.chance.choice(("new", "all"))
            self.tell("full", self.full)
            self.loop.call_later(self.chance.uniform(0.2, 15), self.empty)

    def empty(self) -> None:
        """There is room again."""
        self.full = ""

    def set_clock(self, error_us: int) -> None:
        """Set the wall clock; the boot clock goes on."""
        if error_us != self.clock.error_us:
            self.faults["clock set"] += 1
            self.clock.error_us = error_us
            self.tell("clock", error_us)

    def heal(self) -> None:
        """No fault from now on."""
        self.healed = True
        self.kill_after = None
        self.set_clock(0)
        self.empty()

    def passing(self, name: str) -> None:
        """Stands in for `failpoints.passing`."""
        if self.alive and name.endswith(".before_commit") and (self.full == "all" or name in self.new_work):
            self.faults[f"store full for {self.full}"] += 1
            raise StoreIsFullError
        if not self.alive or self.kill_after is None:
            return
        self.kill_after -= 1
        if self.kill_after <= 0:
            self.kill_after = None
            self.die(f"at {name}")
            raise Killed(name)

    def die(self, where: str) -> None:
        """From here on nothing of this life has any effect."""
        self.tell("killed", where)
        self.faults[f"killed {where}"] += 1
        self.alive = False
        # Whoever starts a process anew makes room first: a store that cannot be opened ends no message.
        self.empty()
        self.died.set()


class InlineWriter(Writer):
    """The real writer, on the loop instead of its own thread."""

    world: World

    def __init__(self, *args: Any, **options: Any) -> None:
        """As the real one."""
        super().__init__(*args, **options)
        self._life = self.world.life
        self._pumping = False

    @property
    def _living(self) -> bool:
        return self.world.alive and self._life == self.world.life

    def start(self) -> None:
        """Begin."""
        self._loop = asyncio.get_running_loop()

    def submit(self, *args: Any, **options: Any) -> asyncio.Future[Any]:
        """Hand in; the group is run some virtual milliseconds later."""
        future = super().submit(*args, **options)
        if not self._pumping and not self._queue.empty() and self._loop is not None:
            self._pumping = True
            self._loop.call_later(self.world.draw.uniform(0.0002, 0.01), self._pump)
        return future

    def _pump(self) -> None:
        self._pumping = False
        while self._living and not self._queue.empty():
            job = self._queue.get()
            if job is not None:
                self._run_group(job)

    def _transact(self, group: list[Any], tries: int = 0) -> None:
        if self._living:  # a rollback that a kill began must not become a second try
            super()._transact(group, tries)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        if self._living:
            super()._call(function, *arguments)

    async def close(self) -> None:
        """Run what was handed in, unless the process was killed."""
        self._pump()
        self._closed = True


class SimulatedPool:
    """The way to the carrier, and the carrier: what it takes, answers, forgets and tells later."""

    world: World
    deliver: Callable[[int, str, bytes, bool], None]

    def __init__(self, on_results: Callable[[list[Exchange]], None]) -> None:
        """One for each life."""
        self._on_results = on_results
        self._life = self.world.life
        self._open = 0
        self._closing = False
        self.connections = CONNECTIONS_MAX
        self.connect_wait_s = 0.0

    @property
    def slots_free(self) -> int:
        """How many may be submitted."""
        return 0 if self._closing else CONNECTIONS_MAX - self._open

    @property
    def in_flight(self) -> int:
        """Without answer."""
        return self._open

    def submit(self, request: Any, data: bytes) -> None:
        """Send one rendered request."""
        if not self.slots_free:
            raise NoFreeSlotError
        if not self._living:
            return
        self._open += 1
        delay_s, result = self._fate(data)
        self.world.loop.call_later(delay_s, self._report, request, delay_s, result)

    @property
    def _living(self) -> bool:
        return self.world.alive and self._life == self.world.life

    def _report(self, request: Any, delay_s: float, result: tuple[Phase, int, float | None, bytes]) -> None:
        if not self._living:
            return
        self._open -= 1
        phase, status, retry_after_s, body = result
        self.world.tell("answered", (phase.name, status))
        exchange = Exchange(request, phase, status, retry_after_s, body, int(delay_s * US), "simulated")
        if isinstance(request, asyncio.Future):
            request.set_result(exchange)
        else:
            self._on_results([exchange])

    async def request(self, data: bytes) -> Exchange:
        """Send and wait."""
        answer: asyncio.Future[Exchange] = self.world.loop.create_future()
        self.submit(answer, data)
        return await answer

    async def close(self, grace_s: float) -> None:
        """Wait for what is open, then cut it."""
        self._closing = True
        until = self.world.loop.time() + grace_s
        while self._open and self._living and self.world.loop.time() < until:  # noqa: ASYNC110 - virtual time
            await asyncio.sleep(0.05)

    # The carrier.

    def _fate(self, data: bytes) -> tuple[float, tuple[Phase, int, float | None, bytes]]:
        head, _, body = data.partition(b"\r\n\r\n")
        draw, world = self.world.draw, self.world
        delay_s = draw.uniform(0.005, 0.3)
        if head.startswith(b"GET"):
            return delay_s, (Phase.ANSWERED, *self._looked_up(head.split(b" ")[1].rsplit(b"/", 1)[-1].decode()))
        fault = "none" if world.healed else draw.choices(FATES, WEIGHTS)[0]
        if fault != "none":
            world.faults[fault] += 1
        if fault == "not connected":
            return delay_s, (Phase.NOT_CONNECTED, 0, None, b"")
        fields = json.loads(body)
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        key = {name.lower(): value for name, value in headers.items()}.get("idempotency-key", "")
        taken = fault in {"none", "slow", "lost answer", "reset after", "error after", "garbage"}
        final = draw.choice(("delivered",) * 6 + ("delivery_failed/40008",)) if taken else ""
        query = fields["webhook_url"].partition("?")[2]
        line = {
            "taken_at_us": world.clock.right_us(),
            "idempotency_key": key or f"{query.partition('m=')[2].partition('&')[0]}:1",
            "from": fields["from"],
            "to": fields["to"],
            "text_sha256": sha256(fields["text"]),
            "body_sha256": hashlib.sha256(body).hexdigest(),
            "taken": taken,
            "final": final,
            "receipt_faults": ["finalized_lost"] if taken and not world.healed and draw.random() < LOST_SHARE else [],
        }
        world.requests.append(request_of(line))
        world.tell("request", (fields["to"], fault))
        provider_id = f"sim-{len(world.requests)}"
        if taken:
            world.finals[provider_id] = (fields["to"], final)
            self._receipts(query, provider_id, final, lost=bool(line["receipt_faults"]))
        if fault == "slow":
            delay_s = draw.uniform(1, TIMEOUT_S - 1)
        return self._answer(fault, delay_s, fields, provider_id)

    def _looked_up(self, provider_id: str) -> tuple[int, None, bytes]:
        number, final = self.world.finals.get(provider_id, ("", ""))
        if not number:
            return 404, None, b'{"errors":[{"code":"10005","title":"none"}]}'
        status, _, code = final.partition("/")
        errors = [{"code": code, "title": "made up"}] if code else []
        data = {"id": provider_id, "to": [{"phone_number": number, "status": status}], "errors": errors}
        return 200, None, json.dumps({"data": data}).encode()

    def _answer(
        self, fault: str, delay_s: float, fields: dict[str, Any], provider_id: str
    ) -> tuple[float, tuple[Phase, int, float | None, bytes]]:
        if fault in {"none", "slow"}:
            to = [{"phone_number": fields["to"], "status": "queued", "carrier": "VERIZON"}]
            return delay_s, (Phase.ANSWERED, 200, None, json.dumps({"data": {"id": provider_id, "to": to}}).encode())
        if fault == "throttled":
            return delay_s, (Phase.ANSWERED, 429, 1.0, b'{"errors":[{"code":"10011","title":"slow"}]}')
        if fault == "refused":
            return delay_s, (Phase.ANSWERED, 400, None, b'{"errors":[{"code":"40310","title":"no"}]}')
        if fault in {"error before", "error after"}:
            return delay_s, (Phase.ANSWERED, 503, None, b"<html>")
        if fault == "garbage":
            return delay_s, (Phase.MALFORMED, 0, None, b"")
        if fault in {"lost answer", "lost request"}:
            return TIMEOUT_S, (Phase.TIMEOUT, 0, None, b"")
        return delay_s, (Phase.RESET, 0, None, b"")

    def _receipts(self, query: str, provider_id: str, final: str, *, lost: bool) -> None:
        world, draw = self.world, self.world.draw
        number = len(world.requests)
        status, _, code = final.partition("/")
        told: list[tuple[float, bytes]] = []
        if draw.random() < 0.9:
            told.append((draw.uniform(0, 1), receipt_body(f"s{number}", "sent", provider_id=provider_id)))
        if not lost:
            body = receipt_body(f"f{number}", status, provider_id=provider_id, code=code, carrier="VERIZON")
            told.append((draw.uniform(0, 4), body))
        else:
            world.faults["receipt lost"] += 1
        for delay_s, body in told:
            copies = 1 + (not world.healed and draw.random() < 0.1)
            for copy in range(copies):
                later_s = delay_s + copy * draw.uniform(0, 20)
                self._later(later_s, number, query, body, forged=False)
            if not world.healed and draw.random() < 0.05:
                world.faults["forged receipt"] += 1
                forged = receipt_body(f"x{number}", "delivery_failed", provider_id=provider_id, code="66666")
                self._later(delay_s / 2, number, query, forged, forged=True)

    def _later(self, wait_s: float, number: int, query: str, body: bytes, *, forged: bool) -> None:
        """The carrier tells it then."""
        self.world.loop.call_later(wait_s, self.deliver, number, query, body, forged)


FATES: Final = (
    "none", "slow", "throttled", "refused", "error before", "error after",
    "lost answer", "lost request", "reset before", "reset after", "garbage", "not connected",
)  # fmt: skip
WEIGHTS: Final = (70, 5, 3, 2, 3, 3, 3, 2, 2, 3, 2, 2)
