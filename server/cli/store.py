"""`longwave bootstrap`, `migrate` and `restore`: make the store and its first key, bring its schema up to date or back.

It works on a store that nothing serves: both take the store's lock. Serving is `serve.py`'s; a store on a server is
`server_store.py`'s.

Invariants: a key is committed before it is shown, and shown once; a secret file is made only for a store without keys.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final

import typer

from engine.clock import Clock
from engine.config import Settings, load_settings
from engine.registry.api_keys import create_api_key, has_any_key, has_live_admin
from engine.registry.records import Role
from engine.secrets import open_secrets
from engine.stores import migrate as schema
from engine.stores.connection import Connection, StoreLock, engine_over, open_reader
from engine.stores.wal import open_recovered
from server.cli import output, server_store
from server.cli.failure import EXIT_FAILED, CliFailure, usage
from server.cli.output import Json

HOW_TO_ADD_A_KEY: Final = "to make another: set LONGWAVE_API_KEY to an admin key and run `longwave key create --admin`"


@dataclass(frozen=True, slots=True)
class Bootstrapped:
    """What `bootstrap` made."""

    key: str
    """The admin key: a secret, shown once."""
    store: str
    """Its file, or where it is on its server."""
    secret_file: Path


def exists(path: Path) -> bool:
    """Whether a store is there; an empty file is none."""
    return path.exists() and path.stat().st_size > 0


def has_keys(path: Path) -> bool:
    """Whether an existing store holds any API key; one without its schema holds none. Raises StoreTooNew."""
    connection = open_reader(path)
    try:
        if schema.current(connection) is None:
            return False
        with engine_over(connection).begin() as control:
            return has_any_key(control)
    finally:
        connection.close()


def make_store(settings: Settings) -> Bootstrapped | None:
    """Make or complete the store, its secret file and one admin key; None when an admin key works already.

    Raises ConfigError, StoreLocked, StoreTooNew, StoreBroken and OSError.
    """
    if not settings.store_is_embedded:
        key = server_store.make_key(settings)
        return None if key is None else Bootstrapped(key, settings.store_url, settings.secrets_path)
    path = settings.store_file
    now_us = Clock().now_us()
    with _held(path) as connection:
        schema.migrate(connection, path, now_us=now_us)
        with engine_over(connection).begin() as control:
            if has_live_admin(control, now_us=now_us):
                return None
            secrets = open_secrets(settings.secrets_path, create=not has_any_key(control), now_us=now_us)
            _, token = create_api_key(
                control,
                secrets,
                role=Role.ADMIN,
                tenant=None,
                display_name="made by longwave bootstrap",
                expire_us=None,
                now_us=now_us,
            )
    return Bootstrapped(token.text, str(path), settings.secrets_path)


def announce(made: Bootstrapped, *, as_json: bool = False) -> None:
    """Show the key; nothing shows it again."""
    if as_json:
        output.json_line({"api_key": made.key, "store": made.store, "secret_file": str(made.secret_file)})
        return
    output.say(f"made {made.store} and {made.secret_file}: back both up together, neither is of use alone")
    output.line(f"export LONGWAVE_API_KEY={made.key}")
    output.say("This is an admin key, and the only time it is shown: keep it where secrets are kept.")


def bootstrap(*, as_json: Json = False) -> None:
    """Make the store, its secret file and one admin key, which is printed once."""
    settings = load_settings()
    name = str(settings.store_file) if settings.store_is_embedded else settings.store_url
    with explained(name):
        made = make_store(settings)
    if made is None:
        raise CliFailure(f"{name} has an admin key already, shown when it was made\n{HOW_TO_ADD_A_KEY}")
    announce(made, as_json=as_json)


def migrate(
    *,
    check: Annotated[
        bool, typer.Option("--check", help="Only say what is missing; exit code 1 when anything is.")
    ] = False,
    contract: Annotated[
        bool,
        typer.Option("--contract", help="On a server: also apply what older versions of longwave cannot work beside."),
    ] = False,
    without_backup: Annotated[
        bool, typer.Option("--without-backup", help="On a server: make no backup, because there is one.")
    ] = False,
    wait_s: Annotated[
        float, typer.Option("--wait-s", min=0, help="On a server: seconds to wait for another migration to end.")
    ] = 0,
    as_json: Json = False,
) -> None:
    """Bring the store's schema up to date, with a backup first; a newer store is refused.

    A store on a server may be served meanwhile: docs/operations/UPGRADE.md.
    """
    settings = load_settings()
    if not settings.store_is_embedded:
        _migrate_on_server(
            settings, check=check, contract=contract, has_backup=without_backup, wait_s=wait_s, as_json=as_json
        )
        return
    if contract or without_backup or wait_s:
        raise usage("--contract, --without-backup and --wait-s are for a store on a server; leave them out for a file")
    path = settings.store_file
    if not exists(path):
        raise usage(f"there is no store at {path}\nmake one with `longwave bootstrap`, or set LONGWAVE_STORE_URL")
    with explained(str(path)):
        if check:
            absent = missing(path)
            _report_missing(absent, as_json=as_json)
            return
        applied = schema.migrate_store(path, now_us=Clock().now_us(), progress=output.say)
    _report({"applied": applied}, f"applied: {', '.join(applied) or 'nothing'}", as_json=as_json)


def restore(
    *,
    file: Annotated[Path, typer.Argument(help="A backup that `longwave migrate` made: NAME-before-….sql.gz.")],
    as_json: Json = False,
) -> None:
    """Put a backup into the empty database on a server that LONGWAVE_STORE_URL names, and look whether all is there.

    What was accepted after the backup is lost with it: docs/operations/BACKUP.md.
    """
    settings = load_settings()
    if settings.store_is_embedded:
        raise usage("a store in a file is restored by putting its copy in place: docs/operations/BACKUP.md")
    if not file.is_file():
        raise usage(f"there is no file {file}")
    done = server_store.restore_store(settings, file)
    text = f"restored: {done.rows} rows, " + (
        "all compared by checksum" if done.compared else "not compared: the backup does not say what they add up to"
    )
    if done.missing:
        text += f"\nnext: longwave migrate ({', '.join(done.missing)})"
    if as_json:
        output.json_line({"rows": done.rows, "compared": done.compared, "missing": list(done.missing)})
    else:
        output.line(text)


def _migrate_on_server(
    settings: Settings, *, check: bool, contract: bool, has_backup: bool, wait_s: float, as_json: bool
) -> None:
    if check:
        _report_missing(server_store.missing(settings), as_json=as_json)
        return
    done = server_store.migrate_store(settings, contract=contract, has_backup=has_backup, wait_s=wait_s)
    values = {"applied": done.applied, "backup": [done.backup] if done.backup else []}
    _report(values, f"applied: {', '.join(done.applied) or 'nothing'}", as_json=as_json)


def _report_missing(absent: tuple[str, ...], *, as_json: bool) -> None:
    _report({"missing": list(absent)}, f"missing: {', '.join(absent) or 'nothing'}", as_json=as_json)
    if absent:
        raise typer.Exit(EXIT_FAILED)


def missing(path: Path) -> tuple[str, ...]:
    """Revisions that an existing store lacks. Raises StoreTooNew."""
    connection = open_reader(path)
    try:
        return schema.missing(connection)
    finally:
        connection.close()


def _report(values: dict[str, list[str]], text: str, *, as_json: bool) -> None:
    if as_json:
        output.json_line(values)
    else:
        output.line(text)


@contextmanager
def _held(path: Path) -> Iterator[Connection]:
    lock = StoreLock(path)
    try:
        connection = open_recovered(path)
        try:
            yield connection
        finally:
            connection.close()
    finally:
        lock.release()


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn what the file system says about the store's place into a failure with advice."""
    try:
        yield
    except OSError as error:
        raise usage(
            f"{error.filename or path}: {error.strerror}\n"
            "set LONGWAVE_STORE_URL to a file in a folder that this user may write"
        ) from None
