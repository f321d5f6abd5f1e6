"""One engine in the test's own loop: corridor and receipts edge over a real store, against a provider that is given.

It starts no provider (see `carrier_process.py`, `tests/conformance/canned_provider.py`) and asserts nothing by itself.

Invariants: every wait is for a signal (an event of the log, an answer) and ends after `WAIT_S`; time passes for the
engine only as `SettableClock` says, which runs on its own and can be jumped, so that no test sleeps; `crash` ends the
engine without telling it: nothing in flight is recorded.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, cast
from urllib.parse import urlsplit

import pytest
import sqlalchemy as sa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine import _core
from engine.append import BATCH
from engine.clock import Clock
from engine.config import Settings
from engine.corridor import Corridor
from engine.errors import Verdict
from engine.metrics import Metrics
from engine.registry import campaigns, quotas, tenants
from engine.registry.quotas import QuotaWish
from engine.registry.records import Campaign, CampaignState, OnUnknown, Tenant
from engine.secrets import open_secrets
from engine.stores.connection import Connection
from engine.stores.embedded import EmbeddedStore
from engine.stores.mysql.store import MySQLStore
from engine.stores.mysql.transactions import LaneWriter
from loadtest.carrier.signing import key_seed_from
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import verdict_pb2
from server.webhooks import TELNYX_HEADERS, Inbound, WebhookServer
from tests.servers.mariadb import PASSWORD

# For a test that reaches into the embedded store itself, beneath the verbs that every store has.
EMBEDDED_ONLY: Final = pytest.mark.parametrize("store_kind", ["sqlite"], indirect=True)
WAIT_S: Final = 30
US: Final = 1_000_000
API_KEY: Final = "KEY_made_up"
TENANT: Final = "acme"
CAMPAIGN: Final = "notices"
SENDER: Final = 12025550100

_AREAS: Final = [area for area in range(201, 990) if _core.parse_phone(f"+1{area}5550100") is not None]


def recipient(index: int) -> str:
    """A fictitious number, its own for each index below 60,000: exchange 555, line 0100 to 0199, any area code."""
    return f"+1{_AREAS[index // 100]}555{100 + index % 100:04d}"


class SettableClock(Clock):
    """The machine's clocks, ahead by what the test says."""

    def __init__(self) -> None:
        """Begin at the machine's time."""
        super().__init__()
        self.ahead_us = 0
        self.set_us = 0
        self._stopped: tuple[int, int] | None = None
        self._seeds = 0

    def freeze(self) -> None:
        """From now on time passes by `jump` only."""
        self._stopped = super().now_us(), super().mono_us()

    def jump(self, seconds: float) -> None:
        """Both clocks go forward at once, as after a suspend."""
        self.ahead_us += int(seconds * US)

    def set_wall(self, seconds: float) -> None:
        """Somebody sets the wall clock, by so much; no time passes."""
        self.set_us += int(seconds * US)

    def now_us(self) -> int:
        """Wall time."""
        return (self._stopped[0] if self._stopped else super().now_us()) + self.ahead_us + self.set_us

    def mono_us(self) -> int:
        """Boot time."""
        return (self._stopped[1] if self._stopped else super().mono_us()) + self.ahead_us

    def seed(self) -> int:
        """The same seeds in every run."""
        self._seeds += 1
        return self._seeds


@dataclass(frozen=True, slots=True)
class Signing:
    """The provider's webhook key."""

    key: Ed25519PrivateKey

    @property
    def public_base64(self) -> str:
        """As LONGWAVE_TELNYX_PUBLIC_KEY takes it."""
        return base64.b64encode(self.key.public_key().public_bytes_raw()).decode()

    def sign(self, query: str, body: bytes, at_us: int) -> Inbound:
        """A webhook as the edge would hand it over."""
        timestamp = str(at_us // US).encode()
        signature = base64.b64encode(self.key.sign(timestamp + b"|" + body))
        return Inbound("telnyx", query.encode(), signature, timestamp, body, at_us)


def receipt_body(event_id: str, status: str, *, provider_id: str = "", code: str = "", carrier: str = "") -> bytes:
    """The body of message.sent or message.finalized."""
    errors = [{"code": code, "title": "made up"}] if code else []
    to = {"phone_number": "+12025550123", "status": status, "carrier": carrier}
    kind = "message.sent" if status == "sent" else "message.finalized"
    payload = {"id": provider_id, "to": [to], "errors": errors}
    data = {"event_type": kind, "id": event_id, "occurred_at": "2026-01-01T00:00:00.000+00:00", "payload": payload}
    return json.dumps({"data": data}).encode()


def inbound_body(event_id: str, text: str, *, sender: str, to: int = SENDER, occurred_at: str = "") -> bytes:
    """The body of message.received."""
    payload = {"id": f"in-{event_id}", "from": {"phone_number": sender}, "to": [{"phone_number": f"+{to}"}]}
    data = {"event_type": "message.received", "id": event_id, "payload": payload | {"text": text}}
    return json.dumps({"data": data | ({"occurred_at": occurred_at} if occurred_at else {})}).encode()


class Submitting(Protocol):
    """What stands behind a store's verbs: a test may stand before it."""

    submit: Callable[..., asyncio.Future[Any]]
    """(stage, job, and more of that store's)."""


@dataclass
class Taken:
    """The answer for one submission."""

    verdict: str
    id: int
    result: pb.SubmitResult


class Engine:
    """A corridor and its receipts edge over one store; may be crashed and started again."""

    def __init__(
        self, folder: Path, base_url: str, signing: Signing | None, *, store_url: str = "", **settings: Any
    ) -> None:
        """Start nothing. `settings` lie over those below; without `store_url` the store is a file in the folder."""
        self.folder = folder
        self.store_url = store_url or f"sqlite:///{self.store_file}"
        self.base_url = base_url
        self.clock = SettableClock()
        self.signing = signing
        self.wanted: dict[str, Any] = settings
        self.tenant: Tenant | None = None
        self._corridor: Corridor | None = None
        self._edge: WebhookServer | None = None

    @property
    def corridor(self) -> Corridor:
        """The one that runs now."""
        assert self._corridor is not None
        return self._corridor

    @property
    def store_file(self) -> Path:
        """The store."""
        return self.folder / "longwave.db"

    @property
    def secret_file(self) -> Path:
        """Where the keys are."""
        return self.folder / "longwave.db.secrets"

    @property
    def store_kind(self) -> str:
        """`sqlite` or `mysql`."""
        return self.store_url.partition(":")[0]

    @property
    def server_store(self) -> MySQLStore:
        """The running engine's, where it is one on a server."""
        store = self.corridor.store
        assert isinstance(store, MySQLStore)
        return store

    @property
    def store(self) -> EmbeddedStore:
        """The running engine's, with writer and readers within reach."""
        return embedded(self.corridor)

    @property
    def edge_port(self) -> int:
        """Where receipts go."""
        assert self._edge is not None
        return self._edge.port

    @property
    def edge_url(self) -> str:
        """Where inbound messages go."""
        return f"http://127.0.0.1:{self.edge_port}/webhooks/telnyx"

    @property
    def tenant_key(self) -> int:
        """Of the sample tenant."""
        assert self.tenant is not None
        return self.tenant.key

    async def start(self) -> None:
        """Start on the store as it is."""
        metrics = Metrics("0", self.store_kind)
        if self._edge is None:
            self._edge = WebhookServer(self._receive, {"telnyx": TELNYX_HEADERS}, metrics)
            await self._edge.start("127.0.0.1", 0)
        values: dict[str, Any] = {
            "store_url": self.store_url,
            "store_password": PASSWORD,
            "secret_file": self.secret_file,
            "telnyx_base_url": self.base_url,
            "telnyx_api_key": API_KEY,
            "telnyx_public_key": self.signing.public_base64 if self.signing else "",
            "webhook_address": f"127.0.0.1:{self.edge_port}",
            "reserve_file_mib": 0,
            "group_linger_ms": 0,
            # Jumps of the clock must not end the lease; `test_lease.py` sets its own.
            "lease_s": 1e9,
        }
        settings = Settings(**(values | self.wanted))
        secrets = open_secrets(settings.secrets_path, create=True, now_us=1)
        corridor = Corridor(settings, secrets, metrics, self.clock)
        try:
            await corridor.start()
        except BaseException:
            await corridor.stop(0)
            raise
        self._corridor = corridor

    async def _receive(self, batch: list[Inbound]) -> list[int]:
        if self._corridor is None:
            return [503] * len(batch)
        return await self._corridor.receive(cast("Sequence[Any]", batch))

    async def crash(self) -> None:
        """End as kill -9 would as far as the store can tell: nothing more is written, nothing in flight recorded."""
        corridor, self._corridor = self.corridor, None
        dispatch = corridor.dispatch
        await self._cut_off(corridor)
        tasks = [*corridor._tasks, *corridor.record._tasks]
        tasks += [task for task in (dispatch._task, corridor.refill._task) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if dispatch._pool is not None:
            await dispatch._pool.close(0)
        while dispatch._recording:  # noqa: ASYNC110 - refused at once: their tasks end within a turn or two
            await asyncio.sleep(0)
        await corridor._closing.aclose()

    @staticmethod
    async def _cut_off(corridor: Corridor) -> None:
        """The store takes no more writes, and undoes the one that runs."""
        if isinstance(corridor.store, MySQLStore):
            lanes = [corridor.store._accept, corridor.store._record]
            for lane in lanes:
                lane._closed = True
                assert lane._task is not None
                lane._task.cancel()
            await asyncio.gather(*[lane._task for lane in lanes if lane._task], return_exceptions=True)
        else:
            embedded(corridor).writer._closed = True

    async def stop(self) -> None:
        """End in order. Safe to call twice."""
        if self._corridor is not None:
            corridor, self._corridor = self._corridor, None
            await corridor.stop(5)
        if self._edge is not None:
            edge, self._edge = self._edge, None
            await edge.drain(1)
            for _ in range(3):  # transports that were cut close in the turns that follow
                await asyncio.sleep(0)

    # Registry.

    async def make_sample(self, *, on_unknown: OnUnknown = OnUnknown.BY_CLASS, profile: str = "") -> None:
        """One tenant with one brand, campaign and number."""

        def make(control: sa.Connection) -> Tenant:
            tenant = tenants.create_tenant(control, TENANT, "Acme", now_us=1)
            brand = tenants.create_brand(control, tenant, "acme", display_name="Acme", ein="12-3456789", now_us=1)
            campaign = campaigns.create_campaign(
                control, tenant, brand, CAMPAIGN, tcr_campaign="", use_case="MIXED", on_unknown=on_unknown,
                messaging_profile=profile, now_us=1,
            )  # fmt: skip
            campaigns.create_number(control, tenant, campaign, SENDER, now_us=1)
            return tenant

        self.tenant = await self.corridor.run_control(make)

    async def make_campaign(
        self, name: str, sender: int, *, on_unknown: OnUnknown = OnUnknown.BY_CLASS, tenant: Tenant | None = None
    ) -> Campaign:
        """Another campaign of the sample brand with one number."""
        owner = tenant or self.tenant
        assert owner is not None

        def make(control: sa.Connection) -> Campaign:
            brand = tenants.list_brands(control, owner, after="", rows_max=1)[0]
            campaign = campaigns.create_campaign(
                control, owner, brand, name, tcr_campaign="", use_case="MIXED", on_unknown=on_unknown,
                messaging_profile="", now_us=1,
            )  # fmt: skip
            campaigns.create_number(control, owner, campaign, sender, now_us=1)
            return campaign

        return await self.corridor.run_control(make)

    async def make_tenant(self, name: str, sender: int) -> Tenant:
        """Another tenant with brand, campaign `notices` and number."""

        def make(control: sa.Connection) -> Tenant:
            tenant = tenants.create_tenant(control, name, name, now_us=1)
            tenants.create_brand(control, tenant, name, display_name=name, ein="98-7654321", now_us=1)
            return tenant

        tenant = await self.corridor.run_control(make)
        await self.make_campaign(CAMPAIGN, sender, tenant=tenant)
        return tenant

    async def set_campaign(self, state: CampaignState, name: str = CAMPAIGN) -> None:
        """Pause, stop or resume."""
        tenant = self.tenant
        assert tenant is not None

        def change(control: sa.Connection) -> None:
            campaigns.update_campaign(control, tenant, campaigns.find_campaign(control, tenant, name), state=state)

        await self.corridor.run_control(change)

    async def set_quota(self, scope: int, subject: str, amount: int, **more: Any) -> int:
        """Set one quota of the sample tenant (scope PROVIDER: of the provider); returns its key."""
        names: dict[str, Any] = {
            "carrier": 0,
            "unit": 1,
            "window_ms": 0,
            "burst": 0,
            "time_zone": "",
            "reserved_percent": 0,
        }
        wish = QuotaWish(scope=scope, subject=subject, amount=amount, **(names | {"reserved_class": 0} | more))
        owner = None if subject.startswith("providers/") else self.tenant
        quota = await self.corridor.run_control(lambda control: quotas.set_quota(control, owner, wish))
        return quota.key

    # Messages.

    async def call(self, submissions: Sequence[pb.Submission], tenant_key: int = 0) -> list[Taken]:
        """One batch call; a verdict each. Raises what the corridor raises, and Refusal for the whole call."""
        request = pb.SubmitMessagesRequest(submissions=submissions).SerializeToString()
        deadline_us = self.corridor.clock.mono_us() + WAIT_S * US
        reply = await self.corridor.submit(BATCH, tenant_key or self.tenant_key, request, deadline_us)
        if reply.verdict != Verdict.ACCEPTED:
            raise CallRefused(Verdict(reply.verdict))
        results = pb.SubmitMessagesResponse.FromString(reply.response).results
        return [Taken(verdict_name(result), identity(result.message), result) for result in results]

    async def submit(self, *submissions: pb.Submission) -> list[int]:
        """Hand in; all must be accepted. Returns the ids."""
        taken = await self.call(submissions)
        assert [one.verdict for one in taken] == ["ACCEPTED"] * len(submissions), taken
        return [one.id for one in taken]

    async def message(self, identity: int) -> pb.Message:
        """One message as GetMessage shows it."""
        return (await self.view(identity)).message

    async def view(self, identity: int) -> pb.GetMessageResponse:
        """One message with its timeline."""
        encoded = await self.corridor.get_message(self.tenant_key, identity)
        assert encoded is not None
        return pb.GetMessageResponse.FromString(encoded)

    async def timeline(self, identity: int) -> list[str]:
        """`STATE REASON code` of every transition, in order."""
        return [transition(event) for event in (await self.view(identity)).timeline]

    async def rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """Rows of the store; `?` stands for a value."""
        if self.store_kind == "mysql":
            return await self.server_store._rows(statement.replace("?", "%s"), *values)
        return await self.store.read(lambda connection: connection.execute(statement, values).fetchall())

    # Beneath the verbs, in the words of each store.

    @property
    def record_writer(self) -> Submitting:
        """What stores facts."""
        writer = self.server_store._record if self.store_kind == "mysql" else self.store.writer
        return cast("Submitting", writer)

    @property
    def accept_writer(self) -> Submitting:
        """What stores what was admitted."""
        writer = self.server_store._accept if self.store_kind == "mysql" else self.store.writer
        return cast("Submitting", writer)

    def hold_up(self, writer: Submitting) -> Callable[[], None]:
        """What is handed to a writer from now on waits until the result is called."""
        if isinstance(writer, LaneWriter):
            released = asyncio.Event()
            writer.submit_alone(released.wait)
            return released.set
        go_on = threading.Event()
        writer.submit("control", lambda _connection: go_on.wait(WAIT_S), alone=True)
        return go_on.set

    @property
    def handed_in(self) -> int:
        """Work that waits behind what `hold_up` holds."""
        if self.store_kind == "mysql":
            return len(self.server_store._record._waiting) - 1
        return self.store.writer._queue.qsize()

    async def execute(self, statement: str) -> list[tuple[Any, ...]]:
        """Run one statement outside of any group."""
        if self.store_kind == "mysql":
            return await self.server_store._rows(statement)

        def run(connection: Connection) -> list[tuple[Any, ...]]:
            return connection.execute(statement).fetchall()

        rows: list[tuple[Any, ...]] = await self.store.writer.submit("control", run, alone=True)
        return rows

    async def poison(self, moment: str, table: str, condition: str) -> None:
        """The store refuses to write (`INSERT`, `UPDATE`) a row for which this holds, as for bad data."""
        head = f"CREATE TRIGGER poison BEFORE {moment} ON {table}"
        if self.store_kind == "mysql":
            signal = "SIGNAL SQLSTATE '45000' SET MYSQL_ERRNO = 1644, MESSAGE_TEXT = 'made up'"
            await self.execute(f"{head} FOR EACH ROW IF {condition} THEN {signal}; END IF")
        else:
            await self.execute(f"{head} WHEN {condition} BEGIN SELECT RAISE(ABORT, 'made up'); END")

    async def set_durable(self, *, durable: bool) -> None:
        """The store keeps its durability level, or not."""
        if self.store_kind == "mysql":
            await self.execute(f"SET GLOBAL innodb_flush_log_at_trx_commit = {1 if durable else 2}")
        else:
            await self.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")

    def set_full(self, *, full: bool) -> None:
        """The store believes that it has no room."""
        if self.store_kind == "mysql":
            self.server_store._full.is_full = full
        else:
            self.store.writer.full = full

    async def states(self) -> dict[str, int]:
        """How many messages are in which state."""
        rows = await self.rows("SELECT state, count(*) FROM messages GROUP BY state")
        return {state_name(state): count for state, count in rows}

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Wait until something holds that only a commit can make true."""
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    _, position = await self.corridor.event_bounds(self.tenant_key)
                    if await holds():
                        return
                    await self.corridor.wait_for_events(self.tenant_key, position, WAIT_S)
        except TimeoutError:
            states = await self.states()
            message = f"it never came to that: {states}, {self.corridor.stats()}"
            raise AssertionError(message) from None

    async def until_state(self, identity: int, *wanted: str) -> pb.Message:
        """Wait until a message is in one of these states."""

        async def holds() -> bool:
            return state_name((await self.message(identity)).state) in wanted

        await self.until(holds)
        return await self.message(identity)

    async def until_states(self, wanted: dict[str, int]) -> None:
        """Wait until the store holds exactly so many messages of each state."""

        async def holds() -> bool:
            return await self.states() == wanted

        await self.until(holds)

    async def pass_time(self, seconds: float) -> None:
        """Jump the clock and let everything that waits for time look at it."""
        self.clock.jump(seconds)
        self.corridor.roll_days()
        await self.corridor.sweep.settle_due()
        await self.corridor.sweep.looked_up()
        await self.corridor.sweep.look_at_stored()
        self.corridor.dispatch.wake()

    async def events(self, tenant_key: int = 0) -> list[pb.Event]:
        """All events of a tenant, in the log's order."""
        found: list[pb.Event] = []
        position = 0
        while True:
            rows, reached = await self.corridor.read_events(tenant_key or self.tenant_key, position, 100)
            if not rows and reached == position:
                return found
            encoded = _core.watch_response(rows, "", [])
            found += pb.WatchEventsResponse.FromString(encoded).events
            position = reached

    async def receive(self, batch: list[Inbound]) -> list[int]:
        """Hand in webhooks as they are; the HTTP status of each."""
        return await self.corridor.receive(cast("Sequence[Any]", batch))

    async def deliver(self, query: str, body: bytes, *, at_us: int = 0) -> int:
        """Sign a webhook now and hand it in; returns the HTTP status."""
        assert self.signing is not None
        inbound = self.signing.sign(query, body, at_us or self.corridor.clock.now_us())
        return (await self.receive([inbound]))[0]

    async def dump(self) -> dict[str, list[tuple[Any, ...]]]:
        """Every row of every table, through the engine's own library: a second one would drop SQLite's file locks."""
        of_server = "SELECT TABLE_NAME FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()"
        of_file = "SELECT name FROM sqlite_schema WHERE type = 'table'"
        names = [name for (name,) in await self.rows(of_server if self.store_kind == "mysql" else of_file)]
        # Its rows say when the store was last written, not what is in it.
        names = [name for name in names if name != "lanes"]
        return {name: await self.rows(f"SELECT * FROM {name}") for name in sorted(names)}  # noqa: S608 - names of tables

    def callback_query(self, identity: int, generation: int) -> str:
        """The query of a message's callback URL, made as the contract says and not by the engine."""
        [newest, *_] = open_secrets(self.secret_file, create=False, now_us=1).callback
        short = _core.short_id(identity)
        mac = hmac.new(newest.secret, f"telnyx|{short}|{generation}".encode(), hashlib.sha256).digest()[:16].hex()
        return f"m={short}&g={generation}&k={newest.name}&s={mac}"

    # One pop at a time.

    async def take_over_dispatch(self) -> None:
        """End the dispatcher's own loop: from now on it pops only in `dispatch_now`."""
        dispatch = self.corridor.dispatch
        task, dispatch._task = dispatch._task, None
        assert task is not None
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    async def dispatch_now(self) -> None:
        """Pop until nothing more may leave at this time and every outcome is recorded."""
        corridor = self.corridor
        async with asyncio.timeout(WAIT_S):
            while True:
                wait_s = await corridor.dispatch._pass()
                if corridor.budgets is not None and corridor.budgets._task is not None:
                    await asyncio.wait([corridor.budgets._task])
                    continue
                _, position = await corridor.event_bounds(self.tenant_key)
                if corridor.dispatch.in_flight:
                    await corridor.wait_for_events(self.tenant_key, position, WAIT_S)
                elif wait_s > 0:
                    while corridor.dispatch._recording:  # noqa: ASYNC110 - recorded: they end within a turn or two
                        await asyncio.sleep(0)
                    return


@asynccontextmanager
async def two_engines(folder: Path, base_url: str, url: str, **settings: Any) -> AsyncIterator[tuple[Engine, Engine]]:
    """Two over one store on a server: the first has everything when the second comes, and then shares with it."""
    signing = Signing(Ed25519PrivateKey.from_private_bytes(key_seed_from(1)))
    first, second = [Engine(folder, base_url, signing, store_url=url, **settings) for _ in range(2)]
    await first.start()
    await first.make_sample()
    second.tenant = first.tenant
    await second.start()
    yield first, second
    await second.stop()
    await first.stop()


def embedded(corridor: Corridor) -> EmbeddedStore:
    """The store of a corridor over a file."""
    store = corridor.store
    assert isinstance(store, EmbeddedStore)
    return store


class CallRefused(Exception):  # noqa: N818 - it is an answer
    """A whole call was refused."""

    def __init__(self, verdict: Verdict) -> None:
        """Keep the verdict."""
        super().__init__(verdict.name)
        self.verdict = verdict


def submission(to: str | int = 0, text: str = "hello", **fields: Any) -> pb.Submission:
    """A submission to a number, or to the fictitious number of this index."""
    number = recipient(to) if isinstance(to, int) else to
    return pb.Submission(**({"campaign": f"campaigns/{CAMPAIGN}", "recipient": number, "text": text} | fields))


def identity(name: str) -> int:
    """The id in `messages/{message}`; 0 when there is none."""
    return _core.parse_short_id(name.removeprefix("messages/")) or 0 if name else 0


def verdict_name(result: pb.SubmitResult) -> str:
    """Without its prefix."""
    return verdict_pb2.Verdict.Name(result.verdict).removeprefix("VERDICT_")


def state_name(state: int) -> str:
    """Without its prefix."""
    return pb.MessageState.Name(pb.MessageState.ValueType(state)).removeprefix("MESSAGE_STATE_")


def reason_name(reason: int) -> str:
    """Without its prefix."""
    return pb.Reason.Name(pb.Reason.ValueType(reason)).removeprefix("REASON_")


def transition(event: pb.Event) -> str:
    """`STATE REASON code`."""
    return f"{state_name(event.state)} {reason_name(event.reason)} {event.code}".rstrip()


def query_of(webhook_url: str) -> str:
    """The query of a callback URL."""
    return urlsplit(webhook_url).query
