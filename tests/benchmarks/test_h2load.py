"""What h2load prints is taken for a measurement only when every call was made and answered."""

from pathlib import Path

import pytest

from loadtest.benchmarks import accept_edges, accept_unary_native
from loadtest.benchmarks.children import BenchmarkError
from loadtest.benchmarks.figures import Sheet
from loadtest.benchmarks.plan import Plan

PRINTED = """
finished in {time}, 6410.26 req/s, 1.21MB/s
requests: {total} total, {total} started, {total} done, {succeeded} succeeded, {failed} failed, 0 errored, 0 timeout
"""


@pytest.mark.parametrize(("time", "seconds"), [("1.56s", 1.56), ("980.00ms", 0.98), ("750us", 0.00075)])
def test_the_time_is_read_in_its_unit(time: str, seconds: float) -> None:
    printed = PRINTED.format(time=time, total=10_000, succeeded=10_000, failed=0)
    assert accept_unary_native.seconds_of(printed, 10_000) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "printed",
    [
        PRINTED.format(time="1.56s", total=10_000, succeeded=9_999, failed=1),
        PRINTED.format(time="1.56s", total=9_999, succeeded=9_999, failed=0),
        "could not connect to host\n",
        "",
    ],
)
def test_a_load_that_was_not_whole_is_no_measurement(printed: str) -> None:
    with pytest.raises(BenchmarkError, match="did not make 10000 calls"):
        accept_unary_native.seconds_of(printed, 10_000)


def test_without_h2load_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    for measure in (accept_unary_native.measure, accept_edges.measure):
        with pytest.raises(BenchmarkError, match="apt-get install nghttp2-client"):
            measure(Plan(), tmp_path, Sheet())


def test_each_calls_time_is_read_from_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("1400000000000000\t200\t1500\n1400000000000001\t200\t20\n", encoding="ascii")
    assert accept_edges.latencies_s(log) == [0.0015, 0.00002]
    assert not log.exists()
