"""Limits against the carrier's log: no window holds more than its amount, whatever happens in between.

The arithmetic of one bucket or ledger is proved in Rust. Here time is virtual: it stands still while the engine sends
what it may, then jumps, so that a record of the carrier belongs to exactly one instant and the check is exact.
"""

import itertools
import json
from dataclasses import dataclass, field
from typing import Any, Final

import pytest
from google.protobuf.duration_pb2 import Duration

from engine.registry import quotas
from engine.registry.records import Carrier as Network
from engine.registry.records import Scope, Unit
from engine.stores.mysql import budgets
from engine.stores.mysql.pool import Link
from longwave.v1 import messaging_pb2 as pb
from tests.conformance.canned_provider import Answer, CannedProvider
from tests.corridor.carrier_process import NO_RECEIPTS, Carrier
from tests.corridor.conftest import StartEngine
from tests.corridor.engine_fixture import SENDER, US, Engine, SettableClock, receipt_body, recipient, submission

AMOUNT: Final = 20
WINDOW_S: Final = 10.0
STEP_S: Final = 0.25
DAY_S: Final = 86_400
# After a cap resets, what waited for it comes back over so long at most.
SPREAD_S: Final = 60
ATT: Final = {"carriers": {"AT&T": 1}}
TMOBILE: Final = {"carriers": {"T-Mobile": 1}}


@dataclass
class Log:
    """What the carrier took, each with the virtual instant at which it left."""

    engine: Engine
    carrier: Carrier
    at_s: float = 0.0
    sends: list[tuple[float, dict[str, Any]]] = field(default_factory=list)

    async def step(self, seconds: float = STEP_S) -> int:
        """Let the engine send what it may now, then let time pass; how many left."""
        await self.engine.dispatch_now()
        new = (await self.carrier.records())[len(self.sends) :]
        self.sends += [(self.at_s, record) for record in new]
        self.engine.clock.jump(seconds)
        self.engine.corridor.roll_days()
        self.at_s += seconds
        return len(new)

    def worst(self, window_s: float, *, parts: bool) -> int:
        """The most that any half-open window holds."""
        costs = [(at_s, record["parts"] if parts else 1) for at_s, record in self.sends]
        return max(sum(cost for at_s, cost in costs if start_s <= at_s < start_s + window_s) for start_s, _ in costs)

    def total(self, *, parts: bool) -> int:
        """All of it."""
        return sum(record["parts"] if parts else 1 for _, record in self.sends)


async def frozen(start_engine: StartEngine, carrier: Carrier, **settings: Any) -> tuple[Engine, Log]:
    """An engine that sends only when told, at times that only jumps move."""
    await carrier.set(**NO_RECEIPTS)
    engine = await start_engine(carrier.base_url, **settings)
    await engine.take_over_dispatch()
    engine.clock.freeze()
    return engine, Log(engine, carrier)


@pytest.fixture(autouse=True)
def one_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Budgets that nodes share run by the server's clock: here by the one that only jumps move, once it is frozen."""
    frozen: list[SettableClock] = []
    freeze, real = SettableClock.freeze, budgets.server_now_us

    def noted(self: SettableClock) -> None:
        frozen[:] = [self]
        freeze(self)

    async def now_us(link: Link) -> int:
        return frozen[0].now_us() if frozen else await real(link)

    monkeypatch.setattr(SettableClock, "freeze", noted)
    monkeypatch.setattr(budgets, "server_now_us", now_us)


def some(count: int, start: int = 0, **fields: Any) -> list[pb.Submission]:
    """Messages of one to three segments, in turn."""
    texts = ["x" * 20, "y" * 200, "z" * 400]
    return [submission(start + index, text=texts[index % 3], **fields) for index in range(count)]


@pytest.mark.parametrize("unit", [Unit.SEGMENTS, Unit.MESSAGES], ids=["segments", "messages"])
@pytest.mark.parametrize(
    ("scope", "subject", "network"),
    [
        (Scope.NUMBER, f"numbers/+{SENDER}", Network.NONE),
        (Scope.CAMPAIGN, "campaigns/notices", Network.NONE),
        (Scope.CAMPAIGN_CARRIER, "campaigns/notices", Network.ATT),
        (Scope.TENANT, "tenants/acme", Network.NONE),
        (Scope.PROVIDER, "providers/telnyx", Network.NONE),
    ],
    ids=["number", "campaign", "campaign and carrier", "tenant", "provider"],
)
async def test_no_window_holds_more_than_the_amount(
    start_engine: StartEngine, carrier: Carrier, scope: Scope, subject: str, network: Network, unit: Unit
) -> None:
    """I12, with the engine crashing in between."""
    await carrier.set(**ATT)
    engine, log = await frozen(start_engine, carrier)
    await engine.set_quota(scope, subject, AMOUNT, carrier=network, unit=unit, window_ms=int(WINDOW_S * 1000), burst=6)
    await engine.submit(*some(150))
    for step in range(120):
        await log.step()
        if step in {30, 70}:
            await engine.crash()
            await engine.start()
            await engine.take_over_dispatch()
    parts = unit is Unit.SEGMENTS
    assert log.worst(WINDOW_S, parts=parts) <= AMOUNT
    # The rate without burst is 1.4 a second, and each of three starts waits for its bucket to fill.
    assert log.total(parts=parts) >= 0.8 * (AMOUNT - 6) * 120 * STEP_S / WINDOW_S


async def test_without_quotas_everything_leaves_at_once(start_engine: StartEngine, carrier: Carrier) -> None:
    """The control of the test above: its harness would see an excess."""
    engine, log = await frozen(start_engine, carrier)
    await engine.submit(*some(150))
    await log.step()
    assert log.worst(WINDOW_S, parts=False) == 150


async def test_a_quota_per_number_is_each_numbers_own(start_engine: StartEngine, carrier: Carrier) -> None:
    engine, log = await frozen(start_engine, carrier)
    await engine.make_campaign("second", SENDER + 1)
    for sender in (SENDER, SENDER + 1):
        await engine.set_quota(Scope.NUMBER, f"numbers/+{sender}", AMOUNT, window_ms=10_000, burst=6)
    await engine.submit(*some(60), *some(60, 100, campaign="campaigns/second"))
    for _ in range(80):
        await log.step()
    for sender in (SENDER, SENDER + 1):
        mine = Log(engine, carrier, sends=[one for one in log.sends if one[1]["from"] == f"+{sender}"])
        assert mine.worst(WINDOW_S, parts=True) <= AMOUNT
        assert mine.total(parts=True) >= 20


def taken_by(network: str, *, parts: int) -> bytes:
    """The answer to a send that was taken."""
    return json.dumps({"data": {"id": "taken", "parts": parts, "to": [{"carrier": network}]}}).encode()


async def nothing() -> None:
    """In place of what is done each second."""


async def spent(engine: Engine) -> list[tuple[int, int]]:
    """(spent, reserved) of every ledger row, by day."""
    return await engine.rows("SELECT spent, reserved FROM ledgers ORDER BY quota, day")


async def segments_sent(engine: Engine) -> int:
    """Segments of messages that left, by the store."""
    [(segments,)] = await engine.rows("SELECT coalesce(sum(segments), 0) FROM messages WHERE attempt > 0")
    return int(segments)


async def test_a_day_holds_its_cap_through_crashes_and_the_next_day_has_its_own(
    start_engine: StartEngine, carrier: Carrier
) -> None:
    """I12 and I19 for the daily ledger of a brand at a carrier."""
    await carrier.set(**TMOBILE)
    engine, log = await frozen(start_engine, carrier, sample=True)
    cap = 30
    await engine.set_quota(Scope.BRAND_CARRIER_DAY, "brands/acme", cap, carrier=Network.TMOBILE)
    await engine.submit(*some(60, validity={"seconds": 5 * DAY_S}))
    for step in range(6):
        await log.step(60)
        assert log.total(parts=True) <= cap
        assert [sum(row) for row in await spent(engine)] == [await segments_sent(engine)]
        if step in {0, 2, 3}:
            await engine.crash()
            await engine.start()
            await engine.take_over_dispatch()
    first_day = log.total(parts=True)
    assert cap - 2 <= first_day <= cap  # the next message may need three segments
    await log.step(DAY_S)
    await log.step(60)
    assert first_day < log.total(parts=True) <= 2 * cap
    # Rows of the day before are written with what follows; both together are all that left.
    await log.step(60)
    counted = sum(sum(row) for row in await spent(engine))
    assert counted == await segments_sent(engine) == log.total(parts=True)


@pytest.mark.parametrize("how", ["set", "set again", "set and crash", "set without an engine"])
async def test_a_cap_that_is_set_within_the_day_counts_what_the_day_has_spent(
    start_engine: StartEngine, carrier: Carrier, how: str
) -> None:
    await carrier.set(**TMOBILE, error_share=0.3, errors=[{"status": 400, "code": "40310"}])
    engine, log = await frozen(start_engine, carrier)
    await engine.make_campaign("second", SENDER + 1)
    await engine.submit(*some(30), *some(30, 100, campaign="campaigns/second"))
    await log.step()
    [(before,)] = await engine.rows("SELECT sum(segments) FROM messages WHERE state = 3")
    [(refused,)] = await engine.rows("SELECT count(*) FROM messages WHERE state = 20")
    assert refused > 0
    await carrier.set(error_share=0)
    await engine.submit(*some(60, 200, validity={"seconds": 5 * DAY_S}))
    cap = before + 20

    async def set_cap() -> int:
        return await engine.set_quota(Scope.BRAND_CARRIER_DAY, "brands/acme", cap, carrier=Network.TMOBILE)

    quota = await set_cap()
    if how == "set again":
        await engine.corridor.run_control(lambda control: quotas.delete_quota(control, quota))
        await set_cap()
    elif how == "set without an engine":
        await engine.execute("DELETE FROM ledgers")
    if how in {"set and crash", "set without an engine"}:
        await engine.crash()
        await engine.start()
        await engine.take_over_dispatch()
        await engine.corridor._revalidate()
    for _ in range(5):
        await log.step()
    [(after,)] = await engine.rows("SELECT sum(segments) FROM messages WHERE state = 3")
    assert cap - 2 <= after <= cap  # the next message may need three segments
    assert sum(sum(row) for row in (await spent(engine))[-1:]) == after
    await log.step(DAY_S)
    await log.step()
    [(next_day,)] = await engine.rows("SELECT sum(segments) FROM messages WHERE state = 3")
    assert next_day > after, "the next day has its own"


async def test_a_day_across_providers_answers_and_silence(start_engine: StartEngine, carrier: Carrier) -> None:
    """What was refused gives its reservation back, what is unknown is spent."""
    await carrier.set(**TMOBILE, drop_untaken_share=0.3, error_share=0.3, errors=[{"status": 400, "code": "40310"}])
    engine, log = await frozen(start_engine, carrier, breaker_attempts_min=1_000_000)
    await engine.set_quota(Scope.BRAND_CARRIER_DAY, "brands/acme", 1000, carrier=Network.TMOBILE)
    await engine.submit(*some(90))
    await log.step()
    [(expected,)] = await engine.rows("SELECT sum(segments) FROM messages WHERE state IN (3, 5)")
    [(spent_segments, reserved)] = await spent(engine)
    assert spent_segments + reserved == expected
    [(refused,)] = await engine.rows("SELECT count(*) FROM messages WHERE state = 20")
    assert refused > 0


async def test_an_unknown_carrier_reserves_from_all_and_gives_back(start_engine: StartEngine, carrier: Carrier) -> None:
    await carrier.set(**ATT)
    engine, log = await frozen(start_engine, carrier)
    tmobile = await engine.set_quota(Scope.BRAND_CARRIER_DAY, "brands/acme", 10, carrier=Network.TMOBILE)
    att = await engine.set_quota(Scope.BRAND_CARRIER_DAY, "brands/acme", 1000, carrier=Network.ATT)
    await engine.submit(*(submission(index) for index in range(50)))
    left = [await log.step() for _ in range(10)]
    # Ten at a time at most may be T-Mobile's; each batch turns out to be AT&T's and releases the others.
    assert sum(left) == 50
    [(identity,)] = await engine.rows("SELECT max(id) FROM messages")
    await engine.submit(submission(60))
    await log.step()
    await engine.submit(submission(61))
    await log.step()
    rows = dict(await engine.rows("SELECT quota, spent FROM ledgers"))
    assert rows[tmobile] == 0
    assert rows[att] >= 51
    assert identity


async def test_a_reserved_share_is_left_for_the_urgent(start_engine: StartEngine, carrier: Carrier) -> None:
    await carrier.set(**TMOBILE)
    engine, log = await frozen(start_engine, carrier)
    await engine.set_quota(
        Scope.BRAND_CARRIER_DAY, "brands/acme", 20, carrier=Network.TMOBILE, reserved_percent=25, reserved_class=1
    )
    await engine.submit(*(submission(index, message_class=pb.MESSAGE_CLASS_BULK) for index in range(40)))
    await log.step()
    assert len(log.sends) == 15
    await engine.submit(*(submission(100 + index, message_class=pb.MESSAGE_CLASS_CRITICAL) for index in range(10)))
    await log.step()
    assert len(log.sends) == 20


async def test_too_fast_holds_the_campaign_until_told(start_engine: StartEngine, carrier: Carrier) -> None:
    engine, log = await frozen(start_engine, carrier, in_flight_max=5, connections_max=5)
    await engine.make_campaign("second", SENDER + 1)
    await carrier.set(throttle_share=1, retry_after_s=30)
    await engine.submit(*(submission(index) for index in range(40)))
    await engine.corridor.dispatch._pass()
    await carrier.until_requests(5)

    async def answered() -> bool:
        return engine.corridor.dispatch.in_flight == 0

    await engine.until(answered)
    await carrier.set(throttle_share=0)
    await engine.submit(*(submission(100 + index, campaign="campaigns/second") for index in range(10)))
    assert await log.step(29) == 5 + 10  # the first five, and the other campaign
    assert await log.step(1) == 0
    for _ in range(60):
        await log.step(1)
    assert len([record for _, record in log.sends if record["taken"]]) == 50


@pytest.mark.parametrize(("code", "wait_s"), [("40018", 60), ("40016", 0)], ids=["minute", "day"])
async def test_a_cap_told_by_a_receipt_parks_that_carrier(
    start_engine: StartEngine, carrier: Carrier, code: str, wait_s: int
) -> None:
    await carrier.set(**TMOBILE)
    engine, log = await frozen(start_engine, carrier)
    await engine.set_quota(Scope.BRAND_CARRIER_DAY, "brands/acme", 1000, carrier=Network.TMOBILE)
    # Wherever in its day the limit's zone is now, they outlast it.
    lasting: dict[str, Any] = {"validity": Duration(seconds=3 * DAY_S)}
    [first] = await engine.submit(submission(0, **lasting))
    await log.step()
    await engine.deliver(engine.callback_query(first, 1), receipt_body("e1", "delivery_failed", code=code))
    # The carrier of a number is known once it answered for it.
    [later] = await engine.submit(submission(0, text="later", **lasting))
    next_s = (await engine.message(first)).next_attempt_time.seconds - engine.clock.now_us() / US
    wait_s = wait_s or int(next_s - SPREAD_S)
    assert await log.step(wait_s - 2) == 0
    assert await log.step(3) == 0
    for _ in range(50):
        await log.step(wait_s / 20)
    assert [record["to"] for _, record in log.sends] == [recipient(0)] * 3
    assert (await engine.message(later)).attempts == 1
    assert (await engine.message(first)).generation == 2


@pytest.mark.parametrize(("code", "capped"), [("40016", "T-Mobile"), ("40018", "AT&T")], ids=["day", "minute"])
@pytest.mark.parametrize("quota", [False, True], ids=["no ledger", "ledger"])
async def test_a_cap_met_by_an_unknown_carrier_leaves_the_others_going(
    start_engine: StartEngine, carrier: Carrier, code: str, capped: str, *, quota: bool
) -> None:
    engine, log = await frozen(start_engine, carrier)
    if quota:
        for network in (Network.TMOBILE, Network.ATT):
            await engine.set_quota(Scope.BRAND_CARRIER_DAY, "brands/acme", 1000, carrier=network)
    await carrier.set(carriers={"Verizon": 1})
    await engine.submit(submission(0))  # this number is known from here on
    await log.step()
    await carrier.set(error_share=1, errors=[{"status": 400, "code": code}])
    [refused] = await engine.submit(submission(1))
    await log.step()
    assert (await engine.timeline(refused))[-1] == f"QUEUED CAP_REACHED {code}"
    await carrier.set(error_share=0)
    await engine.submit(submission(0, text="code", message_class=pb.MESSAGE_CLASS_CRITICAL))
    assert await log.step() == 1, "nothing is wrong at its carrier"
    [(learned,)] = await engine.rows("SELECT carrier FROM carriers WHERE recipient = ?", int(recipient(1)[1:]))
    assert learned == {"T-Mobile": Network.TMOBILE, "AT&T": Network.ATT}[capped]


@pytest.mark.parametrize(
    ("answer", "counted"),
    [
        (Answer.of(200, taken_by("T-Mobile", parts=5)), [15, 0]),
        (Answer.of(400, b'{"errors": [{"code": "40310"}]}'), [0, 0]),
        (Answer.of(200, taken_by("AT&T", parts=5)), [0, 15]),
        (Answer(b"", "reset"), [3, 3]),
    ],
    ids=["parts", "refused", "another carrier", "unknown"],
)
async def test_a_crash_right_after_the_answers_forgets_nothing_of_the_day(
    start_engine: StartEngine, answer: Answer, counted: list[int]
) -> None:
    """I12 and I19: an outcome and what it means for the day are one write."""
    provider = CannedProvider(lambda body: str(json.loads(body)["to"]), default=answer)
    await provider.start()
    try:
        engine = await start_engine(f"{provider.url}/v2")
        for network in (Network.TMOBILE, Network.ATT):
            await engine.set_quota(Scope.BRAND_CARRIER_DAY, "brands/acme", 100, carrier=network)
        engine.corridor.sweep.write_ledgers = nothing  # type: ignore[method-assign]
        await engine.submit(*(submission(index) for index in range(3)))

        async def answered() -> bool:
            return engine.corridor.dispatch.in_flight == 0 and len(provider.got) == 3

        await engine.until(answered)
        assert [segments for segments, _ in await spent(engine)] == counted
        await engine.crash()
        await engine.start()
        assert await spent(engine) == [(segments, 0) for segments in counted]
    finally:
        await provider.stop()


@pytest.mark.parametrize("crashes", [False, True], ids=["calm", "crash"])
async def test_the_numbers_add_up_after_everything(
    start_engine: StartEngine, carrier: Carrier, *, crashes: bool
) -> None:
    """I19: what ledgers say was spent is what left, after answers of every kind.

    A row is committed with the intent or outcome that moves it: no crash comes between.
    """
    await carrier.set(**TMOBILE, error_share=0.2, throttle_share=0.1, retry_after_s=1, drop_taken_share=0.1)
    engine, log = await frozen(start_engine, carrier, breaker_attempts_min=1_000_000)
    await engine.set_quota(Scope.BRAND_CARRIER_DAY, "brands/acme", 10_000, carrier=Network.TMOBILE)
    for start in itertools.islice(itertools.count(0, 40), 4):
        await engine.submit(*some(40, start))
        await log.step(5)
    if crashes:
        await engine.crash()
        await engine.start()
        await engine.take_over_dispatch()
    await carrier.set(error_share=0, throttle_share=0, drop_taken_share=0)
    for _ in range(40):
        await log.step(5)
        # As the corridor's own loop does, now and then: after a crash it looks up what was taken.
        await engine.corridor.sweep.settle_due()
    await engine.submit(submission(9000))
    await log.step()
    taken_or_unknown = "SELECT sum(segments) FROM messages WHERE state IN (3, 4, 5, 16, 17, 18, 19)"
    [(expected,)] = await engine.rows(taken_or_unknown)
    [(spent_segments, reserved)] = await spent(engine)
    assert spent_segments + reserved == expected
