"""The autoscaler's algorithm against the decisions that Kubernetes' own controller took (`golden/generate.sh`)."""

import gzip
import json
from pathlib import Path
from typing import Any, Final

import pytest

from loadtest.autoscale.hpa import FAILED, PENDING, RUNNING, Autoscaler, Pod, Sample
from loadtest.autoscale.spec import PERCENT, PODS, Policy, Rules, milli, read

GOLDEN: Final = Path(__file__).parent / "golden"
PHASES: Final = (RUNNING, PENDING, FAILED)
SYNC_S: Final = 15


def scenarios() -> list[dict[str, Any]]:
    """As the controller played them."""
    with gzip.open(GOLDEN / "decisions.jsonl.gz", "rt", encoding="ascii") as lines:
        return [json.loads(line) for line in lines]


def pod(name: str, shown: list[int], now_s: float, scenario: dict[str, Any]) -> Pod:
    """A row of the golden file."""
    phase, deleting, ready, started_s, changed_s, cpu, cpu_age_s, memory, queue = shown
    samples = {
        "cpu": Sample(cpu, now_s - cpu_age_s, scenario["window_s"]),
        "memory": Sample(memory, now_s),
        "custom_queue_length": Sample(queue, now_s),
    }
    return Pod(
        name=name,
        samples={name: sample for name, sample in samples.items() if sample.milli >= 0},
        requests=scenario["requests"],
        phase=PHASES[phase],
        deleting=bool(deleting),
        ready=bool(ready),
        started_s=started_s,
        ready_changed_s=changed_s,
    )


@pytest.mark.parametrize("scenario", scenarios(), ids=lambda scenario: scenario["name"])
def test_each_decision_is_the_controllers(scenario: dict[str, Any]) -> None:
    autoscaler = Autoscaler(read(scenario["hpa"]))
    for at, step in enumerate(scenario["steps"]):
        now_s = float(at * SYNC_S)
        pods = [pod(f"pod-{place}", shown, now_s, scenario) for place, shown in enumerate(step["pods"])]
        assert autoscaler.sync(now_s, step["replicas"], pods) == step["wanted"], f"step {at}"


def test_the_controllers_decisions_go_up_and_down_and_stay_in_every_autoscaler() -> None:
    """Golden decisions that never change would prove nothing."""
    found: dict[str, set[int]] = {}
    for scenario in scenarios():
        for step in scenario["steps"]:
            moved = step["wanted"] - step["replicas"]
            found.setdefault(scenario["name"].partition("-")[0], set()).add((moved > 0) - (moved < 0))
    assert found == {name: {-1, 0, 1} for name in ("guide", "quick", "default", "least", "plain")}


def test_the_guides_autoscaler_is_read_as_it_stands() -> None:
    spec = read((GOLDEN / "hpas" / "guide.yaml").read_text(encoding="ascii"))
    assert (spec.target, spec.replicas_min, spec.replicas_max) == ("longwave-dispatch", 3, 20)
    assert [(metric.name, metric.percent, metric.average_milli) for metric in spec.metrics] == [
        ("cpu", 70, None),
        ("memory", 80, None),
        ("custom_queue_length", None, 10_000),
    ]
    assert spec.up == Rules(300, "Max", (Policy(PERCENT, 100, 15), Policy(PODS, 4, 15)))
    assert spec.down == Rules(300, "Max", (Policy(PERCENT, 10, 60),))


@pytest.mark.parametrize(
    ("quantity", "thousandths"),
    [("10", 10_000), (10, 10_000), ("500m", 500), ("0.5", 500), ("1Gi", 2**30 * 1000), ("1k", 10**6), ("1e3", 10**6),
     ("100u", 1), ("1.5Mi", 3 * 2**19 * 1000)],
)  # fmt: skip
def test_quantities(quantity: str | int, thousandths: int) -> None:
    assert milli(quantity) == thousandths


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("autoscaling/v2", "autoscaling/v1"), "autoscaling/v2 is read"),
        (("type: Pods\n      pods", "type: Object\n      pods"), "kind Object is not read"),
        (('averageValue: "10"', "value: 10"), "needs an averageValue"),
        (('averageValue: "10"', 'averageValue: "ten"'), "not a quantity"),
        (("      selectPolicy: Max", "      tolerance: 0.2"), "HPAConfigurableTolerance"),
        (("kind: HorizontalPodAutoscaler", "kind: Deployment"), "0 HorizontalPodAutoscalers"),
    ],
)
def test_what_is_not_understood_is_refused(change: tuple[str, str], says: str) -> None:
    text = (GOLDEN / "hpas" / "guide.yaml").read_text(encoding="ascii")
    assert change[0] in text
    with pytest.raises(ValueError, match=says):
        read(text.replace(*change))


def test_one_of_several_documents_is_found_by_its_name() -> None:
    text = (GOLDEN / "hpas" / "guide.yaml").read_text(encoding="ascii")
    both = f"{text}\n---\n{text.replace('longwave-dispatch', 'longwave-ingest')}"
    assert read(both, "longwave-ingest").target == "longwave-ingest"
    with pytest.raises(ValueError, match="2 HorizontalPodAutoscalers"):
        read(both)
