"""The Python that the core's segmenting is measured against is right, and measures the texts that the core measures."""

import time
from pathlib import Path

import pytest

from loadtest.benchmarks import plain_segmenting
from loadtest.benchmarks.figures import Sheet
from tests.cli.test_segment import text_of, vectors

EXAMPLE = Path(__file__).parents[2] / "rust_core" / "examples" / "text_speed.rs"


@pytest.mark.parametrize("case", vectors(), ids=lambda case: case["case"])
def test_it_counts_as_the_golden_vectors_say(case: dict[str, str]) -> None:
    found = plain_segmenting.count_parts(text_of(case["text"]))
    assert found == (case["encoding"], int(case["segments"]))


def test_the_texts_are_those_of_the_core() -> None:
    source = EXAMPLE.read_text(encoding="utf-8")
    for name, (text, parts) in plain_segmenting.TEXTS.items():
        assert f'"{name}"' in source
        assert plain_segmenting.count_parts(text)[1] == parts
    plain, _ = plain_segmenting.TEXTS["segment, 80 GSM-7"]
    assert f'"{plain}"' in source


def test_the_multiple_is_of_the_core_in_the_same_run(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter([0, 2_000_000] * len(plain_segmenting.TEXTS))
    monkeypatch.setattr(time, "perf_counter_ns", lambda: next(ticks))
    sheet = Sheet()
    plain_segmenting.compare(dict.fromkeys(plain_segmenting.TEXTS, 5.0), sheet)
    times = [figure for figure in sheet.figures() if figure.unit == "times"]
    assert [figure.median for figure in times] == [200.0] * len(plain_segmenting.TEXTS)
