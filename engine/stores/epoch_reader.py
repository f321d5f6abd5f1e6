"""How the lease's thread asks the embedded store who owns it: on a connection of its own, past readers and writer.

It renews nothing: on one machine the store's lock elects the owner.
"""

from pathlib import Path

from engine.stores import sql
from engine.stores.connection import Connection, open_reader


class EpochReader:
    """Looks at the epoch on a connection of its own."""

    def __init__(self, path: Path) -> None:
        """Open nothing yet."""
        self._path = path
        self._connection: Connection | None = None

    def read(self) -> int | None:
        """See `engine.stores.store.EpochReader`."""
        if self._connection is None:
            self._connection = open_reader(self._path)
        row = self._connection.execute(sql.SELECT_FACT, ("epoch",)).fetchone()
        return None if row is None else row[0]

    def close(self) -> None:
        """See `engine.stores.store.EpochReader`."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None
