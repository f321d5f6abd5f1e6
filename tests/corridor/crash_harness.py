"""A run with crashes: simulated carrier, engine (`longwave serve`) and sender, the engine killed again and again.

It checks nothing by itself: `CrashRun.finish` hands what was left behind to `crash_checker.py`.

Invariants: all is drawn from the seed but the moments at which processes get the CPU; every wait ends after `WAIT_S`;
processes are ended by their own ids.
"""

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import aiohttp
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine.clock import Clock
from engine.registry import api_keys, campaigns, quotas, tenants
from engine.registry.quotas import QuotaWish
from engine.registry.records import OnUnknown, Role, Scope, Tenant, Unit
from engine.secrets import open_secrets
from engine.stores.connection import engine_over, open_writer
from engine.stores.migrate import migrate
from engine.stores.mysql.address import parse
from engine.stores.mysql.pool import Limits
from engine.stores.mysql.store import MySQLStore, Place
from engine.stores.store import Callbacks
from loadtest.carrier.signing import key_seed_from
from loadtest.ports import free_ports
from tests.corridor import crash_evidence
from tests.corridor.crash_checker import Promises, Violation, check, state_name
from tests.corridor.crash_client import CAREFUL, METERED, RESEND, SENDERS, ClientLog, Handsets, Sender, now_us, plan
from tests.corridor.crash_relay import Relay
from tests.corridor.server_copy import copy_to_file
from tests.servers.mariadb import PASSWORD, MariaDB

WAIT_S: Final = 60.0
LOOK_S: Final = 0.02
# So long after a moment chosen by what was accepted does a kill come at the latest.
KILL_AFTER_S: Final = 0.2
HOST: Final = "127.0.0.1"
SECRETS: Final = "longwave.db.secrets"
PROVIDER_KEY: Final = "KEY_made_up"
SERVE: Final = (sys.executable, "-m", "server", "serve")
CALM: Final[dict[str, Any]] = {
    "latency_min_ms": 1,
    "latency_mean_ms": 10,
    "latency_max_ms": 60,
    "receipt_delay_min_ms": 5,
    "receipt_delay_mean_ms": 20,
    "receipt_delay_max_ms": 100,
    # The relay answers when an engine does.
    "webhook_answer_max_ms": 600_000,
    "webhook_attempts_max": 20,
}
# Everything that a carrier can do, a few percent of each.
ROUGH: Final[dict[str, Any]] = {
    "error_share": 0.03,
    "throttle_share": 0.02,
    "retry_after_s": 0,
    "silence_untaken_share": 0.01,
    "silence_taken_share": 0.01,
    "drop_untaken_share": 0.02,
    "drop_taken_share": 0.03,
    "drop_midway_share": 0.02,
    "late_error_share": 0.02,
    "garbage_share": 0.02,
    "async_failure_share": 0.05,
    "receipt_duplicate_share": 0.1,
    "receipt_reorder_share": 0.1,
    "receipt_early_share": 0.05,
    "receipt_delayed_share": 0.05,
    "receipt_delayed_ms": 500,
    "receipt_lost_share": 0.02,
    "receipt_wrong_signature_share": 0.02,
    "receipt_forged_share": 0.03,
    "receipt_stale_share": 0.03,
}
HEALED: Final = {name: 0 for name in ROUGH if name.endswith("_share")}
# Times a hundredth of production's, so that a run sees every timer.
ENGINE: Final = {
    "CONNECT_S": "1",
    "SEND_S": "2",
    "RECONCILE_WAIT_S": "2",
    "LOOKUP_AFTER_MIN": "0.02",
    "BACKOFF_BASE_MS": "50",
    "BACKOFF_CAP_S": "1",
    "BREAKER_OPEN_S": "0.5",
    "RETRY_BUDGET_PERCENT": "100",
    "IN_FLIGHT_MAX": "64",
    "CONNECTIONS_MAX": "64",
    "RESERVE_FILE_MIB": "1",
    "LOG_LEVEL": "INFO",
    "DRAIN_S": "5",
    # A life after a kill takes its own leases back at once.
    "NODE": "1",
}


@dataclass(frozen=True, slots=True)
class Options:
    """What a run is like."""

    seed: int
    messages: int
    honours_keys: bool = False
    rough: bool = True
    texts: Sequence[str] = ()
    batch: int = 10
    pace_s: float = 0.02
    """Between two batches."""
    recipients: int = 150
    metered_per_s: int = 20
    """Messages that the metered number may send; all together may send ten times as many segments."""
    tenant_window_s: int = 1
    """Of that limit of all together, which is as many times higher."""
    database_url: str = ""
    """Of an empty store on a server; empty: a file."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run came to."""

    accepted: int
    refused: int
    requests: int
    lives: int
    kills: int
    unknown: int
    """Attempts of unknown outcome."""
    duplicates: int
    """Copies that the carrier took beyond the first of each generation of a message."""
    final: dict[str, int] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()

    def lines(self) -> list[str]:
        """For people."""
        broken = [f"  {v.invariant} {v.subject}: {v.what}" for v in self.violations]
        states = ", ".join(f"{name} {count}" for name, count in sorted(self.final.items()))
        return [
            f"accepted {self.accepted}, refused {self.refused}, final: {states}",
            f"{self.lives} lives of the engine, {self.kills} ended by a kill",
            f"{self.requests} requests at the carrier, {self.unknown} attempts UNKNOWN, {self.duplicates} duplicates",
            f"checker: {len(self.violations)} violations",
            *broken,
        ]


class CrashRun:
    """One store, one carrier, one sender, and an engine with many lives. Made by `crash_run`."""

    def __init__(self, folder: Path, options: Options, command: Sequence[str]) -> None:
        """Start nothing; everything is kept in `folder`."""
        self.folder = folder
        self.options = options
        self.draw = random.Random(options.seed)  # noqa: S311 - it must repeat
        self.log = ClientLog(folder / "client.jsonl")
        self._command = tuple(command)
        self._ports = free_ports(3)
        self._engine: asyncio.subprocess.Process | None = None
        self._after = "new"
        self._steps = 0
        self._kills = 0
        self.lives = 0

    # Beginning and end.

    async def open(self) -> None:
        """Make the store, start the carrier."""
        if self.options.database_url:
            self.token = await _make_on_server(self.folder, self.options)
        else:
            self.token = make_store(self.folder, self.options)
        settings = CALM | (ROUGH if self.options.rough else {})
        settings |= {"seed": self.options.seed, "idempotency": "honoured" if self.options.honours_keys else "ignored"}
        config = self.folder / "carrier.json"
        config.write_text(json.dumps(settings))
        command = [sys.executable, "-m", "loadtest.carrier", "--api-key", PROVIDER_KEY, "--config", str(config)]
        command += ["--record", str(self.folder / "carrier.jsonl")]
        self._carrier = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        assert self._carrier.stdout is not None
        async with asyncio.timeout(WAIT_S):
            ready = json.loads(await self._carrier.stdout.readline())
        self._carrier_url = f"http://{HOST}:{ready['port']}"
        self._public_key = ready["public_key"]
        self.session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=WAIT_S), connector=aiohttp.TCPConnector(limit=0)
        )
        grpc_port, _, webhook_port = self._ports
        self._relay = Relay(self.session, f"http://{HOST}:{webhook_port}")
        self._relay_url = await self._relay.start(HOST)
        seed, key = self.options.seed, Ed25519PrivateKey.from_private_bytes(key_seed_from(self.options.seed))
        items = plan(seed, self.options.messages, self.options.recipients, self.options.texts)
        self.sender = Sender(self.log, f"{HOST}:{grpc_port}", self.token, items, seed, self.options.batch)
        self.handsets = Handsets(self.log, self.session, f"http://{HOST}:{webhook_port}/webhooks/telnyx", key)

    async def close(self) -> None:
        """End every process, whatever happened."""
        await self.sender.disconnect()
        await self._relay.stop()
        await self.session.close()
        for process in (self._engine, self._carrier):
            if process is not None and process.returncode is None:
                process.kill()
                await process.wait()
        self.log.close()

    # A life of the engine.

    def _environment(self, failpoint: str) -> dict[str, str]:
        grpc_port, http_port, webhook_port = self._ports
        own = ENGINE | {
            "STORE_URL": self.options.database_url or f"sqlite:///{self.folder / 'longwave.db'}",
            "STORE_PASSWORD": PASSWORD,
            "SECRET_FILE": str(self.folder / SECRETS),
            "GRPC_ADDRESS": f"{HOST}:{grpc_port}",
            "HTTP_ADDRESS": f"{HOST}:{http_port}",
            "WEBHOOK_ADDRESS": f"{HOST}:{webhook_port}",
            "WEBHOOK_BASE_URL": self._relay_url,
            "TELNYX_BASE_URL": f"{self._carrier_url}/v2",
            "TELNYX_API_KEY": PROVIDER_KEY,
            "TELNYX_PUBLIC_KEY": self._public_key,
            "TELNYX_HONOURS_KEYS": str(self.options.honours_keys).lower(),
            "HISTORY_FILE": str(self.folder / "history.jsonl"),
            "FAILPOINT": failpoint,
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LONGWAVE_")}
        return inherited | {f"LONGWAVE_{name}": value for name, value in own.items()}

    async def start(self, failpoint: str = "") -> bool:
        """Begin a life; False when it ended before it was ready."""
        self.log.note("life", after=self._after, failpoint=failpoint)
        self.lives += 1
        with (self.folder / "engine.log").open("ab") as log:
            self._engine = await asyncio.create_subprocess_exec(
                *self._command, env=self._environment(failpoint), stdin=asyncio.subprocess.DEVNULL, stdout=log,
                stderr=log,
            )  # fmt: skip
        if not await self._until_ready():
            return False
        await self.sender.connect()
        return True

    @property
    def engine_pid(self) -> int:
        """The process of this life."""
        assert self._engine is not None
        return self._engine.pid

    async def metrics(self) -> str:
        """What this life counts, as Prometheus reads it."""
        async with self.session.get(f"http://{HOST}:{self._ports[1]}/metrics") as response:
            return await response.text()

    async def _until_ready(self) -> bool:
        url = f"http://{HOST}:{self._ports[1]}/ready"
        async with asyncio.timeout(WAIT_S):
            while not await self._ends_within(LOOK_S):
                try:
                    async with self.session.get(url) as response:
                        if response.status == 200:
                            return True
                except aiohttp.ClientError:
                    continue
        return False

    async def _ends_within(self, wait_s: float) -> bool:
        """Whether the engine ends within this time."""
        assert self._engine is not None
        try:
            async with asyncio.timeout(wait_s):
                await self._engine.wait()
        except TimeoutError:
            return False
        return True

    async def until_dead(self) -> int:
        """Wait for the end of the engine; returns its exit code, negative for a signal."""
        assert self._engine is not None
        async with asyncio.timeout(WAIT_S):
            code = await self._engine.wait()
        self.log.note("ended", exit_code=code)
        if code == -signal.SIGKILL:
            self._kills += 1
            self._after = "kill"
        return code

    async def work(self, *, until_accepted: int | None = None) -> None:
        """Hand in batch after batch, and whatever else callers do, until the engine ends or all is handed in.

        With `until_accepted`: until so many are accepted.
        """
        async with asyncio.timeout(WAIT_S * 10):
            while not await self._ends_within(self.options.pace_s):
                if until_accepted is not None and len(self.sender.accepted) >= until_accepted:
                    return
                if self.sender.exhausted and not self.sender.unanswered and until_accepted is not None:
                    return
                await self.sender.step()
                await self._beside()

    async def _beside(self) -> None:
        """Now and then something else: an opt-out, a STOP, a cancellation, a used id, a forgery."""
        self._steps += 1
        match self._steps % 12:
            case 2:
                await self.sender.opt_out()
            case 4 | 10:
                await self.sender.reuse()
            case 6:
                await self.handsets.stop(self._someone())
            case 8:
                await self.sender.cancel()
            case 11:
                await self._probe()

    def _someone(self) -> str | None:
        accepted = list(self.sender.accepted.values())[-self.options.batch :]
        return self.draw.choice(accepted)[1].submission.recipient if accepted else None

    async def _probe(self) -> None:
        lines = await self.control("GET", "messages?limit=50")
        urls = {line["idempotency_key"]: line["webhook_url"] for line in map(json.loads, lines.splitlines())}
        if len(urls) > 1:
            await self.handsets.probe(self.draw.sample(sorted(urls.values()), 2))

    async def control(self, method: str, path: str, values: object = None) -> bytes:
        """A control call to the carrier."""
        body = None if values is None else json.dumps(values).encode()
        async with self.session.request(method, f"{self._carrier_url}/control/{path}", data=body) as response:
            answer = await response.read()
            assert response.status == 200, answer
            return answer

    # What befalls the engine.

    async def kill(self) -> None:
        """SIGKILL, now."""
        assert self._engine is not None
        self._engine.kill()
        assert await self.until_dead() == -signal.SIGKILL

    async def kill_while_working(self, at_accepted: int) -> None:
        """SIGKILL at a moment drawn from the seed, some time after so many were accepted, while more come in."""
        await self.work(until_accepted=at_accepted)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.work())
            assert not await self._ends_within(self.draw.uniform(0, KILL_AFTER_S)), "the engine ended by itself"
            await self.kill()

    async def kill_server_while_working(self, server: MariaDB, at_accepted: int, *, engine_too: bool) -> None:
        """SIGKILL for the store's server at a moment drawn from the seed, while more comes in, and start it again.

        The engine lives through it, and goes on accepting; or dies at the same moment.
        """
        await self.work(until_accepted=at_accepted)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.work(until_accepted=at_accepted + 4 * self.options.batch))
            assert not await self._ends_within(self.draw.uniform(0, KILL_AFTER_S)), "the engine ended by itself"
            await asyncio.to_thread(server.kill)
            if engine_too:
                await self.kill()
            await asyncio.to_thread(server.start)
        if not engine_too:
            assert not await self._ends_within(0), "the engine ended with its server"

    async def freeze_while_working(self, seconds: float) -> None:
        """SIGSTOP, wait, SIGCONT: the engine runs out of time and must notice."""
        assert self._engine is not None
        accepted = len(self.sender.accepted)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.work(until_accepted=accepted + self.options.batch))
            from_us = now_us()
            self._engine.send_signal(signal.SIGSTOP)
            await asyncio.sleep(seconds)  # the fault itself, not a wait for something
            self._engine.send_signal(signal.SIGCONT)
            self.log.note("frozen", from_us=from_us, to_us=now_us())

    async def drain_while_working(self) -> int:
        """SIGTERM while more comes in; returns the exit code."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self.work())
            return await self.drain()

    async def drain(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._engine is not None
        from_us = now_us()
        self._engine.terminate()
        code = await self.until_dead()
        # A silent carrier makes attempts UNKNOWN whether the engine drains or not.
        self.log.note("drained", from_us=from_us, to_us=now_us(), exit_code=code, faultless=not self.options.rough)
        self._after = "drain"
        return code

    # The end.

    async def finish(self, *, stop_feeding: bool = False) -> Summary:
        """Let every message be tried once, heal, wait until every message is final, stop in order, check."""
        if self._engine is None or self._engine.returncode is not None:
            assert await self.start(), "the engine did not come back"
        if stop_feeding:
            self.sender.stop_feeding()
        async with asyncio.timeout(WAIT_S * 10):
            while not await self.sender.settle() or self.handsets.unanswered:
                await self.handsets.stop(None)
                assert not await self._ends_within(self.options.pace_s), "the engine ended after healing"
        await self._until(crash_evidence.untried)
        await self.control("PATCH", "config", HEALED)
        await self._until(crash_evidence.unfinished)
        idle = json.loads(await self.control("GET", f"idle?wait_ms={int(WAIT_S * 1000) - 1000}"))
        assert idle == {"idle": True}, await self.control("GET", "stats")
        await self._until(crash_evidence.unfinished)
        await self.drain()
        await self._store_file()
        return self._summary()

    async def _until(self, left: Callable[[Path], dict[int, int]]) -> None:
        """Wait until the store has none of these messages left."""
        try:
            async with asyncio.timeout(WAIT_S * 5):
                while left(await self._store_file()):
                    assert not await self._ends_within(0.1), "the engine ended after healing"
        except TimeoutError:
            states = {state_name(state): count for state, count in left(await self._store_file()).items()}
            raise AssertionError(f"{left.__name__} for ever: {states}") from None

    async def _store_file(self) -> Path:
        """The store, or a file with what a store on a server holds now."""
        path = self.folder / "longwave.db"
        if self.options.database_url:
            await asyncio.to_thread(copy_to_file, self.options.database_url, path)
        return path

    def _summary(self) -> Summary:
        evidence = crash_evidence.read_evidence(
            client=self.folder / "client.jsonl",
            store=self.folder / "longwave.db",
            carrier=self.folder / "carrier.jsonl",
            history=self.folder / "history.jsonl",
        )
        copies = Counter((request.message, request.generation) for request in evidence.requests if request.taken)
        return Summary(
            accepted=len(self.sender.accepted),
            refused=len(self.sender.refused),
            requests=len(evidence.requests),
            lives=self.lives,
            kills=self._kills,
            unknown=sum(state_name(c.state) == "UNKNOWN" and c.previous == 2 for c in evidence.changes),
            duplicates=sum(count - 1 for count in copies.values()),
            final=dict(Counter(state_name(row.state) for row in evidence.rows)),
            violations=tuple(check(evidence, Promises(honours_keys=self.options.honours_keys))),
        )


@asynccontextmanager
async def crash_run(folder: Path, options: Options, command: Sequence[str] = SERVE) -> AsyncIterator[CrashRun]:
    """A run over a new store in `folder`; nothing of it runs afterwards."""
    run = CrashRun(folder, options, command)
    await run.open()
    try:
        yield run
    finally:
        await run.close()


def make_store(folder: Path, options: Options) -> str:
    """A file with the registry of the run; returns the tenant's API key."""
    path = folder / "longwave.db"
    make = _registry_maker(folder, options)
    connection = open_writer(path)
    try:
        migrate(connection, path, now_us=now_us())
        with engine_over(connection).begin() as control:
            return make(control)
    finally:
        connection.close()


async def _make_on_server(folder: Path, options: Options) -> str:
    """As `make_store`, in a database."""
    place = Place(parse(options.database_url, PASSWORD, None), None, Limits(size_min=1), "D1")
    store = MySQLStore(place, Clock(), group_weight_max=1)
    try:
        await store.open(Callbacks(lambda _error: None, lambda _stats: None, lambda _full: None))
        return await store.run_control(_registry_maker(folder, options))
    finally:
        await store.close()


def _registry_maker(folder: Path, options: Options) -> Callable[[sa.Connection], str]:
    at_us = now_us()
    secrets = open_secrets(folder / SECRETS, create=True, now_us=at_us)

    def make(control: sa.Connection) -> str:
        tenant = _make_registry(control, options, at_us)
        _, token = api_keys.create_api_key(
            control, secrets, role=Role.TENANT, tenant=tenant, display_name="sender", expire_us=None, now_us=at_us
        )
        # Never used; without an admin's key `serve` would ask for bootstrap.
        api_keys.create_api_key(
            control, secrets, role=Role.ADMIN, tenant=None, display_name="admin", expire_us=None, now_us=at_us
        )
        return token.text

    return make


def _make_registry(control: sa.Connection, options: Options, at_us: int) -> Tenant:
    tenant = tenants.create_tenant(control, "acme", "Acme", now_us=at_us)
    brand = tenants.create_brand(control, tenant, "acme", display_name="Acme", ein="12-3456789", now_us=at_us)
    policies = {RESEND: OnUnknown.RESEND, CAREFUL: OnUnknown.UNRESOLVED, METERED: OnUnknown.RESEND}
    for name, on_unknown in policies.items():
        campaign = campaigns.create_campaign(
            control, tenant, brand, name, tcr_campaign="", use_case="MIXED", on_unknown=on_unknown,
            messaging_profile="", now_us=at_us,
        )  # fmt: skip
        campaigns.create_number(control, tenant, campaign, int(SENDERS[name][1:]), now_us=at_us)
    per_s = options.metered_per_s
    _set_quota(control, tenant, Scope.NUMBER, f"numbers/{SENDERS[METERED]}", Unit.MESSAGES, per_s)
    window_s = options.tenant_window_s
    _set_quota(control, tenant, Scope.TENANT, f"tenants/{tenant.id}", Unit.SEGMENTS, 10 * per_s * window_s, window_s)
    return tenant


def _set_quota(
    control: sa.Connection, tenant: Tenant, scope: Scope, subject: str, unit: Unit, amount: int, window_s: int = 1
) -> None:
    wish = QuotaWish(
        scope=scope, subject=subject, carrier=0, unit=unit, amount=amount, window_ms=1000 * window_s, burst=0,
        time_zone="", reserved_percent=0, reserved_class=0,
    )  # fmt: skip
    quotas.set_quota(control, tenant, wish)
