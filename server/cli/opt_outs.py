"""`longwave opt-out`: who may not be written to.

It calls the engine and shows what comes back.
"""

from collections.abc import Callable
from typing import Annotated, Final

import typer

from longwave.v1 import compliance_pb2 as c
from server.cli import output
from server.cli.connect import client
from server.cli.names import enum_name, when
from server.cli.output import Json
from server.cli.records import PAGE_RECORDS, show, show_all

group = typer.Typer(no_args_is_help=True, help="Opt-outs: who may not be written to.")

COLUMNS: Final[dict[str, Callable[[c.OptOut], str]]] = {
    "recipient": lambda o: o.recipient,
    "source": lambda o: enum_name(c.OptOutSource.DESCRIPTOR, o.source),
    "since": lambda o: when(o.create_time),
}
Recipient = Annotated[str, typer.Argument(metavar="NUMBER", help="E.164, such as +12025550123.")]


@group.command()
def add(context: typer.Context, recipient: Recipient, *, as_json: Json = False) -> None:
    """Stop all messages to a number; when this returns, none starts and none is on the wire."""
    with client(context) as connected:
        show(connected.add_opt_out(recipient), COLUMNS, as_json=as_json)


@group.command()
def remove(context: typer.Context, recipient: Recipient, *, as_json: Json = False) -> None:
    """Lift an opt-out."""
    with client(context) as connected:
        removed = connected.remove_opt_out(recipient)
    if as_json:
        output.json_line({"recipient": recipient, "removed": removed})
    else:
        output.line(f"{recipient} may be written to again" if removed else f"{recipient} had not opted out")


@group.command("list")
def list_opt_outs(context: typer.Context, *, as_json: Json = False) -> None:
    """List the opt-outs in force, by number."""
    with client(context) as connected:
        show_all(connected.list_opt_outs(page_messages=PAGE_RECORDS), COLUMNS, "opt-outs", as_json=as_json)
