"""The torture run itself: a broken promise ends it with the seed and the command, and every round is counted."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.corridor.crash_checker import Violation
from tests.corridor.crash_harness import Summary
from tests.proof import torture
from tests.proof.torture import Round


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
    rounds = torture.read_rounds(tmp_path)
    assert [(one.seed, one.kills, one.lost, one.unresolved) for one in rounds] == [(2, 1, 0, 2), (3, 1, 1, 2)]
    assert "1 acknowledged messages lost in 2 kills and power cuts" in (tmp_path / "README.md").read_text()


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
