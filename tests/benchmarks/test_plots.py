"""The drawings: every figure at its place, on an axis that fits, whatever its name holds."""

import xml.etree.ElementTree as ET

import pytest

from loadtest import svg
from loadtest.benchmarks import plots
from loadtest.benchmarks.figures import Figure

SVG = "{http://www.w3.org/2000/svg}"


def test_every_figure_has_a_point_at_its_median_within_its_runs() -> None:
    figures = [Figure("a <b> & c", "messages/s", "", [10.0, 30.0, 20.0]), Figure("d", "ms", "", [1.0])]
    root = ET.fromstring(plots.drawn(figures, "made up"))  # noqa: S314 - our own
    points = [float(circle.get("cx", "")) for circle in root.iter(f"{SVG}circle")]
    # 0 to 50 messages a second lie between the labels and the numbers; 0 to 1 ms, too.
    width = plots.WIDTH - plots.RIGHT - plots.LABELS
    assert points == [pytest.approx(plots.LABELS + width * 0.4, abs=0.1), pytest.approx(plots.LABELS + width, abs=0.1)]
    lines = [line.get("d") for line in root.iter(f"{SVG}path") if line.get("fill") == "none"]
    assert lines[0] == f"M{plots.LABELS + width * 0.2:.1f} 66.0L{plots.LABELS + width * 0.6:.1f} 66.0"
    assert "a <b> & c" in [words.text for words in root.iter(f"{SVG}text")]


def test_figures_that_lie_far_apart_are_drawn_in_powers_of_ten() -> None:
    figures = [Figure("fast", "ms", "", [0.5]), Figure("slow", "ms", "", [500.0])]
    words = [text.text for text in ET.fromstring(plots.drawn(figures, "")).iter(f"{SVG}text")]  # noqa: S314
    assert [word for word in words if word in {"0.1", "1", "10", "100", "1,000"}] == ["0.1", "1", "10", "100", "1,000"]


@pytest.mark.parametrize("samples", [[0.0], [-3.0, 4.0], [7.0, 7.0]])
def test_no_figure_is_too_odd_to_draw(samples: list[float]) -> None:
    root = ET.fromstring(plots.drawn([Figure("odd", "MiB", "", samples)], ""))  # noqa: S314
    [point] = root.iter(f"{SVG}circle")
    assert plots.LABELS <= float(point.get("cx", "")) <= plots.WIDTH - plots.RIGHT


def test_axes() -> None:
    even = svg.from_zero([3, 17], 100, 200)
    assert (even.highest, even.at(10), even.at(40)) == (20, 150, 200)
    powers = svg.by_powers([0.5, 40], 0, 300)
    assert powers.ticks() == [0.1, 1, 10, 100]
    assert powers.at(1) == pytest.approx(100)
