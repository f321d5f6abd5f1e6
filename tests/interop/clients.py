"""The clients as processes: what they are told, and what they say, in a form in which two servers can be compared.

`make interop` builds them into .tools; how is in the Makefile.
"""

import base64
import json
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import grpc
from google.rpc import error_details_pb2, status_pb2

from tests.interop.script import Call
from tests.interop.serving import Served, descriptors

TOOLS: Final = Path(__file__).resolve().parents[2] / ".tools"
CLIENTS: Final = {
    "go": [f"{TOOLS}/interop/go/client"],
    "java": ["java", "-XX:+UseSerialGC", "-cp", f"{TOOLS}/interop/java/classes:{TOOLS}/interop/java/lib/*", "Client"],
    "node": ["node", f"{TOOLS}/interop/node/client.mjs"],
}
WAIT_S: Final = 100
CODES: Final = {code.value[0]: code for code in grpc.StatusCode}
# What is another one with each message, call or server.
VARYING: Final = frozenset({"message", "name", "cursor", "request_id", "next_page_token", "expire_time", "accept_time",
                            "update_time", "event_time", "next_attempt_time"})  # fmt: skip
DETAILS: Final = (error_details_pb2.ErrorInfo, error_details_pb2.BadRequest, error_details_pb2.RetryInfo,
                  error_details_pb2.QuotaFailure)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """What came of a call."""

    code: grpc.StatusCode
    details: str
    rich: tuple[str, ...]
    """The status' details as text."""
    trailers: Mapping[str, Sequence[str]]
    answers: Sequence[Any]


def plan(folder: Path, server: Served, **more: Any) -> Path:
    """Write what a client is told."""
    described = folder / "descriptors"
    described.write_bytes(descriptors())
    told = {
        "target": server.target, "ca": str(server.ca or ""), "key": server.key, "descriptors": str(described), **more,
    }  # fmt: skip
    path = folder / "plan.json"
    path.write_text(json.dumps(told))
    return path


def said(client: str, folder: Path, server: Served, calls: Sequence[Call]) -> dict[str, Outcome]:
    """Have it make these calls; by name."""
    path = plan(folder, server, calls=[call.told() for call in calls])
    done = subprocess.run([*CLIENTS[client], str(path)], capture_output=True, text=True, timeout=WAIT_S, check=False)
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["name"] for row in rows] == [call.name for call in calls]
    return {row["name"]: outcome(row) for row in rows}


def outcome(row: Mapping[str, Any]) -> Outcome:
    """Of a line that a client said."""
    return Outcome(
        CODES[row["code"]],
        row["details"],
        tuple(_rich(base64.b64decode(row["status"]), row)),
        row["trailers"],
        [_steady(answer) for answer in row["answers"]],
    )


def _rich(data: bytes, row: Mapping[str, Any]) -> list[str]:
    status = status_pb2.Status.FromString(data)
    if data:
        assert (status.code, status.message) == (row["code"], row["details"])
    told = []
    for detail in status.details:
        [kind] = [kind for kind in DETAILS if detail.Is(kind.DESCRIPTOR)]
        message = kind()
        detail.Unpack(message)
        told.append(f"{kind.__name__}: {message}")
    return told


def _steady(answer: Any) -> Any:
    if isinstance(answer, Mapping):
        return {name: _steady(value) for name, value in answer.items() if name not in VARYING}
    return [_steady(value) for value in answer] if isinstance(answer, list) else answer
