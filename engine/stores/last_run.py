"""Remembers beside a store which run was its last, and refuses a store that is older than that.

A log or file that is gone, or an older copy of either, is for SQLite a store with less in it: it opens, and what was
acknowledged since is missing in silence. Every run raises the store's epoch; the same number is written into a file of
its own once it is durable in the store, so that a whole store is never behind it.

It cannot tell what was lost within one run: a log cut between two transactions looks as a crash leaves it.
"""

import os
from pathlib import Path

from engine.errors import StoreBroken
from engine.stores import sql
from engine.stores.connection import Connection


def refuse_if_gone(path: Path) -> None:
    """Look before the store is opened, which would begin a new one. Raises StoreBroken when it had a run before."""
    epoch = _remembered(path)
    if epoch and not (path.exists() and path.stat().st_size):
        message = f"{path} is gone or empty, but run {epoch} of it has been: {_what_to_do(path)}"
        raise StoreBroken(message)


def refuse_if_older(connection: Connection, path: Path) -> None:
    """Look at the open store. Raises StoreBroken when its last run is not in it."""
    remembered = _remembered(path)
    has_facts = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'facts'").fetchone()
    row = connection.execute(sql.SELECT_FACT, ("epoch",)).fetchone() if has_facts else None
    found = row[0] if row else 0
    if found < remembered:
        message = (
            f"{path} holds what run {found} left, but run {remembered} was its last: its {path.name}-wal is gone, or "
            f"an older copy was put in its place; {_what_to_do(path)}"
        )
        raise StoreBroken(message)


def remember(path: Path, epoch: int) -> None:
    """Write down a run whose epoch is durable in the store. Raises OSError."""
    file = _file(path)
    partial = file.with_name(file.name + ".part")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        os.write(descriptor, f"{epoch}\n".encode("ascii"))
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    partial.replace(file)


def _file(path: Path) -> Path:
    return path.with_name(path.name + ".epoch")


def _remembered(path: Path) -> int:
    try:
        written = _file(path).read_bytes()
    except FileNotFoundError:
        return 0
    # What a power cut left of it says nothing.
    return int(written) if written.strip().isdigit() else 0


def _what_to_do(path: Path) -> str:
    return f"put it back, or remove {_file(path).name} to go on without what is missing"
