"""Profiles, traffic, tallies and the verdict of a load run, by themselves."""

import json
import random
import stat
from pathlib import Path

import pytest

from loadtest.locust import profiles, traffic, world
from loadtest.locust.calls import Calls
from loadtest.locust.pace import Pace
from loadtest.locust.tally import SAMPLE_MAX, Tally, together
from loadtest.locust.verdict import Measured, Thresholds, judge, table
from longwave.v1 import messaging_pb2 as pb


@pytest.mark.parametrize("factor", [1.0, 60.0, 100.0])
def test_a_day_has_a_million_messages_at_any_speed(factor: float) -> None:
    day = profiles.day(factor, 0, 24)
    assert day.seconds == pytest.approx(86_400 / factor)
    assert day.messages() == pytest.approx(1_000_000, rel=1e-3)
    assert day.peak == pytest.approx(max(day.rate(s) for s in range(0, int(day.seconds), 10)), rel=1e-2)
    assert day.batches_only == (factor > 60)
    assert min(day.rate(s) for s in range(0, int(day.seconds), 10)) < day.peak / 15


def test_hours_of_a_day_are_its_hours() -> None:
    noon = profiles.day(60, 14.5, 1)
    assert noon.seconds == 60
    assert noon.rate(30) == pytest.approx(noon.peak) == pytest.approx(1_000_000 / 86_400 * 60 * 1.9, rel=1e-3)


def test_a_spike_is_ten_times_as_much_within_ten_seconds() -> None:
    spike = profiles.spike(10, 180)
    assert [spike.rate(s) for s in (0, 59, 70, 119, 121)] == [10, 10, 100, 100, 10]
    assert spike.peak == 100
    assert spike.messages() == pytest.approx(10 * 120 + 100 * 60 - 90 * 5, rel=0.01)


def test_a_ramp_grows_by_a_quarter() -> None:
    ramp = profiles.ramp(100, 40, 10)
    assert [ramp.rate(s) for s in (0, 9, 10, 39)] == [100, 100, 125, pytest.approx(195.3, abs=0.1)]
    assert ramp.peak == ramp.rate(39)


def test_texts_are_as_long_and_as_wide_as_peoples() -> None:
    draw = random.Random(1)  # noqa: S311 - no secret
    texts = [traffic.text(draw) for _ in range(20_000)]
    wide = [text for text in texts if not text.isascii()]
    assert len(wide) / len(texts) == pytest.approx(traffic.UCS2_SHARE, abs=0.01)
    narrow = sorted(len(text) for text in texts if text.isascii())
    assert narrow[len(narrow) // 2] == pytest.approx(36, abs=2)
    assert narrow[-1] <= traffic.CHARACTERS_MAX[False]
    assert all(texts)


def test_a_mix_has_urgent_ones_and_wrong_ones() -> None:
    draw, campaigns = random.Random(1), {name: name for name in world.PURPOSES}  # noqa: S311 - no secret
    made = [traffic.submission(draw, campaigns) for _ in range(20_000)]
    urgent = [one for one in made if one.message_class == pb.MESSAGE_CLASS_CRITICAL]
    assert {one.campaign for one in urgent} == {"campaigns/urgent"}
    assert len(urgent) / len(made) == pytest.approx(traffic.URGENT_SHARE, abs=0.01)
    wrong = sum(one.recipient == traffic.NOBODY for one in made)
    assert wrong / len(made) == pytest.approx(traffic.INVALID_SHARE, abs=0.003)


def test_a_tally_counts_and_samples() -> None:
    tally = Tally()
    assert tally.answered(0, name="messages/1", wrong=False)
    assert tally.answered(0, name="", wrong=True)
    assert not tally.answered(0, name="", wrong=False)
    assert not tally.answered(0, name="messages/2", wrong=True)
    tally.failed(3)
    assert (tally.handed_in, tally.accepted, tally.refused_rightly) == (7, 2, 1)
    for number in range(3 * SAMPLE_MAX):
        tally.answered(1, name=f"messages/{number}", wrong=False)
    both = together([tally.shown(), json.loads(json.dumps(tally.shown()))])
    assert both.accepted == 2 * tally.accepted
    assert len(both.sample) == 2 * SAMPLE_MAX
    late = sum(int(name.partition("/")[2]) >= 2 * SAMPLE_MAX for _, name in tally.sample)
    assert late == pytest.approx(SAMPLE_MAX / 3, rel=0.2)


def test_percentiles_of_calls() -> None:
    calls = Calls()
    assert calls.percentile_ms(0.99) == 0
    calls.add({1: 50, 2: 49, 30: 1}, 1)
    assert [calls.percentile_ms(share) for share in (0.5, 0.99, 1.0)] == [1, 2, 30]
    before = Calls()
    before.add({1: 50}, 0)
    assert (calls.since(before).count, calls.since(before).errors) == (50, 1)


GOOD = Measured(
    calls=100, aimed=1000, handed_in=990, accepted=980, refused_rightly=10, p95_ms=150, unary_p99_ms=15, sampled=500
)


@pytest.mark.parametrize(
    ("changed", "broken"),
    [
        ({}, []),
        ({"calls": 0}, ["something was measured"]),
        ({"handed_in": 900}, ["the pace was kept (97% of the profile)"]),
        ({"errors": 1}, ["no error"]),
        ({"p95_ms": 200}, ["p95 of all calls < 200 ms"]),
        ({"unary_p99_ms": 20}, ["p99 of unary submissions < 20 ms"]),
        ({"lost": 1}, ["nothing lost"]),
        ({"sampled": 0}, ["nothing lost"]),
    ],
)
def test_every_promise_can_be_broken(changed: dict[str, int], broken: list[str]) -> None:
    measured = Measured(**{name: getattr(GOOD, name) for name in Measured.__slots__} | changed)
    lines = judge(measured, Thresholds(unary_p99_ms=20))
    assert [line.promise for line in lines if not line.kept] == broken
    assert table(measured, lines).splitlines()[-1] == ("FAILED" if broken else "PASSED")


def test_a_ramp_is_not_judged_by_what_it_ends_at() -> None:
    measured = Measured(calls=1, errors=5, aimed=10, handed_in=1)
    assert all(line.kept for line in judge(measured, Thresholds(p95_ms=None, to_the_end=False)))


def test_a_world_is_written_for_its_owner_alone_and_shows_no_key(tmp_path: Path) -> None:
    sender = world.Sender("lw_t_secret", {name: f"c-{name}" for name in world.PURPOSES})
    file = tmp_path / "world.json"
    world.write(world.World("127.0.0.1:1", (sender,)), file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    found = world.read(file)
    assert found == world.World("127.0.0.1:1", (sender,))
    assert "lw_t_secret" not in repr(found)


@pytest.mark.parametrize("text", ["", "{}", '{"address": "a", "senders": []}', '{"address": "a", "senders": [{}]}'])
def test_a_world_that_is_none_is_refused_with_what_to_write(tmp_path: Path, text: str) -> None:
    file = tmp_path / "world.json"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=r"world\.json"):
        world.read(file)


class Watch:
    """A clock that a test turns."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 1000.0
        monkeypatch.setattr("time.monotonic", lambda: self.now_s)


def test_users_that_were_held_up_together_do_not_call_together_from_then_on(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(monkeypatch)
    users = [Pace(1.0, phase) for phase in (0.2, 0.3, 0.7)]
    assert [user.wait_s() for user in users] == pytest.approx([0.2, 0.3, 0.7])
    watch.now_s += 0.9  # something held all of them up: they call at once
    assert [user.wait_s() for user in users] == pytest.approx([0.3, 0.4, 0.8])
    watch.now_s += 0.8
    assert [user.wait_s() for user in users] == pytest.approx([0.5, 0.6, 1.0])


def test_a_call_that_took_long_is_made_up_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    watch = Watch(monkeypatch)
    user = Pace(1.0, 0.0)
    assert user.wait_s() == 0.0
    watch.now_s += 5.4
    assert [user.wait_s(), user.wait_s()] == [0.0, 0.0]
    assert user.wait_s() == pytest.approx(1.0)
