"""What happens in each scene: a few messages, and the one moment at which a planted bug shows.

It plants nothing and asserts nothing: without a bug the evidence of every scene must satisfy the checker whole, which
`test_planted.py` demands. Waits are for what a good engine comes to; with a bug they may give up.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from engine import failpoints
from engine.look_up import ListQuery
from engine.registry.records import Carrier as Network
from engine.registry.records import Scope
from longwave.v1 import messaging_pb2 as pb
from tests.corridor.carrier_process import NO_RECEIPTS
from tests.corridor.crash_checker import FORGED_CODE, Promises
from tests.corridor.engine_fixture import SENDER, US, inbound_body, receipt_body, recipient, submission
from tests.proof.planted.scene import Scene, seqs_of, settled

TEXTS: Final = ("hello there, one", "two segments " * 20, "three, with an accent é and a euro € " * 9)
STRANGER: Final = 12025550177
SLOW_MS: Final = 300.0
SLOW: Final = {"latency_min_ms": SLOW_MS, "latency_mean_ms": SLOW_MS, "latency_max_ms": SLOW_MS}
# Longer than a busy machine needs to see a request and stop, shorter than the grace of a stop.
VERY_SLOW: Final = dict.fromkeys(SLOW, 2000.0)
ON_THE_WAY_S: Final = 0.6
# That nothing happens has no sign to wait for.
NO_SIGN_S: Final = 0.4
FORGED: Final = "e-forged-"


def some(count: int, start: int = 0, **fields: Any) -> list[pb.Submission]:
    """Messages of one to three segments, each to a number of its own."""
    return [submission(start + n, text=f"{TEXTS[n % 3]} #{start + n}", **fields) for n in range(count)]


async def plain(scene: Scene) -> None:
    """Six messages, sent and delivered, while a subscriber reads along."""
    await scene.open()
    await scene.submit(*some(6))
    await scene.final()


async def commit_lost(scene: Scene) -> None:
    """The transaction that accepts fails at its end."""
    await scene.open()
    await scene.submit(*some(2))
    await scene.final()
    failpoints.arm("append.before_commit:raise")
    await scene.submit(*some(1, 2))
    await scene.final()


async def intent_lost(scene: Scene) -> None:
    """The transaction that writes an attempt down fails at its end; it is tried again a second later."""
    await scene.open()
    failpoints.arm("intent.before_commit:raise")
    await scene.submit(*some(1))
    await scene.final()


async def stop_lost(scene: Scene) -> None:
    """The transaction that stores a STOP fails at its end."""
    await scene.open()
    failpoints.arm("receipts.before_commit:raise")
    handset = recipient(5)
    if await scene.deliver("", inbound_body("stop-1", "STOP", sender=handset)) == 200:
        scene.note("opt_out_acked", recipient=handset, by="stop")


async def stop_kept(scene: Scene) -> None:
    """STOP, a crash, and a message that was accepted before."""
    await scene.open()
    await scene.engine.take_over_dispatch()
    await scene.submit(*some(1))
    assert await scene.deliver("", inbound_body("stop-1", "STOP", sender=recipient(0))) == 200
    scene.note("opt_out_acked", recipient=recipient(0), by="stop")
    await scene.crash()
    await scene.start()
    await scene.final()


async def outcome_unknown(scene: Scene) -> None:
    """The carrier takes a message and drops the connection; the policy is not to send again."""
    await scene.open()
    await scene.carrier.set(drop_taken_share=1, idempotency="ignored", **NO_RECEIPTS)
    await scene.submit(*some(1))
    await scene.rest(settled)
    await scene.carrier.set(drop_taken_share=0)
    await scene.rest(settled)
    await scene.pass_time(62)
    await scene.rest(lambda states: "UNKNOWN" not in states)
    await scene.rest(settled)


async def killed_in_flight(scene: Scene) -> None:
    """The engine dies while the carrier has the message and has not answered."""
    await scene.open()
    await scene.carrier.set(silence_taken_share=1, idempotency="ignored", **NO_RECEIPTS)
    await scene.submit(*some(1))
    await scene.requests(1)
    await scene.crash()
    await scene.carrier.set(silence_taken_share=0)
    await scene.start()
    await scene.rest(settled)
    await scene.pass_time(62)
    await scene.rest(lambda states: "UNKNOWN" not in states)


async def replayed(scene: Scene) -> None:
    """The carrier honours keys: an attempt of unknown outcome is replayed under its key with its bytes."""
    await scene.open(telnyx_honours_keys=True)
    await scene.carrier.set(drop_taken_share=1, **NO_RECEIPTS)
    await scene.submit(*some(1))
    await scene.requests(1)
    await scene.carrier.set(drop_taken_share=0)
    await scene.requests(2)
    await scene.rest(lambda states: settled(states) and "UNKNOWN" not in states)


async def asked_again(scene: Scene) -> None:
    """A caller whose answer was lost asks again after a crash, with the same ids; then with other content."""
    await scene.open()
    first = some(2)
    await scene.submit(*first)
    await scene.final()
    await scene.crash()
    await scene.start()
    await scene.submit(*first, known=True)
    await scene.reuse(first[0].request_id, text="something else altogether")
    await scene.final()


async def asked_twice_at_once(scene: Scene) -> None:
    """One call holds the same message twice, under the same request id."""
    await scene.open()
    await scene.submit(*some(1, request_id="twin"), *some(1, request_id="twin"))
    await scene.final()


async def overtaken(scene: Scene) -> None:
    """A message is cancelled, another's recipient opts out, when both are popped and not yet written down."""
    await scene.open()
    corridor = scene.engine.corridor
    writer = scene.engine.store.writer
    ids: list[int] = []
    hand_in = writer.submit
    beside: list[asyncio.Task[Any]] = []

    def submit(stage: str, run: Any, **more: Any) -> Any:
        return overtake(stage, run, **more) if stage == "intent" and not beside else hand_in(stage, run, **more)

    async def overtake(stage: str, run: Any, **more: Any) -> Any:
        beside.append(asyncio.create_task(scene.opt_out(recipient(1))))
        await scene.cancel(ids[0])
        return await hand_in(stage, run, **more)

    await scene.engine.take_over_dispatch()
    ids += await scene.submit(*some(3))
    writer.submit = submit  # type: ignore[method-assign] # given back with the corridor
    corridor.dispatch.start()
    await scene.final()
    await asyncio.wait(beside, timeout=scene.patience_s)


async def opted_out_on_the_way(scene: Scene) -> None:
    """An attempt is written down, its bytes are slow; meanwhile the recipient is forbidden."""
    await scene.open()
    pool = scene.engine.corridor.pool
    loop = asyncio.get_running_loop()
    left, send = asyncio.Event(), pool.submit

    def submit(request: object, data: bytes) -> None:
        left.set()
        loop.call_later(ON_THE_WAY_S, send, request, data)

    pool.submit = submit  # type: ignore[method-assign] # given back with the pool
    await scene.submit(*some(1))
    await left.wait()
    await scene.opt_out(recipient(0))
    await scene.requests(1)
    await scene.final()


async def expired(scene: Scene) -> None:
    """A message's validity ends before anything could leave."""
    await scene.open()
    await scene.carrier.set(**NO_RECEIPTS)
    await scene.engine.take_over_dispatch()
    await scene.submit(*some(1, validity={"seconds": 60}))
    await scene.pass_time(120)
    scene.engine.corridor.dispatch.start()
    await scene.final()


async def taken_over(scene: Scene) -> None:
    """Another owner takes the store while this one goes on."""
    await scene.open()
    await scene.carrier.set(**NO_RECEIPTS)
    await scene.submit(*some(1))
    await scene.rest(settled)

    def take_over(connection: Any) -> None:
        connection.execute("UPDATE facts SET value = value + 1 WHERE name = 'epoch'")

    await scene.engine.store.writer.submit("control", take_over)
    scene.note("life", after="takeover", failpoint="")
    await scene.submit(*some(1, 1))
    patience_s, scene.patience_s = scene.patience_s, 0.5  # it waits for ever, and should
    await scene.rest(settled)
    scene.patience_s = patience_s


async def clock_set_forward(scene: Scene) -> None:
    """A number may send 10 messages an hour, 5 at once; somebody sets the clock an hour forward, and again."""
    await _metered(scene)
    for _ in range(3):
        scene.clock.step(3600)
        scene.engine.corridor.dispatch.wake()
        await _sent_within_quota(scene)


async def killed_within_a_window(scene: Scene) -> None:
    """The same number has sent what it may for now when the engine dies, and again."""
    await _metered(scene)
    for _ in range(3):
        await scene.crash()
        await scene.start()
        await _sent_within_quota(scene)


async def _metered(scene: Scene) -> None:
    await scene.open()
    await scene.carrier.set(**NO_RECEIPTS)
    quota = {"unit": 2, "window_ms": 3_600_000, "burst": 5}
    await scene.engine.set_quota(Scope.NUMBER, f"numbers/+{SENDER}", 10, **quota)
    await scene.submit(*some(25, validity={"seconds": 86_400}))
    await scene.pass_time(3600)
    await scene.requests(5)
    await _sent_within_quota(scene)


async def _sent_within_quota(scene: Scene) -> None:
    """Let leave what may; that nothing more does has no sign to wait for."""
    await asyncio.sleep(NO_SIGN_S)
    await scene.rest(lambda states: "DISPATCHING" not in states)


async def refilled(scene: Scene) -> None:
    """Messages of two campaigns wait when the engine dies; the next one must take up both."""
    await scene.open()
    await scene.engine.make_campaign("second", SENDER + 1)
    await scene.engine.take_over_dispatch()
    await scene.submit(*some(3), *some(3, 3, campaign="campaigns/second"))
    await scene.crash()
    await scene.start()
    await scene.final()


async def key_held(scene: Scene) -> None:
    """The first of an ordering key is of unknown outcome; its follower waits, over a crash too."""
    await scene.open()
    await scene.carrier.set(drop_taken_share=1, idempotency="ignored", **NO_RECEIPTS)
    await scene.submit(*some(2, ordering_key="k"))
    await scene.rest(lambda states: "UNKNOWN" in states)
    await scene.carrier.set(drop_taken_share=0)
    await scene.crash()
    await scene.start()
    await asyncio.sleep(NO_SIGN_S)
    await scene.pass_time(62)
    await scene.rest(lambda states: settled(states) and "UNKNOWN" not in states)


async def watched(scene: Scene) -> None:
    """A subscriber reads along over reconnects, by its cursor."""
    await scene.open()
    tenant = scene.engine.tenant_key
    position = 0

    async def read(*, caught_up: bool = False) -> None:
        nonlocal position
        events: list[pb.Event] = []
        while True:
            rows, reached = await scene.engine.corridor.read_events(tenant, position, 4)
            events += [event for row in rows for event in pb.WatchEventsResponse.FromString(row).events]
            if not rows and reached == position:
                break
            position = reached
        scene.note("watched", subscriber="a", tenant=tenant, events=seqs_of(events), caught_up=caught_up)

    for number in range(4):
        await scene.submit(*some(2, 2 * number))
        await read()
    await scene.final()
    await read(caught_up=True)


async def foreigners(scene: Scene) -> None:
    """Another tenant asks for what is not its own, by every call that names or lists messages."""
    await scene.open()
    await scene.carrier.set(**NO_RECEIPTS)
    other = (await scene.engine.make_tenant("rival", STRANGER)).key
    [mine, *_] = await scene.submit(*some(3))
    await scene.rest(settled)
    corridor = scene.engine.corridor
    query = ListQuery(10, 0, "", (), 0, "", 0, 0, str)
    page = pb.ListMessagesResponse.FromString(await corridor.list_messages(other, query))
    rows, _ = await corridor.read_events(other, 0, 100)
    cancelled, _ = await corridor.cancel_message(other, mine)
    scene.note("foreign_asked", what="get", found=await corridor.get_message(other, mine) is not None)
    scene.note("foreign_asked", what="cancel", found=cancelled is not None)
    scene.note("foreign_asked", what="list", found=len(page.messages) > 0)
    scene.note("foreign_asked", what="events", found=len(rows) > 0)


async def forged(scene: Scene) -> None:
    """Webhooks that nobody may believe: another's signature, an old one, another message's MAC."""
    await scene.open()
    await scene.carrier.set(**NO_RECEIPTS)
    first, second = await scene.submit(*some(2))
    await scene.rest(settled)
    engine = scene.engine
    body = receipt_body(f"{FORGED}1", "delivery_failed", provider_id="nobody", code=FORGED_CODE)
    query = engine.callback_query(first, 1)
    signed = scene.signing.sign(query, body, scene.clock.now_us())
    wrong = signed._replace(signature=signed.signature[::-1])
    [status] = await engine.receive([wrong])
    scene.note("webhook_probe", what="wrong signature", status=status, wanted=401)
    body = receipt_body(f"{FORGED}2", "delivery_failed", provider_id="nobody", code=FORGED_CODE)
    status = await scene.deliver(query, body, at_us=scene.clock.now_us() - 400 * US)
    scene.note("webhook_probe", what="stale", status=status, wanted=401)
    body = receipt_body(f"{FORGED}3", "delivery_failed", provider_id="nobody", code=FORGED_CODE)
    other = engine.callback_query(second, 1)
    crossed = query.partition("&s=")[0] + "&s=" + other.partition("&s=")[2]
    scene.note("webhook_probe", what="another's MAC", status=await scene.deliver(crossed, body), wanted=200)
    await scene.rest(settled)


async def told_twice(scene: Scene) -> None:
    """The provider tells of one text from a handset twice."""
    await scene.open()
    for _ in range(2):
        await scene.deliver("", inbound_body("in-1", "good morning", sender=recipient(3)))


async def contradicted_twice(scene: Scene) -> None:
    """After `delivered` the provider tells of a failure, and tells the same again: one contradiction, not two."""
    await scene.open()
    [identity] = await scene.submit(*some(1))
    await scene.final()
    for _ in range(2):
        body = receipt_body("contrary", "delivery_failed", code="40008")
        scene.note("receipt_told", message=identity, event="contrary")
        await scene.deliver(scene.engine.callback_query(identity, 1), body)


async def told_late(scene: Scene) -> None:
    """`sent` comes after `delivered`."""
    await scene.open()
    [identity] = await scene.submit(*some(1))
    await scene.final()
    await scene.deliver(scene.engine.callback_query(identity, 1), receipt_body("late", "sent"))


async def told_early(scene: Scene) -> None:
    """Receipts overtake the answer to the request."""
    await scene.open()
    await scene.carrier.set(receipt_early_share=1, **SLOW)
    await scene.submit(*some(1))
    await scene.final()


async def capped_by_day(scene: Scene) -> None:
    """A brand's daily cap at one carrier counts what was taken."""
    await scene.open()
    await scene.carrier.set(carriers={"T-Mobile": 1}, **NO_RECEIPTS)
    await scene.engine.set_quota(Scope.BRAND_CARRIER_DAY, "brands/acme", 1000, carrier=Network.TMOBILE)
    await scene.submit(*some(6))
    await scene.rest(settled)


async def carrier_down(scene: Scene) -> None:
    """The carrier answers nothing but errors until the breaker opens; messages wait; then it is well again."""
    await scene.open(breaker_attempts_min=3, breaker_failure_percent=30)
    await scene.carrier.set(**NO_RECEIPTS)
    await scene.submit(*some(3))
    await scene.rest(settled)
    from_us = scene.now_us()
    await scene.carrier.set(late_error_share=1)
    await scene.submit(*some(6, 3))
    await scene.rest(settled)
    await scene.submit(*some(6, 9))
    await scene.carrier.set(late_error_share=0)
    scene.note("faulted", from_us=from_us, to_us=scene.now_us())
    await scene.pass_time(15)
    await scene.rest(settled)
    await scene.pass_time(50)
    await scene.rest(lambda states: "UNKNOWN" not in states)


async def looked_at_often(scene: Scene) -> None:
    """Callers read and read; what the process holds is looked at between. Events are never kept in memory."""
    await scene.open()
    [identity] = await scene.submit(*some(1))
    await scene.final()
    tenant = scene.engine.tenant_key
    for _ in range(24):
        for _ in range(4):
            await scene.engine.corridor.get_message(tenant, identity)
            await scene.engine.corridor.read_events(tenant, 0, 10)
        scene.sample()


async def forbidden(scene: Scene) -> None:
    """An opt-out; numbers are in the store only, not in logs and metrics."""
    await scene.open()
    await scene.submit(*some(2))
    await scene.final()
    await scene.opt_out(recipient(0))


async def stopped_in_flight(scene: Scene) -> None:
    """SIGTERM while messages are on the wire, then another life."""
    await scene.open()
    await scene.carrier.set(**VERY_SLOW, **NO_RECEIPTS)
    await scene.submit(*some(4))
    await scene.requests(1)
    await scene.drain()
    await scene.start()
    await scene.rest(settled)


@dataclass(frozen=True, slots=True)
class Plot:
    """A scene and what was promised in it."""

    play: Callable[[Scene], Awaitable[None]]
    promises: Promises = Promises(all_final=False)  # noqa: RUF009 - frozen


ALL_FINAL: Final = Promises()
PLOTS: Final = {
    plot.play.__name__: plot
    for plot in (
        Plot(plain, ALL_FINAL),
        Plot(commit_lost, ALL_FINAL),
        Plot(intent_lost, ALL_FINAL),
        Plot(stop_lost, ALL_FINAL),
        Plot(stop_kept, ALL_FINAL),
        Plot(outcome_unknown),
        Plot(killed_in_flight),
        Plot(replayed, Promises(honours_keys=True, all_final=False)),
        Plot(asked_again, ALL_FINAL),
        Plot(asked_twice_at_once, ALL_FINAL),
        Plot(overtaken, ALL_FINAL),
        Plot(opted_out_on_the_way, ALL_FINAL),
        Plot(expired),
        Plot(taken_over),
        Plot(clock_set_forward),
        Plot(killed_within_a_window),
        Plot(refilled, ALL_FINAL),
        Plot(key_held),
        Plot(watched, ALL_FINAL),
        Plot(foreigners),
        Plot(forged),
        Plot(told_twice, ALL_FINAL),
        Plot(contradicted_twice, ALL_FINAL),
        Plot(told_late, ALL_FINAL),
        Plot(told_early, ALL_FINAL),
        Plot(capped_by_day),
        Plot(carrier_down),
        Plot(looked_at_often, ALL_FINAL),
        Plot(forbidden, ALL_FINAL),
        Plot(stopped_in_flight),
    )
}
