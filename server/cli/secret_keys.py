"""`longwave secret`: the keys in the secret file, which hash API keys and sign callbacks: list, add, use.

It works on the file alone, and asks the store which keys API keys depend on. Nodes read the file when they start, so a
rotation over several nodes has two rounds (docs/operations/ROTATE.md). Invariant: no key's bytes are shown.
"""

import time
from typing import Annotated, Final

import sqlalchemy as sa
import typer

from engine.clock import Clock
from engine.config import Settings, load_settings
from engine.registry.api_keys import hash_keys_in_use
from engine.secrets import Purpose, Secrets, add_key, read_secrets, use_second
from engine.stores.connection import engine_over, open_reader
from server.cli import output, server_store, store
from server.cli.failure import usage
from server.cli.options import reader
from server.cli.output import Json

group = typer.Typer(no_args_is_help=True, help="Keys in the secret file: of API-key hashes and callback MACs.")
NAMES: Final = {purpose.value.replace("_", "-"): purpose for purpose in Purpose}


def _purpose(text: str) -> Purpose:
    if text not in NAMES:
        message = f"{text!r} is none of {', '.join(NAMES)}"
        raise ValueError(message)
    return NAMES[text]


PurposeArgument = Annotated[
    Purpose, typer.Argument(metavar="|".join(NAMES), parser=reader(_purpose), help="What the key is for.")
]


@group.command("list")
def list_keys(*, as_json: Json = False) -> None:
    """List the keys by name: the one in use, and the one that is believed beside it."""
    settings = load_settings()
    _show(read_secrets(settings.secrets_path), as_json=as_json)


@group.command()
def add(
    purpose: PurposeArgument,
    *,
    drop: Annotated[
        str, typer.Option(metavar="NAME", help="The second key, which goes for the new one; not one still depended on.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Add a key that is believed, and used by nobody yet. Then give the file to every node."""
    settings = load_settings()
    in_use = _hash_keys_in_use(settings) if purpose is Purpose.API_KEY else frozenset[str]()
    with store.explained(str(settings.secrets_path)):
        made = add_key(settings.secrets_path, purpose, drop=drop, in_use=in_use, now_us=Clock().now_us())
    _show(made, as_json=as_json)


@group.command()
def use(purpose: PurposeArgument, *, as_json: Json = False) -> None:
    """Use the second key from now on. Only once every node has the file that it was added to."""
    settings = load_settings()
    with store.explained(str(settings.secrets_path)):
        made = use_second(settings.secrets_path, purpose)
    _show(made, as_json=as_json)


def _hash_keys_in_use(settings: Settings) -> frozenset[str]:
    now_us = Clock().now_us()

    def look(control: sa.Connection) -> frozenset[str]:
        return hash_keys_in_use(control, now_us=now_us)

    if not settings.store_is_embedded:
        return server_store.run(server_store.opened(settings, lambda opened: opened.run_control(look)))
    if not store.exists(settings.store_file):
        raise usage(f"there is no store at {settings.store_file}, so nothing says which keys are in use")
    connection = open_reader(settings.store_file)
    try:
        with engine_over(connection).begin() as control:
            return look(control)
    finally:
        connection.close()


def _show(live: Secrets, *, as_json: bool) -> None:
    rows = [
        (name, key.name, "in use" if position == 0 else "believed", key.create_us)
        for name, purpose in NAMES.items()
        for position, key in enumerate(live.of(purpose))
    ]
    if as_json:
        for purpose, name, state, create_us in rows:
            output.json_line({"purpose": purpose, "name": name, "state": state, "create_us": create_us})
        return
    made = [
        (purpose, name, state, time.strftime("%Y-%m-%d %H:%M:%SZ", time.gmtime(create_us / 1_000_000)))
        for purpose, name, state, create_us in rows
    ]
    output.table(("purpose", "key", "state", "made"), made)
