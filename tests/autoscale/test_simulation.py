"""The autoscaler as shipped, over pods that can do what a recorded engine did: loads that it must follow, and one not.

That limits stay exact while pods come and go is proved on real nodes: `tests/cluster/test_spread.py`,
`test_one_node_becomes_eight_and_then_two` and `test_one_limit_for_all_nodes_is_held_and_used`.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

import pytest
import yaml

from loadtest.autoscale import scenes, spec
from loadtest.autoscale.hpa import SYNC_S, Autoscaler, Pod, Sample
from loadtest.autoscale.pods import QUEUE, Ability, Pods, Terms, ability_of
from loadtest.autoscale.record import Row, values_of
from loadtest.autoscale.simulate import Came, simulate
from loadtest.autoscale.spec import Spec

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "loadtest" / "results" / "2026-11-28-autoscale"
GUIDE: Final = Path(__file__).parent / "golden" / "hpas" / "guide.yaml"
HOUR_S: Final = 3600.0
MINUTE_S: Final = 60.0
STEADY: Final = Ability(
    messages_a_second=300, cpu_s_a_message=0.0004, idle_cpu=0.01, memory_bytes=130e6, bytes_a_message=1000
)


def shipped() -> dict[str, Spec]:
    """The guide's autoscaler, and every one that stands in a file under deploy/."""
    found = {"guide": spec.read(GUIDE.read_text(encoding="ascii"))}
    for file in sorted((ROOT / "deploy").rglob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        # Templates of Helm are no YAML; what they render to is beside them.
        if "kind: HorizontalPodAutoscaler" in text and "{{" not in text:
            for document in yaml.safe_load_all(text):
                if isinstance(document, dict) and document.get("kind") == "HorizontalPodAutoscaler":
                    name = document["metadata"]["name"]
                    found[f"{file.relative_to(ROOT)} {name}"] = spec.read(text, name)
    return found


def by_queue() -> dict[str, Spec]:
    """Those of them that look at the queue."""
    return {name: one for name, one in shipped().items() if any(target.name == QUEUE for target in one.metrics)}


every_shipped = pytest.mark.parametrize("autoscaler", by_queue().values(), ids=by_queue())


def test_where_nothing_queues_no_queue_is_looked_at() -> None:
    """Receipts and the registry are answered or not: their pods follow cpu and memory."""
    assert {one.target for one in by_queue().values()} == {"longwave-dispatch", "longwave-ingest"}
    others = [one for name, one in shipped().items() if name not in by_queue()]
    assert {one.target for one in others} == {"longwave-receipts", "longwave-admin"}
    assert all([target.name for target in one.metrics] == ["cpu", "memory"] for one in others)


@pytest.fixture(scope="module")
def rows() -> dict[str, list[Row]]:
    return scenes.recordings(RESULTS)


def calm_first(rows: Sequence[Row]) -> list[Row]:
    """Those before the spike."""
    return list(itertools.takewhile(lambda row: row.offered_per_s == rows[0].offered_per_s, rows))


def loses_slowly(came: Came) -> None:
    """A tenth a minute: of 20 two at once, and nothing within the minute after."""
    for before, lost in came.lost_in(MINUTE_S):
        assert lost <= math.ceil(before / 10), (before, lost)


@every_shipped
def test_a_spike_is_followed_drained_and_forgotten_slowly(autoscaler: Spec, rows: dict[str, list[Row]]) -> None:
    ability = ability_of(rows[scenes.SPIKE])
    came = scenes.played(scenes.SPIKE, autoscaler, rows)
    began_s = max(row.at_s for row in calm_first(rows[scenes.SPIKE])) * scenes.SCENES[scenes.SPIKE].slower
    rose_s = came.first_rise_s(0.0)
    assert rose_s is not None
    # The last low proposal must have left the window of five minutes, and the queue be scraped and looked at.
    assert 300 - SYNC_S <= rose_s - began_s <= 300 + 2 * Terms().scrape_s
    assert max(came.replicas) == autoscaler.replicas_max
    drained_s = came.drained_s(ability, 0.0)
    assert drained_s is not None
    assert drained_s - rose_s <= 5 * MINUTE_S
    assert came.turns == 1
    assert came.replicas[-1] == autoscaler.replicas_min
    loses_slowly(came)


@every_shipped
def test_a_day_is_followed_without_flapping(autoscaler: Spec, rows: dict[str, list[Row]]) -> None:
    came = scenes.played(scenes.DAY, autoscaler, rows)
    assert max(came.replicas) > autoscaler.replicas_min
    assert came.turns <= 2
    loses_slowly(came)


@every_shipped
def test_a_load_at_the_edge_of_the_pods_does_not_flap(autoscaler: Spec, rows: dict[str, list[Row]]) -> None:
    """More than three can do, less than four: pods make the queue fall that called them, and their cpu keeps them."""
    ability = ability_of(rows[scenes.SPIKE])
    came = simulate(autoscaler, ability, lambda _: 3.5 * ability.messages_a_second, 3 * HOUR_S)
    assert came.replicas[-1] > autoscaler.replicas_min
    assert came.turns <= 1
    assert came.moments[-1].queued <= ability.messages_a_second


@every_shipped
def test_pods_that_their_slots_bind_and_not_their_cpu_swing_slowly(autoscaler: Spec) -> None:
    """What the guide's metrics cannot do: a queue says that pods are too few, never how many are enough."""
    came = simulate(autoscaler, STEADY, lambda _: 3.5 * STEADY.messages_a_second, 3 * HOUR_S)
    assert max(came.replicas) == autoscaler.replicas_max
    assert 2 <= came.turns <= 3 * HOUR_S / (12 * MINUTE_S)
    loses_slowly(came)


def told(autoscaler: Spec, rows: Sequence[Row], queue_of: Callable[[Row], float]) -> list[int]:
    """Replicas over an hour, each pod telling what the recorded engine told while its backlog waited."""
    asked, replicas, found = Autoscaler(autoscaler), autoscaler.replicas_min, []
    waiting = list(itertools.pairwise(rows))
    for at in range(int(HOUR_S / SYNC_S)):
        before, row = waiting[at % len(waiting)]
        now_s = at * SYNC_S
        samples = {
            "cpu": Sample(int((row.cpu_s - before.cpu_s) / (row.at_s - before.at_s) * 1000), now_s, SYNC_S),
            "memory": Sample(int(row.memory_bytes) * 1000, now_s),
            QUEUE: Sample(int(queue_of(row)) * 1000, now_s),
        }
        pods = [Pod(f"pod-{place}", samples, Terms().requests, started_s=-HOUR_S) for place in range(replicas)]
        replicas = asked.sync(now_s, replicas, pods)
        found.append(replicas)
    return found


@every_shipped
def test_a_backlog_that_a_limit_holds_back_calls_no_pods(autoscaler: Spec, rows: dict[str, list[Row]]) -> None:
    """Recorded: 40,000 messages wait for one limit. Were they counted, pods would be at their most, for nothing."""
    waiting = [row for row in rows[scenes.PACED] if row.offered_per_s == 0]
    assert min(row.backlog for row in waiting) > 39_000
    assert set(told(autoscaler, waiting, lambda row: row.queue_length)) == {autoscaler.replicas_min}
    assert told(autoscaler, waiting, lambda row: row.backlog)[-1] == autoscaler.replicas_max


def test_a_shorter_window_meets_a_spike_earlier_and_holds_less_back(rows: dict[str, list[Row]]) -> None:
    autoscaler = shipped()["guide"]
    late = scenes.played(scenes.SPIKE, autoscaler, rows)
    early = scenes.played(scenes.SPIKE, scenes.looks_back(autoscaler, scenes.QUICK_WINDOW_S), rows)
    assert (early.first_rise_s(0.0) or math.inf) < (late.first_rise_s(0.0) or 0) - 200
    assert max(moment.queued for moment in early.moments) < max(moment.queued for moment in late.moments) / 2
    assert early.turns == late.turns == 1


def test_pods_lose_and_make_no_message() -> None:
    pods, arrived, passed_before = Pods(3, STEADY, Terms()), 0.0, 0.0
    for second in range(600):
        if second in {100, 200, 300}:
            pods.scale(second, {100: 9, 200: 2, 300: 20}[second])
        before = pods.queued
        pods.pass_time(second, 1.0, 1000.0)
        arrived += 1000.0
        passed = before + 1000.0 - pods.queued
        assert 0 <= passed <= pods.ready * STEADY.messages_a_second + 1e-6
        passed_before += passed
    assert passed_before + pods.queued == pytest.approx(arrived)


def test_a_pod_that_starts_owns_nothing_and_is_not_asked() -> None:
    pods = Pods(3, STEADY, Terms())
    pods.scale(0.0, 5)
    pods.pass_time(0.0, 1.0, 0.0)
    assert (pods.ready, len(pods.seen(5))) == (3, 5)
    assert [pod.phase for pod in pods.seen(5)] == ["Running"] * 3 + ["Pending"] * 2
    pods.pass_time(30.0, 1.0, 0.0)
    assert pods.ready == 5


def test_a_scrape_is_read_and_a_series_that_has_not_begun_is_nothing() -> None:
    text = "# TYPE custom_queue_length gauge\ncustom_queue_length 7.0\nprocess_cpu_seconds_total 1.5\n"
    found = values_of(text)
    assert (found["queue_length"], found["cpu_s"], found["sent"]) == (7.0, 1.5, 0.0)


def test_a_run_without_a_backlog_says_nothing_of_a_pod(rows: dict[str, list[Row]]) -> None:
    with pytest.raises(ValueError, match="with a backlog"):
        ability_of(rows[scenes.PACED])
