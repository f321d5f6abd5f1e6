"""`python -m tests.proof.fuzz.one TARGET SECONDS`: one target of the seam, guided by atheris where it is there.

A process of its own: atheris instruments what is imported after it, and ends the process that found something.
"""

import itertools
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any, Final

# The core is native and not seen by atheris; these readers are Python.
INSTRUMENTED: Final = ["engine.config", "engine.registry.keys", "engine.registry.pages",
                       "server.watch", "server.webhook_connection", "server.webhooks",
                       "tests.proof.fuzz.seam"]  # fmt: skip
INPUT_BYTES_MAX: Final = 4096


def unguided(name: str, seconds: float) -> int:
    """Spoiled examples until the time is up; how many."""
    targets: dict[str, Any] = import_module("tests.proof.fuzz.seam").TARGETS
    inputs = import_module("tests.proof.fuzz.inputs").inputs
    until, count = time.monotonic() + seconds, 0
    for seed in itertools.count():
        for data in inputs(name, seed, 1000):
            targets[name](data)
            count += 1
        if time.monotonic() > until:
            break
    return count


def guided(atheris: Any, name: str, seconds: float) -> None:
    """Let libFuzzer choose; it prints its own count and ends the process."""
    with atheris.instrument_imports(include=INSTRUMENTED):
        targets = import_module("tests.proof.fuzz.seam").TARGETS
    examples = import_module("tests.proof.fuzz.inputs").EXAMPLES[name]
    folder = tempfile.mkdtemp(prefix="fuzz-")
    for number, data in enumerate(examples):
        (Path(folder) / f"example-{number}").write_bytes(data)
    options = [f"-max_total_time={int(seconds)}", f"-max_len={INPUT_BYTES_MAX}", f"-artifact_prefix={folder}/"]
    atheris.Setup([name, *options, folder], targets[name])
    atheris.Fuzz()


def main() -> None:
    """As the arguments say."""
    name, seconds = sys.argv[1], float(sys.argv[2])
    try:
        atheris = import_module("atheris")
    except ImportError:
        sys.stdout.write(f"Done {unguided(name, seconds)} runs, unguided\n")
        return
    guided(atheris, name, seconds)


if __name__ == "__main__":
    main()
