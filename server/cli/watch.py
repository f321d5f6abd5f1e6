"""`longwave watch`: events as they happen, across restarts of the engine.

It keeps nothing: the cursor it ends with is where the next watch goes on.
"""

import time
from typing import Annotated

import typer

from longwave.client import Unavailable, Watch
from longwave.v1 import messaging_pb2 as m
from server.cli import output
from server.cli.connect import client
from server.cli.failure import CliFailure, advice, usage
from server.cli.names import enum_name, resource, short, when
from server.cli.output import Json

# The SDK gives up after five minutes without an answer; a quiet engine gives none for longer.
QUIET_S = 300.0


def watch(
    context: typer.Context,
    *,
    cursor: Annotated[str, typer.Option(help="Go on from here: what the last watch ended with.")] = "",
    from_begin: Annotated[bool, typer.Option("--from-begin", help="From the oldest event that is kept.")] = False,
    campaign: Annotated[
        list[str] | None, typer.Option(metavar="CAMPAIGN", help="Only of this campaign; repeatable.")
    ] = None,
    events_max: Annotated[int, typer.Option("--events-max", "-n", min=0, help="End after so many; 0: never.")] = 0,
    as_json: Json = False,
) -> None:
    """Show events as they happen, until Ctrl-C."""
    if cursor and from_begin:
        raise usage("give --cursor or --from-begin, not both")
    campaigns = [resource("campaigns", name) for name in campaign or ()]
    at = "begin" if from_begin else cursor
    with client(context) as c:
        watched = c.watch(at, campaigns=campaigns)
        try:
            seen = 0
            while True:
                began = time.monotonic()
                try:
                    for event in watched:
                        _show(event, as_json=as_json)
                        seen += 1
                        if seen == events_max:
                            return
                except Unavailable:
                    if time.monotonic() - began < QUIET_S:
                        raise
                    watched = c.watch(watched.cursor, campaigns=campaigns)
        except KeyboardInterrupt:
            return
        except Unavailable as error:
            raise CliFailure(f"{error}{advice(error)}{_hint(watched)}") from None
        finally:
            if watched.cursor:
                output.say(f"cursor: {watched.cursor}")


def _hint(watched: Watch) -> str:
    return f"\ngo on with --cursor {watched.cursor}" if watched.cursor else ""


def _show(event: m.Event, *, as_json: bool) -> None:
    if as_json:
        output.json_line(output.plain(event))
        return
    output.line(output.printable(summary(event)))


def summary(event: m.Event) -> str:
    """An event on one line."""
    parts = [when(event.event_time)]
    if event.kind in {m.Event.KIND_MESSAGE, m.Event.KIND_STATUS_CONFLICT}:
        parts += [
            short(event.message),
            enum_name(m.MessageState.DESCRIPTOR, event.state),
            enum_name(m.Reason.DESCRIPTOR, event.reason),
        ]
        if event.kind == m.Event.KIND_STATUS_CONFLICT:
            parts.insert(1, "CONFLICT")
        parts += [event.code, short(event.campaign), event.client_reference]
    else:
        parts += [
            enum_name(m.Event.Kind.DESCRIPTOR, event.kind),
            event.recipient or event.inbound.sender,
            event.inbound.text,
        ]
    return "  ".join(part for part in parts if part)
