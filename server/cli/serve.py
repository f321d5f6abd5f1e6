"""`longwave serve`: the engine in the foreground, until SIGTERM or Ctrl-C.

It prepares the store (bootstrap on a terminal, migration with a backup) and hands over to `server.app`.
"""

import os
import sys
from typing import Annotated

import typer

from engine.clock import Clock
from engine.config import Settings, load_settings, variable
from engine.stores import migrate as schema
from server import app
from server.cli import output, server_store, store
from server.cli.failure import usage


def serve(
    roles: Annotated[
        str, typer.Option(help="What this process does (sets LONGWAVE_ROLES): some of ingest,dispatch,receipts,admin.")
    ] = "",
) -> None:
    """Run the engine until SIGTERM or Ctrl-C.

    Settings come from the environment: `longwave config` lists them, `longwave doctor` checks them.
    """
    if roles:
        os.environ[variable("roles")] = roles
    settings = load_settings()
    prepare(settings)
    try:
        code = app.run(settings, announce=output.say)
    except OSError as error:
        raise usage(
            f"{error.strerror or error}\n"
            "if an address is in use, stop what uses it or set another one: `longwave doctor` says which"
        ) from None
    raise typer.Exit(code)


def prepare(settings: Settings) -> None:
    """Make sure that there is a store with a key and the schema of this version.

    Raises CliFailure for a store without keys where nobody would read a new one, StoreTooNew, StoreLocked.
    """
    if not settings.store_is_embedded:
        if not server_store.has_keys(settings):
            _make(settings, settings.store_url)
        return
    path = settings.store_file
    with store.explained(str(path)):
        if not store.exists(path) or not store.has_keys(path):
            _make(settings, str(path))
        elif store.missing(path):
            schema.migrate_store(path, now_us=Clock().now_us(), progress=output.say)


def _make(settings: Settings, name: str) -> None:
    """Make what is missing, where somebody reads the key that is shown once."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise usage(
            f"the store {name} is empty: run `longwave bootstrap` first, which makes it and prints an admin key"
        )
    made = store.make_store(settings)
    if made is not None:
        store.announce(made)
