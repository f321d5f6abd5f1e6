"""Runs the engine through kills at random moments and prints what the checker found.

    python -m tests.corridor.crash_run --messages 28000 --kills 20 --seed 1 --texts FILE.jsonl.gz

Exit code 0: every promise held; 1: not. What the run leaves behind stays in `--folder`, for those who look for causes.
"""

import argparse
import asyncio
import gzip
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.corridor.crash_client import RECIPIENTS_MAX
from tests.corridor.crash_harness import Options, Summary, crash_run

MESSAGES_PER_RECIPIENT = 3
# Messages in one call: a run of 28,000 is handed in within a minute or two.
LARGE_RUN_MESSAGES = 2000
LARGE_BATCH = 50


def read_texts(path: Path) -> list[str]:
    """The `text` of each line of a JSONL file, gzipped or not."""
    open_file = gzip.open if path.suffix == ".gz" else open
    with open_file(path, "rt", encoding="utf-8") as file:
        return [json.loads(line)["text"] for line in file]


def options_for(messages: int, seed: int, texts: Sequence[str] = (), *, honours_keys: bool = False) -> Options:
    """What a run of this many messages is like."""
    return Options(
        seed=seed,
        messages=messages,
        honours_keys=honours_keys,
        texts=texts,
        batch=LARGE_BATCH if messages >= LARGE_RUN_MESSAGES else 10,
        recipients=max(1, min(RECIPIENTS_MAX, messages // MESSAGES_PER_RECIPIENT)),
        # A sixth of the messages is metered: all of them pass within half a minute or so.
        metered_per_s=max(20, messages // 200),
    )


async def run_with_kills(folder: Path, options: Options, kills: int) -> Summary:
    """Hand everything in, killing the engine at random moments spread over it; heal, wait, check."""
    async with crash_run(folder, options) as run:
        for kill in range(1, kills + 1):
            assert await run.start(), "the engine did not start"
            await run.kill_while_working(options.messages * kill // (kills + 1))
        return await run.finish()


def main() -> int:
    """Read the command line, run, print."""
    parser = argparse.ArgumentParser(prog="python -m tests.corridor.crash_run", description=__doc__.splitlines()[0])
    parser.add_argument("--messages", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--kills", type=int, default=6, help="how often kill -9 (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="what everything is drawn from (default: %(default)s)")
    parser.add_argument("--texts", type=Path, help="JSONL with `text`, gzipped or not (default: made-up texts)")
    parser.add_argument(
        "--honours-keys", action="store_true", help="the carrier keeps idempotency keys, the engine knows"
    )
    parser.add_argument("--folder", type=Path, help="keep the run's files here (default: a temporary folder)")
    given = parser.parse_args()
    folder = given.folder or Path(tempfile.mkdtemp(prefix="crash-run-"))
    folder.mkdir(parents=True, exist_ok=True)
    texts = read_texts(given.texts) if given.texts else []
    options = options_for(given.messages, given.seed, texts, honours_keys=given.honours_keys)
    summary = asyncio.run(run_with_kills(folder, options, given.kills))
    sys.stdout.write("\n".join([*summary.lines(), f"files: {folder}"]) + "\n")
    return 1 if summary.violations else 0


if __name__ == "__main__":
    sys.exit(main())
