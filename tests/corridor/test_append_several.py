"""Calls handed in together get what they would get one by one."""

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from engine.append import UNARY
from engine.entry import Reply, Several
from engine.errors import NotReady, Verdict
from longwave.v1 import messaging_pb2 as pb
from tests.corridor.carrier_process import Carrier
from tests.corridor.conftest import StartEngine
from tests.corridor.engine_fixture import US, WAIT_S, Engine, submission
from tests.corridor.test_append import stored


class Asker:
    """Notes what it hears."""

    def __init__(self) -> None:
        self.replies: dict[int, Reply] = {}
        self.errors: dict[int, BaseException] = {}
        self._heard = asyncio.Event()

    def answered(self, tags: Sequence[int], replies: Sequence[tuple[int, bytes, str, str, int]]) -> None:
        assert not self.replies.keys() & set(tags), "told twice"
        self.replies.update((tag, Reply(*reply)) for tag, reply in zip(tags, replies, strict=True))
        self._heard.set()

    def failed(self, tags: Sequence[int], error: BaseException) -> None:
        self.errors.update((tag, error) for tag in tags)
        self._heard.set()

    async def heard(self, calls: int) -> None:
        async with asyncio.timeout(WAIT_S):
            while len(self.replies) + len(self.errors) < calls:
                await self._heard.wait()
                self._heard.clear()


def several(engine: Engine, asker: Asker, *submissions: pb.Submission, deadline_s: float = WAIT_S) -> Several:
    """Tagged 100, 101 and on."""
    requests = [pb.SubmitMessageRequest(submission=each).SerializeToString() for each in submissions]
    deadline_us = engine.corridor.clock.mono_us() + int(deadline_s * US)
    tags = list(range(100, 100 + len(requests)))
    return Several(engine.tenant_key, tags, requests, [deadline_us] * len(requests), asker)


def verdicts(asker: Asker) -> list[Any]:
    return [asker.replies[tag].verdict for tag in sorted(asker.replies)]


async def test_each_has_its_own_verdict_and_the_answer_of_a_single_call(engine: Engine) -> None:
    made = [submission(0, request_id="a"), submission(1, text=""), submission(2, request_id="a"), submission(3)]
    asker = Asker()
    engine.corridor.submit_several(several(engine, asker, *made))
    await asker.heard(4)
    for tag, one in enumerate(made, 100):
        if not one.request_id:
            continue
        request = pb.SubmitMessageRequest(submission=one).SerializeToString()
        deadline_us = engine.corridor.clock.mono_us() + WAIT_S * US
        again = await engine.corridor.submit(UNARY, engine.tenant_key, request, deadline_us)
        assert (again.verdict, again.response) == (asker.replies[tag].verdict, asker.replies[tag].response)
    assert [verdict == Verdict.ACCEPTED for verdict in verdicts(asker)] == [True, False, False, True]
    assert await stored(engine) == 2


async def test_they_share_groups_with_single_calls(engine: Engine) -> None:
    askers = [Asker() for _ in range(20)]
    for asker in askers:
        engine.corridor.submit_several(several(engine, asker, *(submission(number) for number in range(50))))
    request = pb.SubmitMessageRequest(submission=submission(1)).SerializeToString()
    deadline_us = engine.corridor.clock.mono_us() + WAIT_S * US
    single = engine.corridor.submit(UNARY, engine.tenant_key, request, deadline_us)
    for asker in askers:
        await asker.heard(50)
        assert set(verdicts(asker)) == {Verdict.ACCEPTED}
    assert (await single).verdict == Verdict.ACCEPTED
    assert await stored(engine) == 1001
    assert engine.corridor.append.waiting == 0


async def test_who_is_gone_or_late_is_not_judged(start_engine: StartEngine, carrier: Carrier) -> None:
    engine = await start_engine(carrier.base_url)
    before, asker = Asker(), Asker()
    go_on = engine.hold_up(engine.accept_writer)
    try:
        engine.corridor.submit_several(several(engine, before, submission(0)))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        waiting = several(engine, asker, submission(1), submission(2), submission(3))
        waiting.deadlines_us[1] = engine.corridor.clock.mono_us() + 1
        engine.corridor.submit_several(waiting)
        waiting.give_up(102)
    finally:
        go_on()
    await before.heard(1)
    await asker.heard(2)
    assert {tag: reply.verdict for tag, reply in asker.replies.items()} in (
        {100: Verdict.ACCEPTED, 101: Verdict.DEADLINE_PASSED},
        {100: Verdict.ACCEPTED, 101: Verdict.OVERLOADED},
    )
    assert await stored(engine) == 2


async def test_under_pressure_each_is_looked_at_by_itself(engine: Engine) -> None:
    append = engine.corridor.append
    asker = Asker()
    append._pressure._look_at_s = asyncio.get_running_loop().time() + 60
    append._pressure.floor = 32  # one-time passwords alone are let in
    urgent = submission(0, message_class=pb.MESSAGE_CLASS_CRITICAL)
    bulk = submission(1, message_class=pb.MESSAGE_CLASS_BULK)
    engine.corridor.submit_several(several(engine, asker, bulk, urgent, bulk))
    await asker.heard(3)
    assert verdicts(asker) == [Verdict.OVERLOADED, Verdict.ACCEPTED, Verdict.OVERLOADED]
    assert asker.replies[100].retry_delay_us > 0
    assert await stored(engine) == 1


async def test_without_room_they_are_refused(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    asker = Asker()
    lines = engine.corridor.append._lines
    monkeypatch.setattr(lines, "_free_bytes", 300)
    engine.corridor.submit_several(several(engine, asker, *(submission(number, text="x" * 100) for number in range(3))))
    await asker.heard(3)
    assert Verdict.TOO_MANY_CALLS in verdicts(asker)
    assert verdicts(asker).count(Verdict.ACCEPTED) == await stored(engine)


async def test_closed_it_takes_none(engine: Engine) -> None:
    asker = Asker()
    engine.corridor.append.close("the server drains")
    engine.corridor.submit_several(several(engine, asker, submission(0), submission(1)))
    assert [type(error) for error in asker.errors.values()] == [NotReady, NotReady]
    assert await stored(engine) == 0
