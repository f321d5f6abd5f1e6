"""`longwave demo` with the real simulated carrier and a stand-in for the engine: what it makes, shows, keeps and ends.

The whole of it, with the real engine, is the corridor's tests' and `make run`'s.
"""

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.ports import free_ports
from server.cli import demo
from tests.cli.conftest import Run, process_environment

EXAMPLES = Path(__file__).parents[2] / "examples" / "messages.jsonl"
PROGRAM = "tests.cli.fake_program"
# What `longwave demo` is, with the stand-in behind it.
SCRIPT = f"from server.cli import app, demo; demo.COMMAND = {PROGRAM!r}; app.app(prog_name='longwave')"


@pytest.fixture
def ports() -> list[str]:
    """Options with three ports that are free now."""
    names = ("--grpc-port", "--http-port", "--webhook-port")
    return [word for name, port in zip(names, free_ports(3), strict=True) for word in (name, str(port))]


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(demo, "COMMAND", PROGRAM)
    monkeypatch.setenv("PYTHONPATH", process_environment()["PYTHONPATH"])
    # Of another engine: the demo must not take it up.
    monkeypatch.setenv("LONGWAVE_STORE_URL", "sqlite:////elsewhere/other.db")
    before = signal.getsignal(signal.SIGTERM)
    yield
    assert signal.getsignal(signal.SIGTERM) is before


@pytest.mark.usefixtures("stand_in")
def test_it_sends_the_examples_and_ends_what_it_started(run: Run, ports: list[str]) -> None:
    ran = run("demo", "--once", *ports)
    assert ran.code == 0, ran.err
    assert "200 of 200 messages delivered" in ran.err
    assert re.search(r"delivered\s+200", ran.out)
    assert Path("var/ended").read_text(encoding="ascii") == "200\n"
    assert Path("var/longwave.db").exists()
    for name in ("demo.env", "admin.env", "carrier-api-key"):
        assert stat.S_IMODE(Path("var", name).stat().st_mode) == 0o600


@pytest.mark.usefixtures("stand_in")
def test_the_second_run_goes_on_with_the_first_ones_keys(run: Run, ports: list[str]) -> None:
    assert run("demo", "--once", *ports).code == 0
    files = {name: Path("var", name).read_bytes() for name in ("demo.env", "admin.env", "carrier-api-key")}
    again = run("demo", "--once", *ports)
    assert again.code == 0, again.err
    assert {name: Path("var", name).read_bytes() for name in files} == files


@pytest.mark.usefixtures("stand_in")
def test_half_of_a_folder_is_not_taken_for_a_whole_one(run: Run, ports: list[str]) -> None:
    assert run("demo", "--once", *ports).code == 0
    Path("var/longwave.db").unlink()
    # A new store: keys of the old one open nothing, so they are made anew.
    Path("var/demo.env").write_text("export LONGWAVE_API_KEY=lw_t_old\n", encoding="ascii")
    assert run("demo", "--once", *ports).code == 0
    assert "lw_t_old" not in Path("var/demo.env").read_text(encoding="ascii")


@pytest.mark.usefixtures("stand_in")
def test_it_says_when_the_examples_are_not_there(run: Run) -> None:
    ran = run("demo", "--messages", "nothing.jsonl")
    assert ran.code == 2
    assert "--messages FILE" in ran.err
    assert not Path("var").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stays_until_a_signal_and_ends_with_zero(tmp_path: Path, ports: list[str], number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SCRIPT, "demo", "--messages", os.fspath(EXAMPLES), *ports],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=process_environment(),
        text=True,
    ) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        shown = ""
        while "Ctrl-C ends both" not in shown:
            line = running.stdout.readline()
            assert line, running.stderr.read()
            shown += line
        assert "source var/demo.env" in shown
        running.send_signal(number)
        assert running.wait(timeout=60) == 0
        assert "stopped" in running.stderr.read()
    assert (tmp_path / "var" / "ended").read_text(encoding="ascii") == "200\n"
