"""A real Prometheus over a copy of the shipped configuration, on a free port, and what a test asks it.

Scraped and evaluated each second instead of each half minute; nothing else differs. Its data goes with its folder.
"""

import json
import math
import re
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, Final

from loadtest.ports import free_ports
from tests.observe.promql import PROMETHEUS

HOST: Final = "127.0.0.1"
READY_S: Final = 30.0
POLL_S: Final = 0.1


class PrometheusServer:
    """One server, from `start` to `stop`."""

    def __init__(self, folder: Path) -> None:
        """Nothing is started."""
        [self.port] = free_ports(1)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, target: str) -> None:
        """Scrape the engine at `target` (host:port); returns when the server is ready."""
        shipped = self._folder / "prometheus"
        shutil.copytree(PROMETHEUS, shipped)
        configuration = shipped / "prometheus.yml"
        text = configuration.read_text(encoding="utf-8")
        text = re.sub(r"(scrape_interval|scrape_timeout|evaluation_interval): \d+s", r"\1: 1s", text)
        configuration.write_text(text.replace("localhost:9090", f"{HOST}:{self.port}"), encoding="utf-8")
        (shipped / "targets" / "longwave.yml").write_text(json.dumps([{"targets": [target]}]), encoding="ascii")
        log = (self._folder / "prometheus.log").open("wb")
        self._process = subprocess.Popen(
            [
                "prometheus",
                f"--config.file={configuration}",
                f"--storage.tsdb.path={self._folder / 'data'}",
                f"--web.listen-address={HOST}:{self.port}",
                "--log.level=warn",
            ],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
        )
        log.close()
        until_s = time.monotonic() + READY_S
        while not self._is_ready():
            said = (self._folder / "prometheus.log").read_text(encoding="utf-8", errors="replace")
            assert self._process.poll() is None, said
            assert time.monotonic() < until_s, said
            time.sleep(POLL_S)

    def stop(self) -> None:
        """End it, if it runs."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(READY_S)
            self._process = None

    def ask(self, path: str, **parameters: str) -> Any:
        """What the API answers. Raises HTTPError, whose text says what is wrong with a query."""
        url = f"http://{HOST}:{self.port}/api/v1/{path}?{urllib.parse.urlencode(parameters)}"
        with urllib.request.urlopen(url, timeout=READY_S) as response:
            return json.load(response)["data"]

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The samples of an instant query: each its labels (`metric`) and `value`, time and number as text."""
        found: list[dict[str, Any]] = self.ask("query", query=expression)["result"]
        return found

    def has_data(self, expression: str) -> bool:
        """Whether a query gives at least one number."""
        return any(not math.isnan(float(sample["value"][1])) for sample in self.query(expression))

    def active(self) -> set[str]:
        """Alerts that fire, or will if it goes on."""
        return {sample["metric"]["alertname"] for sample in self.query("ALERTS")}

    def _is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{self.port}/-/ready", timeout=1):
                return True
        except OSError:
            return False
