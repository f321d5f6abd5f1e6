"""Load on one machine: `python -m loadtest.locust [--shape day …]`, from a checkout's root.

Starts an engine over a store of its own, the simulated carrier and Locust, and ends them; with `--world FILE` only
Locust, against the engine that the file names. With `--ceiling` Locust calls a server that only echoes: what it reaches
there is Locust's own limit on this machine, not an engine's. Further options go to Locust (`locust --help`).
"""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from loadtest.benchmarks import machine
from loadtest.benchmarks.carrier_process import carrier
from loadtest.benchmarks.children import BenchmarkError, child, clean_environment, module_command
from loadtest.benchmarks.engine_process import EDGES, engine, pin
from loadtest.locust import world

SCRATCH: Final = Path("var")
FILE: Final = "loadtest/locust/locustfile.py"
CEILING_FILE: Final = "loadtest/locust/ceiling.py"
CEILING_S: Final = 15.0
CEILING_USERS: Final = 64
DELIVERED_S: Final = 300.0
WEB_UI: Final = "--web"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; the exit code is Locust's, or 1 when the carrier misses a message."""
    parser = argparse.ArgumentParser(prog="python -m loadtest.locust", description=__doc__)
    parser.add_argument("--world", type=Path, help="file of an engine that runs already, and of who sends to it")
    parser.add_argument("--ceiling", action="store_true", help="measure Locust alone")
    parser.add_argument("--results", type=Path, help="folder for CSV, HTML and README.md")
    parser.add_argument("--edge", choices=EDGES, default=EDGES[0], help="gRPC edge of the engine that it starts")
    parser.add_argument(
        "--apart", action="store_true", help="the engine on half of the processors, carrier and Locust on the others"
    )
    parser.add_argument(WEB_UI, action="store_true", help="with Locust's web interface, on http://127.0.0.1:8089")
    options, more = parser.parse_known_args(arguments)
    SCRATCH.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="load-", dir=SCRATCH) as folder:
        try:
            if options.ceiling:
                return _ceiling(Path(folder), options.results, more)
            return _run(Path(folder), options, more)
        except (BenchmarkError, ValueError) as error:
            sys.stderr.write(f"load: {error}\n")
            return 2


def _run(folder: Path, options: argparse.Namespace, more: Sequence[str]) -> int:
    results = options.results or folder
    results.mkdir(parents=True, exist_ok=True)
    summary = results / "summary.json"
    summary.unlink(missing_ok=True)
    with ExitStack() as stack:
        sink = None
        file = options.world
        if file is None:
            file = folder / "world.json"
            cores = sorted(os.sched_getaffinity(0))
            half = len(cores) // 2 if options.apart else 0
            if half:
                # What this process starts from now on runs there, too.
                os.sched_setaffinity(0, cores[half:])
            sink = stack.enter_context(carrier(folder))
            running = stack.enter_context(engine(folder, sink.settings() | {"LONGWAVE_EDGE": options.edge}))
            if half:
                pin(running, cores[:half])
            world.write(world.make(running.address, running.admin_key), file)
        reports = ["--csv", str(results / "locust"), "--csv-full-history", "--html", str(results / "report.html")]
        shown = ["--web-host", "127.0.0.1"] if options.web else ["--headless", "--only-summary"]
        asked = [*shown, *reports, "--world", str(file), "--summary", str(summary), *more]
        code = _locust(FILE, asked)
        if summary.exists():
            own = ["--edge", options.edge, *(["--apart"] if options.apart else [])] if options.world is None else []
            _note(summary, results, [*own, *more])
            if sink is not None:
                code = max(code, _all_delivered(sink, summary))
    return code


def _locust(file: str, arguments: Sequence[str]) -> int:
    command = [sys.executable, "-m", "locust", "--locustfile", file, "--skip-log-setup", *arguments]
    path = os.pathsep.join(filter(None, (".", "proto", os.environ.get("PYTHONPATH", ""))))
    environment = clean_environment({"PYTHONPATH": path, "GRPC_VERBOSITY": "NONE"})
    # An interrupt is Locust's to answer: it ends the run and says how it went.
    before = signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return subprocess.run(command, env=environment, check=False, stdin=subprocess.DEVNULL).returncode  # noqa: S603
    finally:
        signal.signal(signal.SIGINT, before)


def _all_delivered(sink: Any, summary: Path) -> int:
    """Whether the carrier took every message that was accepted, and had all its receipts acknowledged."""
    accepted = json.loads(summary.read_text(encoding="utf-8"))["measured"]["accepted"]
    try:
        sink.wait_delivered(accepted, time.monotonic() + DELIVERED_S)
    except BenchmarkError as error:
        sys.stdout.write(f"NO   nothing lost on the way to the carrier: {error}\n")
        return 1
    sys.stdout.write(f"yes  the carrier took all {accepted:,} messages, and its receipts are acknowledged\n")
    return 0


def _note(summary: Path, results: Path, more: Sequence[str]) -> None:
    """The verdict for people, beside Locust's own reports."""
    found = json.loads(summary.read_text(encoding="utf-8"))
    rows = [
        f"| {'yes' if one['kept'] else '**no**'} | {one['promise']} | {one['measured']} |" for one in found["promises"]
    ]
    here = machine.hardware(results)
    about = f"{datetime.now(UTC):%Y-%m-%d}, {here['processor']}, {here['cores']} cores, {here['memory_mib']} MiB"
    lines = [
        "# Load by Locust", "", f"`python -m loadtest.locust {' '.join(more)}`, {about}.", "",
        "Engine over its embedded store, simulated carrier and Locust share the machine.", "",
        "| kept | promise | measured |", "| --- | --- | --- |", *rows, "",
    ]  # fmt: skip
    if found["knee"] is not None:
        lines += [f"Knee: {found['knee']:,.0f} messages/s.", ""]
    (results / "README.md").write_text("\n".join(lines), encoding="utf-8")


def _ceiling(folder: Path, results: Path | None, more: Sequence[str]) -> int:
    """What Locust reaches against a server that does nothing."""
    command = module_command("loadtest.benchmarks.echo_server")
    with child(command, clean_environment({}), folder / "echo.log") as (_, line):
        asked = [
            "--headless", "--only-summary", "--users", str(CEILING_USERS), "--spawn-rate", str(CEILING_USERS),
            "--run-time", f"{CEILING_S:g}s", "--host", f"127.0.0.1:{int(line)}",
            "--csv", str((results or folder) / "ceiling"), *more,
        ]  # fmt: skip
        if results is not None:
            results.mkdir(parents=True, exist_ok=True)
        return _locust(CEILING_FILE, asked)


if __name__ == "__main__":
    sys.exit(main())
