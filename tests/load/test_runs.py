"""Short runs of every shape against a real engine and carrier, as `make load` makes long ones."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Final

import pytest

from loadtest.benchmarks.children import clean_environment

ROOT = Path(__file__).parents[2]
# A machine that is busy with other tests answers late: what these runs bound is that all is answered and nothing lost.
EASY = ("--p95-ms", "20000", "--settle-seconds", "120")

pytestmark = [pytest.mark.timeout(300)]


def load(*arguments: str) -> tuple[int, str]:
    """Exit code and output of a run."""
    done = subprocess.run(
        [sys.executable, "-m", "loadtest.locust", *arguments],
        cwd=ROOT,
        env=clean_environment({}),
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    "shape",
    [
        ("--shape", "steady", "--rate", "40", "--seconds", "6"),
        ("--shape", "spike", "--rate", "4", "--seconds", "9", "--processes", "2"),
        ("--shape", "day", "--factor", "720", "--first-hour", "0", "--hours", "1"),
        ("--shape", "ramp", "--rate", "20", "--seconds", "9", "--step-seconds", "3", "--edge", "native", "--apart"),
    ],
    ids=lambda shape: shape[1],
)
def test_a_shape_hands_in_what_it_says_and_nothing_is_lost(tmp_path: Path, shape: tuple[str, ...]) -> None:
    code, said = load("--results", str(tmp_path), *shape, *EASY)
    measured = json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))["measured"]
    promises = {
        line["promise"]: line["kept"] for line in json.loads((tmp_path / "summary.json").read_text())["promises"]
    }
    assert promises["nothing lost"], said
    assert promises.get("no error", True), said
    assert measured["accepted"] == measured["handed_in"] - measured["refused_rightly"] > 0
    assert sum(measured["found"].values()) == measured["sampled"] > 0
    assert "the carrier took all" in said
    assert code == (0 if all(promises.values()) else 1)
    assert {"locust_stats.csv", "locust_stats_history.csv", "report.html", "README.md"} <= {
        file.name for file in tmp_path.iterdir()
    }
    assert "lw_t_" not in said + (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_bound_that_is_not_kept_is_the_exit_code() -> None:
    code, said = load("--rate", "20", "--seconds", "4", "--p95-ms", "0.001", "--settle-seconds", "120")
    assert code == 1, said
    assert "NO   p95 of all calls < 0.001 ms" in said
    assert "FAILED" in said


def test_an_interrupt_ends_the_run_with_its_verdict(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "loadtest.locust", "--rate", "20", "--seconds", "600", "--results", str(tmp_path)]
    with subprocess.Popen(
        [*command, *EASY], cwd=ROOT, env=clean_environment({}), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    ) as run:  # fmt: skip
        history = tmp_path / "locust_stats_history.csv"
        until_s = time.monotonic() + 120
        while not (history.exists() and history.read_text(encoding="utf-8").count("Aggregated") > 3):
            assert run.poll() is None
            assert time.monotonic() < until_s
            time.sleep(0.1)
        os.killpg(run.pid, signal.SIGINT)
        said, _ = run.communicate(timeout=200)
    assert "nothing lost" in said
    assert "the carrier took all" in said
    assert "Traceback" not in said


INTERRUPTED: Final = """
import os, signal
import gevent
from loadtest.locust import interrupt

def user():
    os.kill(os.getpid(), signal.SIGINT)
    print("the user went on", sum(range(1000)))

interrupt.reaches_main()
gevent.spawn(user)
try:
    gevent.sleep(60)
except KeyboardInterrupt:
    print("the run ends")
"""


def test_an_interrupt_reaches_the_run_and_not_the_user_at_work() -> None:
    run = subprocess.run(
        [sys.executable, "-c", INTERRUPTED], cwd=ROOT, env=clean_environment({}), capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert (run.stdout, run.stderr) == ("the user went on 499500\nthe run ends\n", "")


def test_a_world_that_is_none_is_said(tmp_path: Path) -> None:
    (tmp_path / "world.json").write_text("{}", encoding="utf-8")
    code, said = load("--world", str(tmp_path / "world.json"))
    assert code != 0
    assert "senders" in said
    assert "Traceback" not in said
