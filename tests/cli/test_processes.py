"""Child processes: the simulated carrier behind our command, signals, ends, and the parts of the demo around them."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from longwave.client import Client
from server.cli import demo, demo_registry
from server.cli.failure import CliFailure
from server.cli.processes import child, first_line
from tests.cli.conftest import Run, command, process_environment, run_process
from tests.cli.fake_engine import API_KEY, FakeEngine

ENDLESS = [sys.executable, "-c", "import signal; print('ready', flush=True); signal.pause()"]
STUBBORN_SCRIPT = """
import signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("ready", flush=True)
while True:
    signal.pause()
"""
STUBBORN = [sys.executable, "-c", STUBBORN_SCRIPT]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_the_carrier_runs_behind_our_command_until_a_signal(tmp_path: Path, number: signal.Signals) -> None:
    with subprocess.Popen(
        command("simulate-carrier", "--port", "0", "--seed", "7"),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=tmp_path,
        env=process_environment(),
    ) as carrier:
        assert carrier.stdout is not None
        ready = json.loads(carrier.stdout.readline())
        with socket.create_connection(("127.0.0.1", ready["port"]), timeout=10):
            pass
        carrier.send_signal(number)
        assert carrier.wait(timeout=30) == 0


def test_the_carriers_options_are_its_own(tmp_path: Path) -> None:
    shown = run_process(["simulate-carrier", "--help"], cwd=tmp_path)
    assert b"--signing-key-file" in shown.stdout
    assert run_process(["simulate-carrier", "--no-such-option"], cwd=tmp_path).returncode == 2


def test_a_child_ends_with_the_block(tmp_path: Path) -> None:
    with child(ENDLESS, os.environ, tmp_path / "log", stop_s=10, piped=True) as process:
        assert first_line(process, 30, "it", tmp_path / "log") == b"ready"
    assert process.returncode == -signal.SIGTERM


def test_a_child_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    with child(STUBBORN, os.environ, tmp_path / "log", stop_s=0.1, piped=True) as process:
        assert first_line(process, 30, "it", tmp_path / "log") == b"ready"
    assert process.returncode == -signal.SIGKILL


def test_a_child_that_ends_early_says_why(tmp_path: Path) -> None:
    failing = [sys.executable, "-c", "import sys; sys.exit('no luck')"]
    log = tmp_path / "log"
    with (
        pytest.raises(CliFailure, match="ended before it was ready\nno luck"),
        child(failing, os.environ, log, stop_s=1, piped=True) as process,
    ):
        first_line(process, 30, "it", log)


def test_a_child_that_says_nothing_is_not_waited_for(tmp_path: Path) -> None:
    silent = [sys.executable, "-c", "import signal; signal.pause()"]
    with (
        pytest.raises(CliFailure, match=r"said nothing for 0\.2 s"),
        child(silent, os.environ, tmp_path / "log", stop_s=5, piped=True) as process,
    ):
        first_line(process, 0.2, "it", tmp_path / "log")


def test_the_demo_names_a_port_in_use_and_the_option(run: Run) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen(1)
        ran = run("demo", "--once", "--http-port", str(other.getsockname()[1]), "--grpc-port", "1")
        assert ran.code == 2
        assert "give --" in ran.err
        assert "Traceback" not in ran.err
    assert not Path("var").exists()


def test_the_demos_files_are_private_and_unversioned(tmp_path: Path) -> None:
    place = demo.Place(tmp_path / "state", 1, 2, 3)
    demo._make_folder(place)
    demo._write_environment(place, place.tenant_file, "lw_t_x")
    demo._write_environment(place, place.tenant_file, "lw_t_y")
    assert stat.S_IMODE(place.tenant_file.stat().st_mode) == 0o600
    assert demo._key_in(place.tenant_file) == "lw_t_y"
    assert "export LONGWAVE_GRPC_ADDRESS=127.0.0.1:1" in place.tenant_file.read_text(encoding="ascii")
    assert (place.folder / ".gitignore").read_text(encoding="ascii") == "*\n"


def test_the_demos_sample_has_every_kind_of_quota_and_lets_28000_through_in_minutes(engine: FakeEngine) -> None:
    with Client(engine.address, api_key=API_KEY) as client:
        demo_registry.make(client.registry)
        assert demo_registry.make_tenant_key(client.registry) == "lw_t_made"
    scopes = {request.quota.scope for name, request in engine.calls if name == "SetQuota"}
    assert scopes == {1, 2, 3, 4, 5, 6}
    for quota in demo_registry.quotas():
        if quota.window_ms:
            burst = max(10, quota.amount // 20)
            assert 28_000 / ((quota.amount - burst) / (quota.window_ms / 1000)) < 120
        else:
            assert quota.amount > 10 * 28_000


def test_the_version_and_the_help(run: Run) -> None:
    assert run("--version").out.startswith("longwave ")
    shown = run("--help").out
    for name in ("demo", "serve", "doctor", "send", "watch", "segment", "quota", "simulate-carrier"):
        assert name in shown
