"""Stands in for the engine's own program behind `longwave demo`: `bootstrap --json` and `serve`, with the fake engine.

It keeps a file where the store would be, so that a second run finds one.
"""

import http.server
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.cli.fake_engine import API_KEY, FakeEngine

STORE = Path(os.environ["LONGWAVE_STORE_URL"].removeprefix("sqlite:///"))


class Ready(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response_only(200 if self.path == "/ready" else 404)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Quiet."""


def stop(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def serve() -> None:
    signal.signal(signal.SIGTERM, stop)
    engine = FakeEngine(address=os.environ["LONGWAVE_GRPC_ADDRESS"])
    engine.start()
    host, _, port = os.environ["LONGWAVE_HTTP_ADDRESS"].rpartition(":")
    try:
        with http.server.ThreadingHTTPServer((host, int(port)), Ready) as door:
            door.serve_forever()
    except KeyboardInterrupt:
        engine.stop()
        STORE.with_name("ended").write_text(f"{len(engine.stored)}\n", encoding="ascii")


if __name__ == "__main__":
    if sys.argv[1] == "bootstrap":
        STORE.write_text("made\n", encoding="ascii")
        sys.stdout.write(json.dumps({"api_key": API_KEY}) + "\n")
    else:
        serve()
