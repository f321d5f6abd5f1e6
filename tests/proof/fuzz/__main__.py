"""`python -m tests.proof.fuzz --seconds N [--file FILE]`: the seam, damaged stores, the live ports.

The seam is guided where atheris is.
"""

import argparse
import asyncio
import itertools
import json
import logging
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import structlog

from tests.proof.abuse.run import abused
from tests.proof.fuzz.live import say, session, webhook_session
from tests.proof.fuzz.seam import TARGETS
from tests.proof.fuzz.store_damage import Finding, damaged

GUIDED: Final = re.compile(r"^(?:Done |#)(\d+)", re.MULTILINE)


def run_live(seconds: float, edge: str) -> dict[str, Any]:
    """Spoiled sessions against a live engine over one of its edges, then a good client."""
    settings = {"LONGWAVE_EDGE": edge}
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder, abused(Path(folder), settings) as target:
        ports = (int(target.engine.address.rpartition(":")[2]), target.webhook_port)

        async def sessions() -> int:
            until, first, number = time.monotonic() + seconds, time.time_ns(), 0
            while time.monotonic() < until:
                number += 1
                said = (session(first + number, target.engine.api_key), webhook_session(first + number))
                await asyncio.gather(*(say(port, data) for port, data in zip(ports, said, strict=True)))
            return number * 2

        pid = target.engine.pid
        count = asyncio.run(sessions())
        after = target.window(2)
        log = target.engine.store.with_name("engine.log").read_text(encoding="utf-8", errors="replace")
        findings = int(after.failed > 0 or pid != target.engine.pid) + log.count("Traceback")
        return {"target": f"live ports, edge {edge}", "runs": count, "findings": findings}


def run_damage(seconds: float) -> dict[str, Any]:
    """Damaged stores, started again."""
    # The log of each start would be all there is to read.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    until, first = time.monotonic() + seconds, time.time_ns()
    try:
        count, refused = asyncio.run(damaged(itertools.count(first), lambda: time.monotonic() > until))
    except Finding as finding:
        sys.stderr.write(f"{finding}\n")
        return {"target": "store damage", "runs": 0, "findings": 1}
    return {"target": "store damage", "runs": count, "refused": refused, "findings": 0}


def main() -> int:
    """Print a line a target; write all to the file."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60, help="of each target (default: %(default)s)")
    parser.add_argument("--file", type=Path, help="write the counts here, as JSON")
    options = parser.parse_args()
    rows = []
    for name in TARGETS:
        command = [sys.executable, "-m", "tests.proof.fuzz.one", name, str(options.seconds)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        counted = [int(runs) for runs in GUIDED.findall(done.stdout + done.stderr)]
        rows.append({"target": name, "runs": max(counted, default=0), "findings": int(done.returncode != 0),
                     "guided": "unguided" not in done.stdout})  # fmt: skip
        if done.returncode:
            sys.stderr.write(done.stdout[-2000:] + done.stderr[-4000:])
        sys.stdout.write(f"{rows[-1]}\n")
    rows.append(run_damage(options.seconds))
    sys.stdout.write(f"{rows[-1]}\n")
    for edge in ("grpcio", "native"):
        rows.append(run_live(options.seconds, edge))
        sys.stdout.write(f"{rows[-1]}\n")
    if options.file is not None:
        options.file.write_text(json.dumps(rows, indent=1) + "\n", encoding="ascii")
    return int(any(row["findings"] for row in rows))


if __name__ == "__main__":
    sys.exit(main())
