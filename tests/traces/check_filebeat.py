"""Runs a real Filebeat with the example on lines that our logs write: `python -m tests.traces.check_filebeat FILEBEAT`.

The lines are as a container's runtime keeps them: with its own time in front, one of them cut in two, one that is no
JSON. It exits with 1 when a document is not what it is to be, or a misspelt example starts. Elasticsearch is not run:
the documents come out on standard output, so its template and policy are only read.
"""

import io
import json
import logging
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any, Final

import structlog

from server import logs

FOLDER: Final = Path("deploy/filebeat")
WAIT_S: Final = 30
# One that refuses its settings does not always end by itself; one that takes them has a document within two seconds.
REFUSED_S: Final = 5
MESSAGE: Final = "0am9afzbw0400"
NO_JSON: Final = "Fatal Python error: Aborted"
CAME: Final = "2026-11-28T04:00:00.500Z"
CUT_AT: Final = 50


def our_lines() -> list[str]:
    """Two lines as `serve` logs them."""
    stream = io.StringIO()
    logs.configure("info", stream)
    log = structlog.get_logger("longwave.record")
    log.error("message set aside", stage="record", message_id=MESSAGE, why="ValueError")
    try:
        int("x")
    except ValueError:
        log.exception("dispatch pass failed", stage="dispatch")
    logging.captureWarnings(capture=False)
    return stream.getvalue().splitlines()


def as_the_runtime_keeps(lines: list[str]) -> str:
    """In the form of containerd and CRI-O; the last of ours is cut in two."""
    whole = [f"{CAME} stderr F {line}" for line in lines[:-1]]
    cut = [f"{CAME} stderr P {lines[-1][:CUT_AT]}", f"{CAME} stderr F {lines[-1][CUT_AT:]}"]
    return "\n".join([*whole, *cut, f"{CAME} stderr F {NO_JSON}", ""])


def documents(
    filebeat: Path, example: str, kept: str, wanted: int, wait_s: float = WAIT_S
) -> tuple[list[dict[str, Any]], str]:
    """So many documents, or fewer when it ended or took too long; and what it said."""
    with tempfile.TemporaryDirectory() as made:
        home = Path(made)
        (home / "filebeat.yml").write_text(example, encoding="utf-8")
        (home / "longwave-ingest-0_production_longwave-0.log").write_text(kept, encoding="utf-8")
        changed = {
            "filebeat.inputs.0.paths.0": f"{home}/longwave-*.log",
            "setup.ilm.policy_file": str((FOLDER / "ilm-policy.json").resolve()),
            "output.elasticsearch.enabled": "false",
            "output.console.enabled": "true",
        }
        options = [part for name, value in changed.items() for part in ("-E", f"{name}={value}")]
        command = [str(filebeat), "--path.home", made, "--strict.perms=false", "-e", *options]
        place = {"NODE_NAME": "node", "ELASTICSEARCH_URL": "http://127.0.0.1:9200", "ELASTICSEARCH_API_KEY": "made:up"}
        with subprocess.Popen(
            [*command, "-c", str(home / "filebeat.yml")],
            stdout=subprocess.PIPE,
            stderr=(home / "said").open("wb"),
            env=os.environ | place,
            text=True,
        ) as running:
            assert running.stdout is not None
            late = threading.Timer(wait_s, running.kill)
            late.start()
            found = []
            for line in running.stdout:
                if line.startswith("{"):
                    found.append(json.loads(line))
                if len(found) == wanted:
                    break
            late.cancel()
            running.terminate()
        return found, (home / "said").read_text(encoding="utf-8", errors="replace")


def wrong(found: list[dict[str, Any]], lines: list[str]) -> list[str]:
    """What of the documents is not as it is to be."""
    problems = [] if len(found) == len(lines) + 1 else [f"{len(found)} documents of {len(lines) + 1} lines"]
    for document, line in zip(found, map(json.loads, lines), strict=False):
        shown = {
            "message": document.get("message"),
            "log.level": document.get("log", {}).get("level"),
            "log.logger": document.get("log", {}).get("logger"),
            "service.name": document.get("service", {}).get("name"),
            "event.dataset": document.get("event", {}).get("dataset"),
            "longwave": document.get("longwave"),
        }
        problems += [f"{name}: {value!r} of {line[name]!r}" for name, value in shown.items() if value != line[name]]
        if document["@timestamp"][:19] != line["@timestamp"][:19]:
            problems.append(f"@timestamp: {document['@timestamp']} of {line['@timestamp']}")
        if document.get("error", {}).get("stack_trace") != line.get("error.stack_trace"):
            problems.append("error.stack_trace differs")
    if found and found[-1].get("message") != NO_JSON:
        problems.append("the line that is no JSON did not come as it was")
    return problems


def main(arguments: list[str]) -> int:
    """Check; returns the exit code."""
    filebeat = Path(arguments[0]).resolve()
    example = (FOLDER / "filebeat.yml").read_text(encoding="utf-8")
    lines = our_lines()
    found, said = documents(filebeat, example, as_the_runtime_keeps(lines), len(lines) + 1)
    problems = wrong(found, lines)
    for right, misspelt in (("- ndjson:", "- jsonnd:"), ("type: filestream", "type: filestreams")):
        none, _ = documents(filebeat, example.replace(right, misspelt), as_the_runtime_keeps(lines), 1, REFUSED_S)
        problems += [f"it starts with {misspelt!r}"] if none else []
    for problem in problems:
        sys.stderr.write(f"{FOLDER}/filebeat.yml: {problem}\n")
    if problems and not found:
        sys.stderr.write(said[-2000:])
    return bool(problems)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
