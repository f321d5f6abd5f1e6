"""The example in the client's README runs as printed and prints what the README says."""

import os
import re
import subprocess
import sys
from pathlib import Path

from longwave.v1 import messaging_pb2, verdict_pb2
from tests.sdk.fake_server import FakeServer

README = Path(__file__).parents[2] / "proto" / "README.md"


def block(language: str) -> str:
    found = re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.DOTALL)
    (text,) = found
    return str(text)


def test_the_example_runs_and_prints_what_it_says(server: FakeServer) -> None:
    opted_out = messaging_pb2.SubmitResult(
        verdict=verdict_pb2.VERDICT_RECIPIENT_OPTED_OUT, field="recipient", detail="the recipient wrote STOP"
    )
    server.refuse("+12025550107", opted_out, opted_out)
    delivered = messaging_pb2.Event(message="messages/m1", seq=1)
    server.watch_script.append([messaging_pb2.WatchEventsResponse(events=[delivered], cursor="c1")])
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-c", block("python")],
        env={**os.environ, "LONGWAVE_GRPC_ADDRESS": server.address, "LONGWAVE_API_KEY": "k"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, block("text")), ran.stderr
