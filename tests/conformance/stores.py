"""Every kind of store, made empty, and what a test of its verbs needs around it: a registry, a door, a scheduler.

A new kind is one more line of `KINDS`; `test_store_verbs.py` is the body that all must pass.
"""

import contextlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import sqlalchemy as sa

from engine import _core
from engine.append import BATCH
from engine.clock import Clock
from engine.corridor import registry_of
from engine.registry import campaigns, tenants
from engine.registry.records import OnUnknown
from engine.registry.snapshot import ensure_provider, snapshot
from engine.stores.embedded import EmbeddedStore
from engine.stores.mysql.address import parse
from engine.stores.mysql.pool import Limits
from engine.stores.mysql.store import MySQLStore, Place
from engine.stores.store import Callbacks, Intent, Store, Written
from longwave.v1 import messaging_pb2 as pb
from tests.corridor.engine_fixture import CAMPAIGN, SENDER, TENANT, US, submission
from tests.servers.mariadb import PASSWORD
from tests.servers.model.installed import URL, installed
from tests.servers.model.server import Server
from tests.servers.model.words import make_database

HOUR_US: Final = 3600 * US
POLICY: Final = {
    "attempts_max": 8,
    "reconcile_wait_us": 60 * US,
    "no_receipt_after_us": 72 * HOUR_US,
    "lookup_after_us": HOUR_US,
    "backoff_base_us": 1000,
    "backoff_cap_us": 1000,
    "honours_keys": 0,
    "key_window_us": 23 * HOUR_US,
}


def _embedded(folder: Path, _database_url: str) -> Store:
    return EmbeddedStore(folder / "longwave.db", Clock(), reserve_bytes=0, group_weight_max=5000)


def _mysql(_folder: Path, database_url: str) -> Store:
    place = Place(parse(database_url, PASSWORD, None), None, Limits(size_min=1), "D1")
    return MySQLStore(place, Clock(), group_weight_max=5000)


def _model(_folder: Path, _database_url: str) -> Store:
    return _mysql(_folder, URL)


# Makes a store over what is kept at a place (a folder, or a database of the tests' server); called again with the same
# place it finds what was stored there.
KINDS: Final[dict[str, Callable[[Path, str], Store]]] = {"embedded": _embedded, "mysql": _mysql, "model": _model}
ON_SERVER: Final = {"mysql"}


class House:
    """One store, opened, and the core's objects that its verbs take."""

    def __init__(self, kind: str, folder: Path, database_url: str = "") -> None:
        """Nothing is opened before `open`."""
        self._make = KINDS[kind]
        self._folder = folder
        self._database_url = database_url
        self.clock = Clock()
        self.told: list[Any] = []
        self._closing = contextlib.ExitStack()
        if kind == "model":
            make_database(folder / "model.db")
            server = Server(folder / "model.db", self.clock.now_us)
            self._closing.callback(server.close)
            self._closing.enter_context(installed(server))
        self.store = self.another()

    def another(self) -> Store:
        """A store over the same place, not opened."""
        return self._make(self._folder, self._database_url)

    def callbacks(self) -> Callbacks:
        """They note what they are told."""
        return Callbacks(self.told.append, lambda _: None, self.told.append)

    async def open(self) -> None:
        """Open it, become its owner, and take over what it holds of the registry; the first time, make the sample."""
        await self.store.open(self.callbacks())
        run = await self.store.begin_run()
        assert run is not None
        self.epoch, self.last_id, shards = run
        self.tenant, self.other = await self.store.run_control(_sample)
        self.provider = await self.store.run_control(lambda control: ensure_provider(control, "telnyx"))
        self.registry = registry_of(await self.store.run_control(snapshot))
        self.admitter = _core.Admitter({"batch_messages_max": 1000}, 1, self.last_id)
        config = {"held_messages_max": 1000, "provider": self.provider}
        self.scheduler = _core.Scheduler(config, self.registry, self.clock.mono_us() - HOUR_US)
        for shard in shards:
            self.scheduler.own(shard, self.epoch, self.clock.mono_us() - HOUR_US)
        self.settler = _core.Settler(POLICY)

    async def close(self) -> None:
        """End."""
        await self.store.close()
        self._closing.close()

    async def reopen(self) -> None:
        """End, and begin anew with an empty memory."""
        await self.store.close()
        self.store = self.another()
        await self.open()

    def admit(self, *submissions: pb.Submission, tenant: int = 0) -> _core.Admission:
        """Judged, not stored."""
        request = pb.SubmitMessagesRequest(submissions=submissions).SerializeToString()
        calls = [(BATCH, tenant or self.tenant, request)]
        return self.admitter.admit(calls, self.registry, _core.Consent([]), self.clock.now_us(), 1000)

    async def accept(self, *submissions: pb.Submission, tenant: int = 0) -> list[int]:
        """Stored, and with the scheduler; the ids."""
        admission = self.admit(*submissions, tenant=tenant)
        await self.store.append(admission, self.clock.now_us())
        ids = admission.ids()
        self.scheduler.push(admission, self.clock.now_us())  # takes them over
        return ids

    def pop(self, room: int = 100) -> _core.Dispatch:
        """What may leave."""
        dispatch, _, _, _ = self.scheduler.pop(self.clock.now_us(), self.clock.mono_us(), room)
        return dispatch

    def intend(self, dispatch: _core.Dispatch, *, epoch: int = 0) -> Any:
        """Hand in the writing down of a batch."""
        intent = Intent(self.clock.now_us(), epoch or self.epoch, self.provider, 1, 30 * US)
        return self.store.intend(dispatch, intent, self.scheduler, self.settler, self.registry, 1)

    async def settle(self, facts: _core.Facts) -> Written:
        """Settle facts, with memory following."""
        now_us = self.clock.now_us()
        written = await self.store.settle(
            facts,
            self.settler,
            self.registry,
            now_us,
            1,
            stage="record",
            scheduler=self.scheduler,
            provider=self.provider,
            early_kept=True,
        )
        self.scheduler.apply(written.settlement, now_us, self.clock.mono_us())
        return written

    async def state_of(self, identity: int) -> int:
        """As the core's view has it."""
        row = await self.store.view(self.tenant, identity)
        assert row is not None
        return int(row[VIEW_STATE])


VIEW_STATE: Final = 9


def _sample(control: sa.Connection) -> tuple[int, int]:
    """The keys of two tenants with a campaign and a number each, made when there are none."""
    names = (TENANT, "other")
    found: Sequence[tuple[int, str]] = snapshot(control).tenant_ids
    keys = {name: key for key, name in found}
    for place, name in enumerate(names):
        if name in keys:
            continue
        tenant = tenants.create_tenant(control, name, name, now_us=1)
        brand = tenants.create_brand(control, tenant, name, display_name=name, ein="12-3456789", now_us=1)
        campaign = campaigns.create_campaign(
            control, tenant, brand, CAMPAIGN, tcr_campaign="", use_case="MIXED", on_unknown=OnUnknown.BY_CLASS,
            messaging_profile="", now_us=1,
        )  # fmt: skip
        campaigns.create_number(control, tenant, campaign, SENDER + place, now_us=1)
        keys[name] = tenant.key
    return keys[names[0]], keys[names[1]]


def some(count: int, **fields: Any) -> list[pb.Submission]:
    """Submissions to as many recipients."""
    return [submission(index, **fields) for index in range(count)]
