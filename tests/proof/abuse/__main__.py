"""`python -m tests.proof.abuse [--only NAME ...] [--seconds N] [--rounds N] [--together]`: every abuse, measured."""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.proof.abuse.abusers import ABUSES
from tests.proof.abuse.run import abused, shown


def measure(name: str, seconds: float, rounds: int, folder: Path, *, apart: bool) -> dict[str, Any]:
    """Quiet and abused windows by turns, on one engine."""
    quiet, loud, did = [], [], ""
    with abused(folder, apart=apart) as target:
        target.window(seconds)  # warm
        for _ in range(rounds):
            quiet.append(target.window(seconds))
            with target.abuser(name) as said:
                loud.append(target.window(seconds))
            did = said[0]
        quiet.append(target.window(seconds))
    p99_quiet_ms = statistics.median(window.p99_ms for window in quiet)
    p99_ms = statistics.median(window.p99_ms for window in loud)
    return {
        "abuse": name,
        "p99_quiet_ms": round(p99_quiet_ms, 2),
        "p99_ms": round(p99_ms, 2),
        "ratio": round(p99_ms / p99_quiet_ms, 2),
        "webhook_p99_quiet_ms": round(statistics.median(window.webhook_p99_ms for window in quiet), 2),
        "webhook_p99_ms": round(statistics.median(window.webhook_p99_ms for window in loud), 2),
        "failed": sum(window.failed + window.webhooks_failed for window in (*quiet, *loud)),
        "rss_before_mib": round(quiet[0].rss_mib, 1),
        "rss_most_mib": round(max(window.rss_mib for window in loud), 1),
        "rss_after_mib": round(quiet[-1].rss_mib, 1),
        "abuser_last": did,
        "quiet": [shown(window) for window in quiet],
        "loud": [shown(window) for window in loud],
    }


def main() -> int:
    """Print a line an abuse; write everything to the file."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.abuse", description=__doc__)
    parser.add_argument("--only", action="append", choices=sorted(ABUSES), help="this abuse (repeatable)")
    parser.add_argument("--seconds", type=float, default=8.0, help="of a window (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="abused windows of each (default: %(default)s)")
    parser.add_argument("--together", action="store_true", help="abusers share the engine's cores, at lowest priority")
    parser.add_argument("--file", type=Path, help="write the results here, as JSON")
    options = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory(prefix="abuse-") as folder:
        for name in options.only or ABUSES:
            row = measure(name, options.seconds, options.rounds, Path(folder), apart=not options.together)
            found.append(row)
            sys.stdout.write(
                "{abuse}: p99 {p99_quiet_ms} -> {p99_ms} ms ({ratio} x), webhooks {webhook_p99_quiet_ms} -> "
                "{webhook_p99_ms} ms, {failed} failed, {rss_before_mib} -> {rss_most_mib} -> {rss_after_mib} MiB; "
                "{abuser_last}\n".format(**row)
            )
            sys.stdout.flush()
            if options.file is not None:
                options.file.write_text(json.dumps(found, indent=1) + "\n", encoding="ascii")
    return 0


if __name__ == "__main__":
    sys.exit(main())
