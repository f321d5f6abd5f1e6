"""The torture run itself: a broken promise ends it with the seed and the command, and every round is counted."""

import json
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

import pytest

from tests.corridor.crash_checker import Violation
from tests.corridor.crash_harness import Summary
from tests.proof import torture
from tests.proof.torture_results import Round, Simulated, newest, read_rounds, read_simulations, summary_of, write


def test_a_round_that_raises_is_a_broken_promise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(_folder: Path, _seed: int, found: Round) -> None:
        found.kills = 3
        raise AssertionError("made up")

    monkeypatch.setitem(torture.KINDS, "engine-kills", fails)
    torture.run_here("engine-kills", 7, tmp_path)
    found = Round(**json.loads(capsys.readouterr().out.splitlines()[-1]))
    assert (found.kills, found.violations) == (3, ["not finished: AssertionError: made up"])


def test_a_broken_promise_ends_the_run_with_the_command_that_repeats_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(kind: str, seed: int, commit: str, _scratch: Path) -> Round:
        found = Round(kind=kind, seed=seed, commit=commit, at="now", seconds=1.0)
        lost = Violation("I1", "0123456789abc", "acknowledged, and gone")
        found.count(Summary(5, 0, 5, 2, 1, 1, 1, {"UNRESOLVED": 2}, (lost,) if seed == 3 else ()))
        return found

    monkeypatch.setattr(torture, "run_round", broken)
    monkeypatch.setattr(
        sys, "argv", ["torture", "--only", "engine-kills", "--seed", "2", "--results", str(tmp_path), "--commit", "abc"]
    )
    assert torture.main() == torture.EXIT_BROKEN
    out = capsys.readouterr().out
    assert "BROKEN in engine-kills, seed 3" in out
    assert "again: python -m tests.proof.torture --only engine-kills --seed 3 --rounds 1" in out
    rounds = read_rounds(tmp_path)
    assert [(one.seed, one.kills, one.lost, one.unresolved) for one in rounds] == [(2, 1, 0, 2), (3, 1, 1, 2)]
    assert "1 acknowledged messages lost in 2 kills and power cuts" in (tmp_path / "README.md").read_text()


def test_a_round_that_the_rig_did_not_finish_is_told_apart_from_a_broken_promise() -> None:
    rounds = [
        Round(
            kind="append-kills", seed=5, at="2026-11-24T10:00", kills=7, commit="a", violations=["not finished: gone"]
        ),
        Round(kind="append-kills", seed=6, at="2026-11-25T10:00", kills=2, commit="b", violations=["I1 m: is gone"]),
    ]
    text = summary_of(rounds, [])
    assert "- rounds: 2026-11-24: 1, 2026-11-25: 1" in text
    assert "| append-kills | 2 | 9 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 1 | 1 | 0.00 |" in text
    found, _, not_finished = text.partition("did not finish")
    assert "--seed 6 --rounds 1` (b): I1 m: is gone" in found
    assert "--seed 5 --rounds 1` (a): not finished: gone" in not_finished
    assert "--seed 5" not in found


def test_a_round_that_is_not_finished_ends_the_run_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unfinished(kind: str, seed: int, commit: str, _scratch: Path) -> Round:
        return Round(kind=kind, seed=seed, at="now", commit=commit, violations=["not finished: OSError: made up"])

    monkeypatch.setattr(torture, "run_round", unfinished)
    monkeypatch.setattr(sys, "argv", ["torture", "--only", "simulation", "--results", str(tmp_path), "--commit", "abc"])
    assert torture.main() == torture.EXIT_BROKEN
    out = capsys.readouterr().out
    assert "NOT FINISHED in simulation, seed 1" in out
    assert "BROKEN" not in out


def test_the_simulation_s_own_counts_are_summed_up_once_for_each_seed(tmp_path: Path) -> None:
    folder = tmp_path / "2026-01-02-simulation"
    folder.mkdir()
    counts = {"seeds": 300, "lives": 4, "messages": 5000, "virtual_s": 7200.0, "failed": [17]}
    for number, first in enumerate((1, 201)):
        command = {"command": f"python -m tests.proof.simulation --seeds {first}-9999"}
        (folder / f"counts-{number}.json").write_text(json.dumps(counts | command))
    assert read_simulations(tmp_path)[1] == Simulated(
        folder.name, "counts-1.json", range(201, 501), 300, 4, 5000, 7200.0, (17,)
    )
    write(tmp_path / "2026-01-03-torture", Round(kind="simulation", seed=2, at="now", seeds=200, commit="a"))
    text = (tmp_path / "2026-01-03-torture" / "README.md").read_text()
    # 1 to 500, and 400 to 599 of the round.
    assert "- 800 simulated runs of 599 different seeds" in text
    assert (
        "| [2026-01-02-simulation](../2026-01-02-simulation/README.md) `counts-0.json` | 300 | 4 | 5,000 | 2 | 17 |"
        in text
    )


def test_rounds_of_a_later_day_are_added_to_the_same_total(tmp_path: Path) -> None:
    assert newest(tmp_path).name == f"{datetime.now(UTC):%Y-%m-%d}-torture"
    write(tmp_path / "2026-01-03-torture", Round(kind="engine-kills", seed=1, at="2026-01-03T23:59"))
    write(newest(tmp_path), Round(kind="engine-kills", seed=2, at="2026-01-04T00:01"))
    assert [one.name for one in tmp_path.iterdir()] == ["2026-01-03-torture"]
    assert "- rounds: 2026-01-03: 1, 2026-01-04: 1" in (tmp_path / "2026-01-03-torture" / "README.md").read_text()


@pytest.mark.parametrize(("messages", "seeds", "finished"), [(0, 0, False), (7, 200, True)])
def test_a_simulation_without_a_message_counts_for_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, messages: int, seeds: int, *, finished: bool
) -> None:
    def simulated(command: list[str], *, stdout: IO[bytes], **_: object) -> subprocess.CompletedProcess[bytes]:
        stdout.write(json.dumps({"messages": messages}).encode())
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", simulated)
    found = Round(kind="simulation", seed=9)
    torture.KINDS["simulation"](tmp_path, 9, found)
    assert (found.seeds, found.finished, found.broken) == (seeds, finished, [])


@pytest.mark.timeout(600)
def test_an_interrupt_leaves_nothing_behind(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.proof.torture", "--only", "engine-kills", "--rounds", "1", "--seed", "1"]
    command += ["--commit", "abc", "--folder", str(tmp_path), "--results", str(tmp_path / "results")]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    try:
        while not list(tmp_path.glob("torture-*/engine.log")):
            assert process.poll() is None
        process.terminate()
        assert process.wait(60) == torture.EXIT_INTERRUPTED
    finally:
        process.kill()
        process.wait()
    assert list(tmp_path.iterdir()) == []
    for one in Path("/proc").glob("[0-9]*/environ"):
        try:
            environment = one.read_bytes()
        except OSError:
            continue
        assert str(tmp_path).encode() not in environment, "a process of the round runs on"
