"""The harness's arithmetic: percentiles, medians, rates, and what it reads from the kernel and from examples."""

import statistics
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtest.benchmarks import core_speed, machine, process_costs
from loadtest.benchmarks.children import BenchmarkError
from loadtest.benchmarks.figures import Sheet, per_second, percentile

SAMPLES = st.lists(st.floats(0, 1e6), min_size=1, max_size=200)


@pytest.mark.parametrize(
    ("percent", "expected"), [(0, 1), (1, 1), (50, 50), (50.1, 51), (99, 99), (99.1, 100), (100, 100)]
)
def test_a_percentile_is_the_sample_of_its_rank(percent: float, expected: float) -> None:
    assert percentile(list(range(100, 0, -1)), percent) == expected


@given(SAMPLES, st.floats(0, 100))
def test_a_percentile_is_a_sample_that_so_many_do_not_exceed(samples: list[float], percent: float) -> None:
    found = percentile(samples, percent)
    assert found in samples
    assert sum(sample <= found for sample in samples) >= len(samples) * percent / 100
    assert sum(sample < found for sample in samples) <= max(0, len(samples) * percent / 100)


@pytest.mark.parametrize(("samples", "percent"), [([], 50), ([1.0], -1), ([1.0], 100.5)])
def test_no_percentile_of_nothing_or_beyond_the_scale(samples: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        percentile(samples, percent)


@given(SAMPLES)
def test_a_figure_is_the_median_of_its_runs_with_their_spread(samples: list[float]) -> None:
    sheet = Sheet()
    for sample in samples:
        sheet.add("accepts", "messages/s", sample)
    (figure,) = sheet.figures()
    assert (figure.median, figure.lowest, figure.highest) == (statistics.median(samples), min(samples), max(samples))


def test_figures_keep_their_order_and_latencies_become_milliseconds() -> None:
    sheet = Sheet()
    sheet.add("first", "s", 1)
    sheet.add_latencies("call", [0.001, 0.002, 0.003], wanted_p99="≤ 50")
    sheet.add("first", "s", 3)
    shown = [(figure.name, figure.unit, figure.median, figure.wanted) for figure in sheet.figures()]
    assert shown == [("first", "s", 2, ""), ("call, p50", "ms", 2, ""), ("call, p99", "ms", 3, "≤ 50")]


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_no_sample(value: float) -> None:
    with pytest.raises(ValueError, match="not a measurement"):
        Sheet().add("accepts", "messages/s", value)


def test_one_name_has_one_unit() -> None:
    sheet = Sheet()
    sheet.add("wait", "ms", 1)
    with pytest.raises(ValueError, match="measured in ms, not in s"):
        sheet.add("wait", "s", 1)


def test_a_rate_needs_time() -> None:
    assert per_second(500, 0.25) == 2000
    with pytest.raises(ValueError, match="not a rate"):
        per_second(500, 0)


def test_processor_time_is_read_past_any_name_of_a_process() -> None:
    stat = "42 (a ) 7 (name) S 1 42 42 0 -1 4194560 100 0 0 0 250 50 7 7 20 0 3 0 100 0 0"
    assert process_costs.cpu_s_in(stat) == 300 / process_costs.TICKS_A_SECOND


def test_memory_is_read_as_the_kernel_shows_it() -> None:
    status = "Name:\tpython\nVmPeak:\t  999999 kB\nVmHWM:\t  204800 kB\nVmRSS:\t  102400 kB\nThreads:\t3\n"
    assert process_costs.memory_in(status) == process_costs.Memory(now_mib=100, peak_mib=200)


def test_the_file_system_is_that_of_the_nearest_mount(tmp_path: Path) -> None:
    inner = tmp_path.resolve() / "data"
    inner.mkdir()
    mounts = f"dev / ext4 rw 0 0\ntmpfs {inner} tmpfs rw 0 0\ndev {inner}base xfs rw 0 0\n"
    assert machine.file_system(inner / "stores", mounts) == "tmpfs"
    assert machine.file_system(tmp_path, mounts) == "ext4"


def test_the_processor_is_named_by_its_model() -> None:
    assert machine.processor("processor\t: 0\nmodel name\t: Made Up 7\n") == "Made Up 7"


def test_a_line_of_an_example_becomes_a_figure() -> None:
    sheet = Sheet()
    core_speed.take_line('{"figure":"admit","unit":"ns","median":812.5,"best":700.0}', sheet)
    (figure,) = sheet.figures()
    assert (figure.name, figure.unit, figure.samples) == ("core: admit", "ns", [812.5])


@pytest.mark.parametrize("line", ["admit: 812 ns", "[1]", '{"figure":"admit","unit":"ns"}', "7"])
def test_anything_else_of_an_example_is_refused(line: str) -> None:
    with pytest.raises(BenchmarkError, match="an example printed"):
        core_speed.take_line(line, Sheet())
