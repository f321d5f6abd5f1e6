"""How the lease's thread asks the embedded store who owns it: on a connection of its own, past readers and writer.

It renews nothing: on one machine the store's lock elects the owner.
"""

from collections.abc import Callable
from pathlib import Path

from engine.stores import sql
from engine.stores.connection import Connection, open_reader
from engine.stores.store import Pulse


class EpochReader:
    """Looks at the epoch on a connection of its own: the file's lock keeps everybody else out."""

    def __init__(self, path: Path, epoch: Callable[[], int | None]) -> None:
        """Open nothing yet; `epoch` says under which one this process owns the store, None before."""
        self._path = path
        self._epoch = epoch
        self._connection: Connection | None = None

    def beat(self) -> Pulse:
        """See `engine.stores.store.Heart`."""
        if self._connection is None:
            self._connection = open_reader(self._path)
        own = self._epoch()
        row = self._connection.execute(sql.SELECT_FACT, ("epoch",)).fetchone()
        found = None if row is None else row[0]
        return Pulse(node=True, held=own is None or found == own, epoch=found)

    def close(self) -> None:
        """See `engine.stores.store.Heart`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
