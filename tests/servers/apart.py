"""A `mariadbd` in a network of its own, which each client reaches by another address: ways that lose packets or end.

The server's side of the network drops what it is told to, in silence, as a broken switch does: by the client's way, in
one direction or both, always or now and then. Root only; nothing of it outlives `close`, and no other network notices.
"""

import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Final

from tests.servers.mariadb import MariaDB, quick_folder

PORT: Final = 3306
# RFC 2544: for tests of networks, routed nowhere.
NETWORKS: Final = [f"198.{second}.{third}" for second in (18, 19) for third in range(256)]
TRIES: Final = 20
TABLE: Final = "inet longwave"


class CannotPart(Exception):  # noqa: N818 - it is what is the case
    """This machine cannot make such a network; the message says why."""


class Apart(MariaDB):
    """One server and `ways` ways to it, numbered from 0; made and started by `apart`."""

    def __init__(self, folder: Path, ways: int) -> None:
        """Make the network. Raises CannotPart."""
        if os.geteuid() != 0:
            raise CannotPart("networks need root")
        if shutil.which("ip") is None or shutil.which("nft") is None:
            raise CannotPart("ip or nft is missing: apt-get install iproute2 nftables")
        super().__init__(folder)
        self.port = PORT
        self._name = f"lw{os.getpid() % 100_000}-{random.randrange(1000)}"  # noqa: S311 - a name
        try:
            _run("ip", "netns", "add", self._name)
            _run("ip", "link", "add", f"{self._name}h", "type", "veth", "peer", "name", "server", "netns", self._name)
            self._address(ways)
            self._inside("ip", "link", "set", "server", "up")
            self._inside("ip", "link", "set", "lo", "up")
            _run("ip", "link", "set", f"{self._name}h", "up")
            self.heal()
        except subprocess.CalledProcessError as error:
            self.close()
            raise CannotPart(error.stderr.decode(errors="replace").strip()) from error

    def _address(self, ways: int) -> None:
        taken = subprocess.run(["ip", "-4", "route"], check=True, capture_output=True).stdout.decode()
        net = random.choice([net for net in NETWORKS if f"{net}." not in taken])  # noqa: S311 - any that is free
        _run("ip", "addr", "add", f"{net}.1/24", "dev", f"{self._name}h")
        # The last one is the tests' own, which nothing befalls.
        addresses = [f"{net}.{number}" for number in range(10, 11 + ways)]
        for address in addresses:
            self._inside("ip", "addr", "add", f"{address}/24", "dev", "server")
        *self._ways, self.host = addresses

    def _program(self, data: Path) -> list[str]:
        there = [option for option in super()._program(data) if not option.startswith("--bind-address")]
        return ["ip", "netns", "exec", self._name, *there, "--bind-address=0.0.0.0"]

    def way(self, number: int, database: str) -> str:
        """As `LONGWAVE_STORE_URL`, by this way."""
        return self.url(database).replace(self.host, self._ways[number])

    def cut(self, number: int, *, there: bool = True, back: bool = True, share: int = 100) -> None:
        """Drop so many of 100 packets on this way: to the server, from it, or both."""
        lost = "" if share == 100 else f"numgen random mod 100 < {share} "
        if there:
            self._inside("nft", f"add rule {TABLE} there ip daddr {self._ways[number]} {lost}drop")
        if back:
            self._inside("nft", f"add rule {TABLE} back ip saddr {self._ways[number]} {lost}drop")

    def heal(self) -> None:
        """Every way is whole."""
        for command in (
            "flush ruleset",
            f"add table {TABLE}",
            f"add chain {TABLE} there {{ type filter hook input priority 0; }}",
            f"add chain {TABLE} back {{ type filter hook output priority 0; }}",
        ):
            self._inside("nft", command)

    def _inside(self, *command: str) -> None:
        _run("ip", "netns", "exec", self._name, *command)

    def close(self) -> None:
        """End the server and the network."""
        self.remove()
        # With the network goes its end of the pair, and with that the other.
        subprocess.run(["ip", "netns", "del", self._name], check=False, capture_output=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


def why_not() -> str:
    """Why there can be none here, empty when there can."""
    try:
        with quick_folder() as folder:
            Apart(folder / "server", 1).close()
    except CannotPart as error:
        return str(error)
    return ""
