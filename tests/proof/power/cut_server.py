"""A MariaDB on a disk whose power can be cut: it dies with the disk, and finds what was on it by then.

It checks nothing. A cut freezes the server first, as a machine without power is: no answer leaves it from then on.

Invariant: whatever becomes of the server, `remove` leaves no mount and no loop device behind.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from tests.proof.power.disk import LoopDisk
from tests.servers.frozen import freeze
from tests.servers.mariadb import MariaDB

# Its redo log, system tables and binary logs.
DISK_MIB: Final = 768


class CutServer(MariaDB):
    """`kill` is a loss of power; `start` gives it back."""

    def __init__(self, folder: Path, *options: str) -> None:
        """Make the disk. Raises CannotMount."""
        self.disk = LoopDisk(folder, DISK_MIB)
        self.cuts = 0
        super().__init__(self.disk.root / "server", *options)

    @staticmethod
    def settle() -> None:
        """Have on the disk what the server leaves to the kernel at a change of the schema: it syncs no `.par` file.

        A table whose `.par` file is gone cannot be opened (error 1696), until a backup is put back.
        """
        os.sync()

    def kill(self) -> None:
        """No power, then power again; the server is dead."""
        freeze(self.pid)
        self.disk.cut()
        super().kill()
        self.disk.restore()
        self.cuts += 1

    def remove(self) -> None:
        """End it, and its disk."""
        if self._process is not None:
            super().kill()
        self.disk.close()


@contextmanager
def cut_server(folder: Path, *options: str) -> Iterator[CutServer]:
    """A server that runs on a disk in this folder. Raises CannotMount."""
    server = CutServer(folder, *options)
    try:
        server.start()
        yield server
    finally:
        server.remove()
