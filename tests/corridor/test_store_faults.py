"""The store in trouble: a poisoned row, a full disk, a failing disk, a second process, a newer store, a slow lease.

Power cuts and kills are proved with real processes elsewhere. A full disk is SQLite's own: it may grow no more.
"""

import asyncio
import errno
import itertools
import shutil
from pathlib import Path
from typing import Any, cast

import pytest

from engine.append import BATCH
from engine.errors import NotReady, StoreBroken, StoreLocked, StoreTooNew, StoreUnavailable
from engine.registry.records import CampaignState
from engine.stores import epoch_reader
from engine.stores.connection import Connection, open_reader, open_writer
from engine.stores.migrate import VERSION_TABLE
from longwave.v1 import messaging_pb2 as pb
from tests.corridor.carrier_process import NO_RECEIPTS, Carrier
from tests.corridor.conftest import StartEngine
from tests.corridor.engine_fixture import EMBEDDED_ONLY, Engine, recipient, submission

IOERR_FSYNC = 10 | 4 << 8
POISON = int(recipient(13)[1:])


@pytest.mark.parametrize("calls_of", [5, 150])
@pytest.mark.parametrize(
    ("table", "condition"),
    [
        ("messages", f"NEW.recipient = {POISON}"),
        ("bodies", f"instr(NEW.record, x'{recipient(13).encode().hex()}') > 0"),
    ],
    ids=["message", "body"],
)
async def test_a_poisoned_message_fails_alone(engine: Engine, table: str, condition: str, calls_of: int) -> None:
    """A data error bisects the group: the one at fault is refused, the others and other calls are stored."""
    await engine.set_campaign(CampaignState.PAUSED)
    await engine.poison("INSERT", table, condition)
    given = [submission(index, request_id=f"request-{index}") for index in range(150)]
    calls = [given[start : start + calls_of] for start in range(0, 150, calls_of)]
    answers = list(itertools.chain(*await asyncio.gather(*(engine.call(call) for call in calls))))
    assert [index for index, one in enumerate(answers) if one.verdict != "ACCEPTED"] == [13]
    assert answers[13].verdict == "INTERNAL"
    assert await engine.rows("SELECT count(*), sum(seq) FROM messages") == [(149, 149)]
    assert await engine.rows("SELECT count(*) FROM bodies") == [(149,)]
    assert await engine.rows("SELECT count(*) FROM request_ids AS r JOIN bodies AS b ON b.id = r.id") == [(149,)]
    assert await engine.rows("SELECT count(*) FROM request_ids") == [(149,)]
    assert len([event for event in await engine.events() if event.seq == 1]) == 149
    await engine.execute("DROP TRIGGER poison")
    # Its request id was not remembered: a refused one is judged afresh.
    assert [one.verdict for one in await engine.call([given[13]])] == ["ACCEPTED"]
    assert [one.verdict for one in await engine.call(given)] == ["ACCEPTED"] * 150
    assert await engine.rows("SELECT count(*) FROM messages") == [(150,)]


class Disk:
    """The room that SQLite believes it has: its own bound on pages, with the reserve's release giving some back."""

    def __init__(self, engine: Engine) -> None:
        """Bound nothing yet."""
        self.engine = engine

    async def fill(self, pages_of_reserve: int) -> None:
        """No page more than now; the reserve, once released, is worth so many."""
        writer = self.engine.store.writer
        [(pages,)] = await self.engine.execute("PRAGMA page_count")
        await self.engine.execute(f"PRAGMA max_page_count={pages}")
        release = writer._reserve.release

        def release_pages() -> bool:
            writer._connection.execute(f"PRAGMA max_page_count={pages + pages_of_reserve}").fetchall()
            return release()

        writer._reserve.release = release_pages  # type: ignore[method-assign]

    async def free(self) -> None:
        """As much as anyone wants."""
        await self.engine.execute("PRAGMA max_page_count=1000000")


@EMBEDDED_ONLY
async def test_a_full_disk_refuses_new_work_and_goes_on_with_what_it_holds(
    start_engine: StartEngine, carrier: Carrier
) -> None:
    engine = await start_engine(carrier.base_url, reserve_file_mib=1)
    await engine.set_campaign(CampaignState.PAUSED)
    held = await engine.submit(*(submission(index) for index in range(100)))
    disk = Disk(engine)
    await disk.fill(pages_of_reserve=128)
    verdicts = set()
    for start in range(1000, 100_000, 500):
        batch = [submission(start + index % 50, text="x" * 1000, request_id=f"{start + index}") for index in range(500)]
        verdicts = {one.verdict for one in await engine.call(batch)}
        if verdicts != {"ACCEPTED"}:
            break
    assert verdicts == {"STORE_FULL"}
    assert engine.store.writer.full
    assert not engine.store_file.with_name("longwave.db.reserve").exists()
    assert engine.corridor.not_ready() is None
    [refused] = await engine.call([submission(1)])
    assert refused.verdict == "STORE_FULL"
    assert refused.result.retry_delay.ToMicroseconds() > 0
    await engine.set_campaign(CampaignState.ACTIVE)
    await engine.until_state(held[-1], "DELIVERED")
    await disk.free()
    await engine.corridor._check_durability()
    assert engine.store_file.with_name("longwave.db.reserve").exists()
    assert [one.verdict for one in await engine.call([submission(1)])] == ["ACCEPTED"]


class DiskError(Exception):
    """What the driver raises when fsync fails, as far as the engine looks at it."""

    sqlite_errorcode = IOERR_FSYNC


class FailingConnection:
    """The writer's connection, whose statements fail from the one named on."""

    def __init__(self, connection: Connection, statement: str) -> None:
        """Stand before `connection`."""
        self._connection = connection
        self._statement = statement

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *values: Any) -> Any:
        """Fail as a disk does."""
        if statement.strip().startswith(self._statement):
            raise DiskError
        return self._connection.execute(statement, *values)


@EMBEDDED_ONLY
@pytest.mark.parametrize("statement", ["COMMIT", "BEGIN IMMEDIATE", "INSERT INTO bodies"])
async def test_the_first_io_error_closes_the_door_for_good(engine: Engine, statement: str) -> None:
    corridor = engine.corridor
    await engine.set_campaign(CampaignState.PAUSED)
    await engine.submit(submission(0, request_id="before"))
    writer = engine.store.writer
    writer._connection = cast("Connection", FailingConnection(writer._connection, statement))
    with pytest.raises(StoreUnavailable):
        await engine.call([submission(1, request_id="during")])
    error = await asyncio.wait_for(asyncio.shield(corridor.broken), 5)
    assert isinstance(error, StoreBroken)
    assert corridor.not_ready() is not None
    for _ in range(3):
        with pytest.raises(NotReady):
            await engine.call([submission(2, request_id="after")])
    await engine.crash()
    await engine.start()
    [before, during] = await engine.call([submission(0, request_id="before"), submission(1, request_id="during")])
    assert before.verdict == during.verdict == "ACCEPTED"
    assert await engine.rows("SELECT count(*) FROM messages") == [(2,)]


@EMBEDDED_ONLY
async def test_a_second_engine_on_the_store_is_refused(engine: Engine) -> None:
    second = Engine(engine.folder, engine.base_url, engine.signing, store_url=engine.store_url)
    with pytest.raises(StoreLocked, match="in use by another"):
        await second.start()
    await second.stop()
    await engine.submit(submission())


@EMBEDDED_ONLY
async def test_a_newer_store_is_refused_and_left_alone(start_engine: StartEngine, tmp_path: Path) -> None:
    engine = await start_engine("http://127.0.0.1:9/v2")
    await engine.crash()
    connection = open_writer(engine.store_file)
    connection.execute(f"UPDATE {VERSION_TABLE} SET version_num = '9999'")  # noqa: S608 - a constant
    connection.close()
    shutil.copy(engine.store_file, tmp_path / "before")
    with pytest.raises(StoreTooNew, match="9999"):
        await engine.start()
    assert engine.store_file.read_bytes() == (tmp_path / "before").read_bytes()


async def test_below_its_durability_it_takes_nothing_until_it_is_back(engine: Engine) -> None:
    await engine.set_durable(durable=False)
    await engine.corridor._check_durability()
    with pytest.raises(NotReady, match="durability"):
        await engine.call([submission()])
    await engine.set_durable(durable=True)
    await engine.corridor._check_durability()
    assert [one.verdict for one in await engine.call([submission()])] == ["ACCEPTED"]


@pytest.mark.parametrize("failure", [NotReady(), RuntimeError("another's")])
async def test_a_change_is_answered_though_the_registry_cannot_be_read_after_it(
    engine: Engine, failure: Exception
) -> None:
    read, refused = engine.corridor._read_registry, list[str]()

    def fail_once(control: Any) -> Any:
        if not refused:
            refused.append("the read after the change")
            raise failure
        return read(control)

    engine.corridor._read_registry = fail_once  # type: ignore[method-assign] # a store that went away in between
    # A key's secret is answered once: it may not be lost for a read that comes later.
    await engine.set_campaign(CampaignState.STOPPED)
    assert refused
    async with asyncio.timeout(10):
        while (await engine.call([submission()]))[0].verdict == "ACCEPTED":  # noqa: ASYNC110 - the next look finds it
            await asyncio.sleep(0.05)


async def test_during_a_drain_good_durability_opens_no_door(engine: Engine) -> None:
    await engine.set_durable(durable=False)
    engine.corridor.drain()
    await engine.corridor._check_durability()
    await engine.set_durable(durable=True)
    await engine.corridor._check_durability()
    assert engine.corridor.not_ready() == "the server drains"
    with pytest.raises(NotReady, match="drains"):
        await engine.call([submission()])


async def test_a_stop_waits_for_no_call_longer_than_its_grace(engine: Engine) -> None:
    """A commit that hangs on a slow disk: the call behind it is never answered, and the stop goes on."""
    writer = engine.accept_writer
    corridor, engine._corridor = engine.corridor, None
    hanging: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    submit = writer.submit

    def hang(stage: str, run: Any, **more: Any) -> asyncio.Future[Any]:
        return hanging if stage == "append" else submit(stage, run, **more)

    writer.submit = hang
    request = pb.SubmitMessagesRequest(submissions=[submission()]).SerializeToString()
    answer = corridor.submit(BATCH, engine.tenant_key, request, corridor.clock.mono_us() + 60_000_000)
    await asyncio.wait_for(corridor.stop(0.2), 10)
    assert not answer.done()


@EMBEDDED_ONLY
async def test_a_heartbeat_that_finds_no_descriptor_tries_again(
    start_engine: StartEngine, carrier: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """F34: while the lease cannot be renewed nothing leaves and nobody is sent here; then all goes on."""
    failed, loop = asyncio.Event(), asyncio.get_running_loop()
    descriptors = False

    def open_if_any(path: Path) -> Connection:
        if not descriptors:
            loop.call_soon_threadsafe(failed.set)
            raise OSError(errno.EMFILE, "made up")
        return open_reader(path)

    monkeypatch.setattr(epoch_reader, "open_reader", open_if_any)
    engine = await start_engine(carrier.base_url, lease_s=30, heartbeat_s=0.2, backoff_base_ms=1)
    await asyncio.wait_for(failed.wait(), 10)
    engine.clock.jump(31)
    assert engine.corridor.not_ready() is not None
    [identity] = await engine.submit(submission())
    descriptors = True
    await engine.until_state(identity, "DELIVERED")
    assert engine.corridor.not_ready() is None


async def test_after_a_suspend_nothing_leaves_before_the_lease_is_renewed(
    start_engine: StartEngine, carrier: Carrier
) -> None:
    await carrier.set(**NO_RECEIPTS)
    engine = await start_engine(carrier.base_url, lease_s=30, heartbeat_s=0.2, backoff_base_ms=1)
    engine.clock.jump(3600)
    assert not engine.corridor.lease.may_send(None)
    async with asyncio.timeout(30):
        while engine.store_kind == "mysql" and not engine.corridor.lease.may_accept:  # noqa: ASYNC110 - a thread renews
            await asyncio.sleep(0.02)  # its number in a shared store may be another's by now
    [identity] = await engine.submit(submission())
    await engine.until_state(identity, "SUBMITTED")
    assert engine.corridor.lease.may_send(None)
    assert len(await carrier.records()) == 1
