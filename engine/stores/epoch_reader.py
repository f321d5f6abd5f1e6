"""How the lease's thread asks the embedded store who owns it: on a connection of its own, past readers and writer.

It renews nothing: on one machine the store's lock elects the owner.
"""

from pathlib import Path

from engine.stores import sql
from engine.stores.connection import Connection, open_reader
from engine.stores.store import Pulse


class EpochReader:
    """Looks at the epoch on a connection of its own: the file's lock keeps everybody else out."""

    def __init__(self, path: Path) -> None:
        """Open nothing yet."""
        self._path = path
        self._connection: Connection | None = None

    def beat(self) -> Pulse:
        """See `engine.stores.store.Heart`."""
        if self._connection is None:
            self._connection = open_reader(self._path)
        row = self._connection.execute(sql.SELECT_FACT, ("epoch",)).fetchone()
        return Pulse(node=True, epoch=None if row is None else row[0])

    def close(self) -> None:
        """See `engine.stores.store.Heart`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
