"""Kannel (Debian's package) with and without its spool store: bearerbox and smsbox of one generated configuration.

It measures nothing. What is not named is as Kannel has it by default, requests to the sink at once too (ten: more made
it no faster, and dearer). Everything listens on loopback, at ports of its own; no service of the machine's is touched.

Started with `-v 4`, as Debian's init script does, and without an access log: else it writes every message to standard
error and is 1.7 times slower.
"""

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import urlencode

from loadtest.benchmarks.children import BenchmarkError, Process, clean_environment, start
from loadtest.benchmarks.submissions import recipient, text
from loadtest.peers.http_load import OverHttp
from loadtest.peers.process_tree import kill_trees
from loadtest.peers.system import HOST, SENDER, wait_listening
from loadtest.ports import free_ports

USER: Final = "peers"
PASSWORD: Final = "peers"  # noqa: S105 - of a process of ours on loopback
ACCEPTED: Final = 202
INSTALL: Final = "loadtest/peers/install_kannel.sh"
VERSION_S_MAX: Final = 20.0


def programs() -> tuple[str, str]:
    """Paths of bearerbox and smsbox. Raises BenchmarkError with what installs them."""
    found = [shutil.which(name, path="/usr/sbin:/usr/local/sbin:/usr/bin") for name in ("bearerbox", "smsbox")]
    if None in found:
        raise BenchmarkError(f"bearerbox or smsbox is missing: {INSTALL}")
    return str(found[0]), str(found[1])


def version() -> str:
    """As bearerbox says it."""
    done = subprocess.run(  # noqa: S603 - the program that is measured
        [programs()[0], "--version"], capture_output=True, text=True, timeout=VERSION_S_MAX, check=False
    )
    return version_in(done.stdout)


def version_in(said: str) -> str:
    """From what it prints: "Kannel bearerbox version `1.4.5'." and more."""
    found = re.search(r"version `([^']+)'", said)
    return found[1] if found else "unknown"


def configuration(groups: list[Mapping[str, object]]) -> str:
    """The text of a configuration: groups of `name = value`, each ended by an empty line."""
    return "\n".join("".join(f"{name} = {value}\n" for name, value in group.items()) for group in groups)


class Kannel(OverHttp):
    """One Kannel over a folder; with `is_stored` it spools what it accepted."""

    def __init__(self, folder: Path, sink_url: str, *, in_flight: int, is_stored: bool) -> None:
        """Write its configuration; nothing is started."""
        self._folder = folder
        self._in_flight = in_flight
        self._admin_port, self._boxes_port, self._receiving_port, self._port = free_ports(4)
        self._processes: list[Process] = []
        core: dict[str, object] = {
            "group": "core",
            "admin-port": self._admin_port,
            "admin-interface": HOST,
            "admin-password": PASSWORD,
            "smsbox-port": self._boxes_port,
            "smsbox-interface": HOST,
            "box-allow-ip": HOST,
            "log-level": 4,
        }
        if is_stored:
            (folder / "spool").mkdir()
            core |= {"store-type": "spool", "store-location": folder / "spool"}
        groups: list[Mapping[str, object]] = [
            core,
            {
                "group": "smsc",
                "smsc": "http",
                "smsc-id": "sink",
                "system-type": "kannel",
                "send-url": sink_url,
                "smsc-username": USER,
                "smsc-password": PASSWORD,
                "port": self._receiving_port,
                "connect-allow-ip": HOST,
            },
            {
                "group": "smsbox",
                "bearerbox-host": HOST,
                "bearerbox-port": self._boxes_port,
                "sendsms-port": self._port,
                "sendsms-interface": HOST,
                "log-level": 4,
            },
            {"group": "sendsms-user", "username": USER, "password": PASSWORD},
        ]
        self._configuration = folder / "kannel.conf"
        self._configuration.write_text(configuration(groups), encoding="ascii")

    def start(self) -> None:
        """Bearerbox first: smsbox connects to it."""
        bearerbox, smsbox = programs()
        for program, port in ((bearerbox, self._boxes_port), (smsbox, self._port)):
            log = self._folder / f"{Path(program).name}.log"
            process = start([program, "-v", "4", str(self._configuration)], clean_environment({}), log)
            self._processes.append(process)
            wait_listening(process, port, log)

    def kill(self) -> None:
        """Both at once."""
        kill_trees(self.roots)
        for process in self._processes:
            process.wait()
        self._processes = []

    def close(self) -> None:
        """As hard: its data goes too, and in order it would first send what waits."""
        if self._processes:
            self.kill()

    @property
    def roots(self) -> list[int]:
        """Both."""
        if not self._processes:
            raise RuntimeError("Kannel does not run")
        return [process.pid for process in self._processes]

    @property
    def queue_roots(self) -> list[int]:
        """Both: either may hold a message."""
        return self.roots

    def request(self, place: int) -> bytes:
        """See `OverHttp`."""
        query = urlencode(
            {"username": USER, "password": PASSWORD, "from": SENDER, "to": recipient(place), "text": text(place)}
        )
        return f"GET /cgi-bin/sendsms?{query} HTTP/1.1\r\nHost: {HOST}:{self._port}\r\n\r\n".encode()

    def is_accepted(self, status: int, body: bytes) -> bool:
        """Whether an answer says that the message was accepted: `0: Accepted for delivery`."""
        return status == ACCEPTED and body.startswith(b"0: ")
