"""What is written: all files, nothing overwritten, the command to measure again, counts that make sense."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from loadtest.benchmarks import __main__ as program
from loadtest.benchmarks import machine, report
from loadtest.benchmarks.figures import Sheet
from loadtest.benchmarks.machine import Source
from loadtest.benchmarks.plan import Plan

AT = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


@pytest.fixture
def done() -> report.Report:
    sheet = Sheet()
    for rate in (12_000, 10_000, 11_000):
        sheet.add("batch accept", "messages/s", rate)
    sheet.add("of the raw insert", "ratio", 0.625, wanted="≥ 0.60")
    return report.Report(
        began=AT,
        ended=AT,
        command="python -m loadtest.benchmarks --runs 3",
        source=Source("c0ffee", dirty=True),
        hardware={"cores": 2, "processor": "Made Up 7"},
        versions={"python": "3.11.2"},
        plan={"runs": 3, "accept_messages": 50_000},
        methods={"accept-batches": "batches beside a raw insert"},
        load_before=[0.1, 0.2, 0.3],
        load_after=[1.5, 0.7, 0.4],
        figures=sheet.figures(),
    )


def test_the_text_says_what_was_measured_on_what_and_how(done: report.Report) -> None:
    text = report.as_text(done)
    assert "| batch accept | 11,000 | 10,000 to 12,000 | messages/s |  |" in text
    assert "| of the raw insert | 0.62 | 0.62 to 0.62 | ratio | ≥ 0.60 |" in text
    for told in ("c0ffee, with changes that are in no commit", "`python -m loadtest.benchmarks --runs 3`", "Made Up 7"):
        assert told in text
    assert "Load average before: 0.10 0.20 0.30; after: 1.50 0.70 0.40" in text
    assert "- accept-batches: batches beside a raw insert" in text


def test_all_files_are_written_and_none_is_overwritten(done: report.Report, tmp_path: Path) -> None:
    first, second = report.write(done, tmp_path, "2-core"), report.write(done, tmp_path, "2-core")
    assert (first.name, second.name) == ("2026-01-02-2-core", "2026-01-02-2-core-2")
    values = json.loads((first / "results.json").read_text("utf-8"))
    assert (values["commit"], values["dirty"]) == ("c0ffee", True)
    assert values["figures"][0]["samples"] == [12_000, 10_000, 11_000]
    assert values["figures"][0]["median"] == 11_000
    assert (first / "results.md").read_text("utf-8") == report.as_text(done)
    assert (first / "results.svg").read_text("utf-8").startswith("<svg ")


def test_the_machine_is_named_by_its_kind(done: report.Report) -> None:
    assert program.machine_name(done) == "2-core"


@pytest.mark.parametrize(("value", "text"), [(12_345.6, "12,346"), (56.78, "56.8"), (9.876, "9.88"), (0.5, "0.50")])
def test_numbers_have_the_digits_they_deserve(value: float, text: str) -> None:
    assert report.shown(value) == text


def test_the_command_measures_the_same_again() -> None:
    everything = [name for name in program.MEASUREMENTS if name not in program.BY_NAME_ALONE]
    assert program.command(Plan(), everything, quick=False) == "python -m loadtest.benchmarks --runs 3"
    narrowed = replace(Plan(), runs=5, restart_messages=1_000_000)
    again = program.command(narrowed, ["restart"], quick=False)
    assert again == "python -m loadtest.benchmarks --runs 5 --only restart --waiting 1000000"
    quick = [name for name in everything if name not in program.SLOW_OR_WANTING]
    assert program.command(Plan.quick(), quick, quick=True) == "python -m loadtest.benchmarks --quick --runs 1"


def test_counts_that_cannot_be_measured_are_named() -> None:
    assert Plan().problems() == []
    assert Plan.quick().problems() == []
    problems = replace(Plan(), runs=0, accept_messages=750).problems()
    assert [problem.partition(" ")[0] for problem in problems] == ["runs", "accept_messages"]


@pytest.mark.parametrize("arguments", [["--runs", "0"], ["--waiting", "0"]])
def test_such_counts_end_with_2_before_anything_starts(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert program.main([*arguments, "--folder", str(tmp_path / "scratch")]) == 2
    assert "at least 1" in capsys.readouterr().err
    assert not (tmp_path / "scratch").exists()


def test_a_core_that_is_not_built_for_release_is_refused(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(machine, "core_profile", lambda: "debug")
    assert program.main(["--quick", "--folder", str(tmp_path / "scratch")]) == 2
    assert "built for debug" in capsys.readouterr().err
    assert not (tmp_path / "scratch").exists()
