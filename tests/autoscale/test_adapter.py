"""What autoscalers read through prometheus-adapter and KEDA: the queries as their own code makes them, on real series.

`golden/adapter.sh` writes what prometheus-adapter makes of deploy/prometheus/adapter.yaml; promtool runs it.
"""

import json
import re
import subprocess
from pathlib import Path
from typing import Any, Final

import promql_parser
import pytest
import yaml

from loadtest.autoscale import record

ROOT: Final = Path(__file__).parents[2]
FOLDER: Final = ROOT / "deploy" / "prometheus"
GOLDEN: Final = Path(__file__).parent / "golden"
RESULTS: Final = ROOT / "loadtest" / "results" / "2026-11-28-autoscale"
KEDA: Final = re.compile(r"```promql\n(.*?)\n```", re.DOTALL)


def made() -> dict[str, Any]:
    """What prometheus-adapter asks Prometheus for."""
    [rule] = json.loads((GOLDEN / "adapter.json").read_text(encoding="ascii"))
    found: dict[str, Any] = rule
    return found


def keda_query() -> str:
    """The trigger's, out of the page that gives it."""
    [query] = KEDA.findall((FOLDER / "README.md").read_text(encoding="ascii"))
    return str(query)


def promtool(tmp_path: Path, query: str, series: list[dict[str, str]], samples: list[dict[str, Any]]) -> None:
    """Fail unless a query gives these samples 5 minutes into these series."""
    test = {
        "evaluation_interval": "15s",
        "tests": [
            {
                "interval": "15s",
                "input_series": series,
                "promql_expr_test": [{"expr": query, "eval_time": "5m", "exp_samples": samples}],
            }
        ],
    }
    file = tmp_path / "test.yaml"
    file.write_text(yaml.safe_dump(test), encoding="ascii")
    done = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def recorded() -> list[int]:
    """The queue of the recorded spike."""
    return [int(row.queue_length) for row in record.read(RESULTS / "spike.csv")]


def series(pod: str, values: list[int], namespace: str = "production", job: str = "longwave") -> dict[str, str]:
    """Input series of promtool."""
    labels = f'namespace="{namespace}",pod="{pod}",job="{job}"'
    return {"series": f"custom_queue_length{{{labels}}}", "values": " ".join(map(str, values))}


def test_the_committed_queries_are_those_of_the_file_as_it_is() -> None:
    """Without Go: what was rendered follows from the template that stands in the file now."""
    values = yaml.safe_load((FOLDER / "adapter.yaml").read_text(encoding="ascii"))
    [rule] = values["rules"]["custom"]
    found = made()
    assert (found["series"], found["metric"]) == (rule["seriesQuery"], "custom_queue_length")
    for asked, matcher in (
        ("one_pod", '="longwave-dispatch-1"'),
        ("several_pods", '=~"longwave-dispatch-1|longwave-dispatch-2"'),
    ):
        query = rule["metricsQuery"].replace("<<.Series>>", "custom_queue_length").replace("<<.GroupBy>>", "pod")
        assert found[asked] == query.replace("<<.LabelMatchers>>", f'namespace="production",pod{matcher}')


@pytest.mark.parametrize("query", ["series", "one_pod", "several_pods"])
def test_each_query_of_the_adapter_is_promql(query: str) -> None:
    promql_parser.parse(made()[query])


def test_the_adapter_serves_each_pods_own_queue_once(tmp_path: Path) -> None:
    values = recorded()[:21]
    assert values[20] > 0
    promtool(
        tmp_path,
        made()["several_pods"],
        [
            series("longwave-dispatch-1", values),
            series("longwave-dispatch-1", values, job="scraped-twice"),
            series("longwave-dispatch-2", [0] * 21),
            series("longwave-dispatch-2", [7] * 21, namespace="staging"),
        ],
        [
            {"labels": '{pod="longwave-dispatch-1"}', "value": values[20]},
            {"labels": '{pod="longwave-dispatch-2"}', "value": 0},
        ],
    )


def test_kedas_query_is_the_sum_over_the_deployments_pods(tmp_path: Path) -> None:
    promql_parser.parse(keda_query())
    values = recorded()[:21]
    promtool(
        tmp_path,
        keda_query(),
        [
            series("longwave-dispatch-1", values),
            series("longwave-dispatch-1", values, job="scraped-twice"),
            series("longwave-dispatch-2", [5] * 21),
            series("longwave-ingest-1", [1000] * 21),
            series("longwave-dispatch-1", [1000] * 21, namespace="staging"),
        ],
        [{"labels": "{}", "value": values[20] + 5}],
    )
