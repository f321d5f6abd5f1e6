"""One process in which several pods, the server that they share, a Redis and the carrier live in virtual time.

Each life of a pod has a context of its own, which everything that it schedules carries: so a pod that is killed does
nothing any more, from one callback to the next, and one that is frozen does all of it later. Corridor, core and the
MySQL store are the real ones over the model of the server (`tests/servers/model`). It judges nothing.

Invariants: nothing runs in another thread; time goes on only when nothing is left to do; what a life that ended had on
its way to the server is undone there, at once or when the server hears of it.
"""

import asyncio
import contextlib
import contextvars
import heapq
import random
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable
from typing import Any, Final, NoReturn

from asyncmy import errors
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import ResponseError

from engine.http_exchange import Phase
from engine.lease import Lease
from engine.stores.mysql.owner import Heart
from tests.proof.simulation.world import START_US, Killed, SimulatedPool, VirtualClock, VirtualLoop, World
from tests.servers.model.server import DEADLOCK, LOST, UNREACHABLE, Connection, Server

PODS: Final = 3
# One way between a pod and the server.
WAY_S: Final = (0.0002, 0.004)
# Of statements, while nothing is healed: what becomes of them.
CUT_SHARE: Final = 0.001
DEADLOCK_SHARE: Final = 0.002
LOST_COMMIT_SHARE: Final = 0.01
# A machine that vanishes says nothing: its connections stay until the server's own bound.
VANISHED_SHARE: Final = 0.3
FORGOTTEN_S: Final = 60.0
# Another host's boot.
BOOT_APART_US: Final = 777_000_000

POD: contextvars.ContextVar["Life | None"] = contextvars.ContextVar("pod", default=None)


class Life:
    """Of one pod, from its start to its end."""

    def __init__(self, world: "PodsWorld", pod: int, number: int) -> None:
        """It lives."""
        self.world = world
        self.pod = pod
        self.number = number
        self.dead = False
        self.frozen = False
        self.partitioned = False
        self.kill_after: int | None = None
        """Passings of failpoints until it is killed."""
        self.ended = asyncio.Event()
        self.engine: Any = None
        self._held: list[asyncio.Handle] = []
        self._context = contextvars.copy_context()
        self._context.run(POD.set, self)

    @property
    def name(self) -> str:
        """For the trace."""
        return f"{self.pod}.{self.number}"

    def run(self, work: Awaitable[Any]) -> "asyncio.Task[Any]":
        """A task of this life."""

        async def working() -> Any:
            return await work

        return self._context.copy().run(self.world.loop.create_task, working())

    def hold(self, handle: asyncio.Handle) -> None:
        """It is frozen: this runs when it thaws."""
        self._held.append(handle)

    def freeze(self) -> None:
        """As SIGSTOP."""
        self.frozen = True
        self.world.faults["frozen"] += 1
        self.world.tell("frozen", self.name)

    def thaw(self) -> None:
        """As SIGCONT."""
        self.frozen = False
        self.world.tell("thawed", self.name)
        held, self._held = self._held, []
        self.world.loop._ready.extend(held)  # type: ignore[attr-defined] # asyncio's own; in their order

    def die(self, where: str) -> None:
        """As SIGKILL, or as a machine that vanishes."""
        if self.dead:
            return
        self.dead, world = True, self.world
        self._held.clear()
        world.faults[f"killed {where}"] += 1
        world.tell("killed", (self.name, where))
        vanishes = world.draw.random() < VANISHED_SHARE and not world.healed
        for connection in world.connections_of(self):
            if vanishes:
                world.faults["vanished"] += 1
                world.later(world.draw.uniform(0, FORGOTTEN_S), connection.cut)
            else:
                connection.cut()
        world.run_outside(self.ended.set)


class _Gate:
    """A callback of a life: it runs while that lives, and when it is not frozen."""

    __slots__ = ()
    _life: Life

    def _run(self) -> None:
        if self._life.dead:
            return
        if self._life.frozen:
            self._life.hold(self)  # type: ignore[arg-type] # each is a handle, too
        else:
            super()._run()  # type: ignore[misc] # asyncio's


class _Soon(_Gate, asyncio.Handle):
    __slots__ = ("_life",)


class _Later(_Gate, asyncio.TimerHandle):
    __slots__ = ("_life",)


class PodsLoop(VirtualLoop):
    """A loop whose callbacks belong to lives."""

    def call_soon(self, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        """Run it, unless its life has ended; later, if that is frozen."""
        life = POD.get() if context is None else context.get(POD)
        if life is None:
            return super().call_soon(callback, *args, context=context)
        handle = _Soon(callback, args, self, context)
        handle._life = life
        self._ready.append(handle)  # type: ignore[attr-defined] # asyncio's own
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Any = None) -> Any:  # type: ignore[override]
        """As `call_soon`, at a time."""
        life = POD.get() if context is None else context.get(POD)
        if life is None:
            return super().call_at(when, callback, *args, context=context)
        timer = _Later(when, callback, args, self, context)
        timer._life = life
        heapq.heappush(self._scheduled, timer)  # type: ignore[attr-defined] # as above
        timer._scheduled = True  # type: ignore[attr-defined] # as above
        return timer


class PodsWorld(World):
    """What all lives of one run share."""

    loop: PodsLoop

    def __init__(self, seed: int, loop: PodsLoop, draw: random.Random) -> None:
        """Nothing happened yet."""
        super().__init__(seed, loop, draw)
        self.alive = True
        self.fills_up = False
        self.lives: list[Life | None] = [None] * PODS
        self.started = 0
        self.receipts = 0
        """That the carrier has yet to tell, or tells."""
        self.server: Server
        self.redis = ModelRedis(self)
        self.clocks = [PodClock(loop, draw, pod) for pod in range(PODS)]

    # Outside of all pods.

    @staticmethod
    def run_outside(work: Callable[..., Any], *args: Any) -> Any:
        """What it schedules belongs to no pod."""
        return contextvars.Context().run(work, *args)

    def later(self, wait_s: float, work: Callable[..., Any], *args: Any) -> None:
        """The world does this then."""
        self.loop.call_later(wait_s, work, *args, context=contextvars.Context())

    def connections_of(self, life: Life) -> list[Connection]:
        """Its connections, as the server has them."""
        return [each for each in self.server.connections.values() if getattr(each, "life", None) is life]

    @property
    def living(self) -> list[Life]:
        """Pods that could answer."""
        return [life for life in self.lives if life is not None and not life.dead and life.engine is not None]

    # Faults.

    async def travel(self, connection: Connection, way: str) -> None:
        """One way between a pod and the server."""
        life = POD.get()
        if way == "connect":
            connection.life = life  # type: ignore[attr-defined] # whose it is
        if not way.startswith("out"):  # both ways at once
            await asyncio.sleep(self.draw.uniform(*WAY_S))
        if not self.server.reachable or (life is not None and life.partitioned):
            connection.open = False
            code = UNREACHABLE if way == "connect" else LOST
            raise errors.OperationalError(code, "the server is not reached")
        if self.healed or way == "connect":
            return
        chance = self.draw.random()
        if way == "out COMMIT" and chance < LOST_COMMIT_SHARE:
            self.faults["answer to COMMIT lost"] += 1
            self._cut(connection)
        if chance < CUT_SHARE:
            self.faults["connection lost"] += 1
            self._cut(connection)
        if way == "in" and connection.transaction is not None and chance < CUT_SHARE + DEADLOCK_SHARE:
            self.faults["deadlock"] += 1
            self.server._undo(connection.transaction)
            connection.transaction = None
            raise errors.OperationalError(DEADLOCK, "Deadlock found when trying to get lock")

    @staticmethod
    def _cut(connection: Connection) -> NoReturn:
        connection.cut()
        connection.lost()

    def server_away(self, seconds: float) -> None:
        """It restarts: nothing that was not committed is left."""
        self.faults["server away"] += 1
        self.tell("server away", seconds)
        self.server.reachable = False
        for connection in list(self.server.connections.values()):
            connection.cut()
        self.later(seconds, self.server_back)

    def server_back(self) -> None:
        """It answers again."""
        self.server.reachable = True

    def partition(self, life: Life, seconds: float) -> None:
        """A pod does not reach the server, which hears nothing of that."""
        self.faults["partitioned"] += 1
        self.tell("partitioned", (life.name, seconds))
        life.partitioned = True
        self.later(seconds, setattr, life, "partitioned", False)

    def set_pod_clock(self, pod: int, error_us: int) -> None:
        """Set the wall clock of a pod's host."""
        self.faults["clock set"] += 1
        self.tell("clock", (pod, error_us))
        self.clocks[pod].error_us = error_us

    def heal(self) -> None:
        """No fault from now on."""
        self.healed = True
        self.server_back()
        self.redis.away = False
        for clock in self.clocks:
            clock.error_us = 0
        for life in self.lives:
            if life is not None:
                life.partitioned = False
                life.kill_after = None

    def passing(self, name: str) -> None:
        """Stands in for `failpoints.passing`."""
        life = POD.get()
        if life is None or life.dead or life.kill_after is None:
            return
        life.kill_after -= 1
        if life.kill_after <= 0:
            life.kill_after = None
            life.die(f"at {name}")
            raise Killed(name)


class PodClock(VirtualClock):
    """Of one host: its wall clock may be wrong, and it booted at another time."""

    def __init__(self, loop: VirtualLoop, draw: random.Random, pod: int) -> None:
        """Begin right."""
        super().__init__(loop, draw)
        self._apart_us = pod * BOOT_APART_US

    def mono_us(self) -> int:
        """Boot time."""
        return super().mono_us() + self._apart_us


class PodsPool(SimulatedPool):
    """A pod's way to the carrier. The carrier's own doings belong to no pod."""

    world: PodsWorld

    def __init__(self, on_results: Callable[[list[Any]], None], may_send: Callable[[object], bool]) -> None:
        """Of the life that makes it."""
        super().__init__(on_results)
        self._of = POD.get()
        self._may_send = may_send

    @property
    def _living(self) -> bool:
        return self._of is not None and not self._of.dead

    def submit(self, request: Any, data: bytes) -> None:
        """Send one rendered request, unless the lease ends too soon."""
        if self._may_send(request) or not self.slots_free:
            super().submit(request, data)
            return
        self._open += 1
        self.world.faults["not allowed to send"] += 1
        self.world.loop.call_soon(self._report, request, 0.0, (Phase.NOT_FLUSHED, 0, None, b""))

    def _fate(self, data: bytes) -> Any:
        return self.world.run_outside(super()._fate, data)

    def _later(self, wait_s: float, number: int, query: str, body: bytes, *, forged: bool) -> None:
        self.world.receipts += 1
        super()._later(wait_s, number, query, body, forged=forged)


def start_lease(self: Lease, asked_us: int) -> None:
    """Stands in for `Lease.start`: the same beats, on the loop."""
    self._until_us = asked_us + self._lease_us
    asyncio.get_running_loop().create_task(_beat(self))


async def _beat(lease: Lease) -> None:
    heart = lease._heart
    assert isinstance(heart, Heart)
    try:
        while not lease._stopped.is_set():
            await asyncio.sleep(lease._heartbeat_s)
            asked_us, epoch = lease._clock.mono_us(), lease._epoch
            try:
                pulse = await heart.ask()
            except Exception:  # noqa: BLE001, S112 - as the real one: not renewed
                continue
            if lease._stopped.is_set() or not lease.renewed(pulse, asked_us, epoch):
                return
    finally:
        if heart._link is not None:
            heart._link.close()
            heart._link = None


class ModelRedis:
    """A Redis of a few commands: what the engine tells and keeps there. It loses, refuses and forgets."""

    def __init__(self, world: PodsWorld) -> None:
        """Empty."""
        self._world = world
        self._entries: deque[tuple[int, dict[bytes, bytes]]] = deque(maxlen=1000)
        self._newest = 0
        self._kept: dict[Any, tuple[bytes, float]] = {}
        self._told = asyncio.Event()
        self.away = False
        self.refuses = False
        """It is full: reads go, writes do not."""

    def flush(self) -> None:
        """As FLUSHALL: numbers begin anew, too."""
        self._world.faults["redis flushed"] += 1
        self._entries.clear()
        self._newest = 0
        self._kept.clear()

    async def _way(self, *, writes: bool = False) -> None:
        await asyncio.sleep(self._world.draw.uniform(0.0001, 0.002))
        if self.away:
            raise RedisConnectionError("away")
        if writes and self.refuses:
            raise ResponseError("OOM command not allowed when used memory > 'maxmemory'")

    async def xadd(self, _stream: str, fields: dict[bytes, bytes], **_: Any) -> bytes:
        """Tell."""
        await self._way(writes=True)
        self._newest += 1
        self._entries.append((self._newest, fields))
        told, self._told = self._told, asyncio.Event()
        told.set()
        return b"%d-0" % self._newest

    async def xread(self, streams: dict[str, bytes], *, count: int, block: int) -> list[Any]:
        """Hear: what is behind the entry that is named, or comes within `block` ms."""
        await self._way()
        [(stream, after)] = streams.items()
        behind = self._newest if after == b"$" else int(after.partition(b"-")[0])
        found = self._behind(behind, count)
        if not found:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(block / 1000):
                    await self._told.wait()
            found = self._behind(behind, count)
        await self._way()
        return [(stream.encode(), found)] if found else []

    def _behind(self, number: int, count: int) -> list[tuple[bytes, dict[bytes, bytes]]]:
        return [(b"%d-0" % at, fields) for at, fields in self._entries if at > number][:count]

    async def get(self, name: Any) -> bytes | None:
        """What is kept."""
        await self._way()
        value, until_s = self._kept.get(name, (None, 0.0))
        return value if until_s > self._world.loop.time() else None

    async def set(self, name: Any, value: bytes, *, ex: int | None = None, px: int | None = None, **_: Any) -> bool:
        """Keep."""
        await self._way(writes=True)
        self._kept[name] = (value, self._world.loop.time() + (ex or (px or 0) / 1000))
        return True

    async def aclose(self) -> None:
        """Nothing is open."""

    def open(self, _more_s: float) -> tuple[Any, list[Any]]:
        """As `Access.open`."""
        return self, []


def right_us(loop: VirtualLoop) -> int:
    """Of the server's clock."""
    return START_US + int(loop.time() * 1_000_000)


def total(counters: Iterable[Counter[str]]) -> Counter[str]:
    """Of many runs."""
    found: Counter[str] = Counter()
    for counter in counters:
        found += counter
    return found
