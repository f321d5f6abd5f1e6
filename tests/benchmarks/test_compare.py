"""What moved between two folders: told beyond the noise alone, and never when the noise is unknown."""

import json
from pathlib import Path

import pytest

from loadtest.benchmarks import compare
from loadtest.benchmarks.figures import Figure


def figure(*samples: float, name: str = "accept", unit: str = "messages/s") -> Figure:
    return Figure(name, unit, "", list(samples))


def written(folder: Path, *figures: Figure, commit: str = "c0ffee", dirty: bool = False, cores: int = 2) -> Path:
    folder.mkdir()
    values = {
        "commit": commit,
        "dirty": dirty,
        "hardware": {"cores": cores, "fsync_median_us": len(folder.name)},
        "versions": {"python": "3.11.2"},
        "plan": {"runs": 3},
        "methods": {"accept-batches": "batches"},
        "figures": [
            {"name": one.name, "unit": one.unit, "wanted": "", "samples": one.samples, "median": -1} for one in figures
        ],
    }
    (folder / "results.json").write_text(json.dumps(values), "utf-8")
    return folder


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [
        ((100, 102, 104), (110, 112, 114), compare.MOVED),
        ((110, 112, 114), (100, 102, 104), compare.MOVED),
        ((100, 102, 104), (103, 105, 107), compare.NOISE),  # they overlap
        ((100, 102, 104), (105, 105, 105), compare.NOISE),  # apart, but by less than the runs of one
        ((100, 100, 110), (105, 111, 111), compare.NOISE),  # medians further apart than a spread, but they overlap
        ((100, 150, 200), (202, 240, 260), compare.NOISE),  # a wide spread hides a wide move
        ((100, 100, 100), (100, 100, 100), compare.NOISE),
        ((100,), (200,), compare.UNKNOWN),
        ((100, 101, 102), (200,), compare.UNKNOWN),
    ],
)
def test_a_figure_moved_only_beyond_its_noise(
    before: tuple[float, ...], after: tuple[float, ...], verdict: str
) -> None:
    assert compare.verdict(figure(*before), figure(*after)) == verdict


def test_two_folders_are_told_with_what_moved_first(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    calm = figure(5, 6, 7, name="calm", unit="ms")
    before = written(tmp_path / "old", calm, figure(100, 102, 104), figure(1, 2, name="gone"))
    after = written(tmp_path / "new", calm, figure(201, 204, 206), figure(3, 3, name="added"), commit="decaf")
    assert compare.main([str(before), str(after)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "# old (c0ffee) → new (decaf)"
    assert told[2] == "- 1 of 2 figures moved beyond the noise of their runs."
    assert told[6] == "| accept | messages/s | 102.0 | 3.9 % | 204.0 | 2.5 % | 2.000 | moved |"
    assert told[7] == "| calm | ms | 6.00 | 33.3 % | 6.00 | 33.3 % | 1.000 | within the noise |"
    assert told[8] == "| gone | messages/s | 1.50 | 66.7 % |  |  |  | only in old |"
    assert told[9] == "| added | messages/s |  |  | 3.00 | 0.0 % |  | only in new |"


def test_what_else_differs_is_told(tmp_path: Path) -> None:
    before = compare.read(written(tmp_path / "old", dirty=True))
    after = compare.read(written(tmp_path / "anew", cores=8))
    assert compare.differences(before, after) == [
        "old was measured with changes that are in no commit.",
        "Not the same hardware: cores. What moved may be that.",
    ]


def test_a_figure_of_another_unit_is_another_figure(tmp_path: Path) -> None:
    before = compare.read(written(tmp_path / "old", figure(1, 2, unit="ms")))
    after = compare.read(written(tmp_path / "new", figure(1, 2, unit="s")))
    assert [row.verdict for row in compare.rows(before, after)] == ["only in old", "only in new"]


def test_a_folder_without_results_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good, empty = written(tmp_path / "good"), tmp_path / "empty"
    assert compare.main([str(good), str(empty)]) == 2
    empty.mkdir()
    (empty / "results.json").write_text('{"figures": []}')
    assert compare.main([str(empty), str(good)]) == 2
    assert "KeyError" in capsys.readouterr().err


def test_the_committed_results_can_be_compared(root: Path) -> None:
    results = root / "loadtest" / "results"
    before, after = compare.read(results / "2026-11-23-2-core"), compare.read(results / "2026-11-26-2-core-proof")
    assert {row.verdict for row in compare.rows(before, after)} >= {compare.MOVED}
