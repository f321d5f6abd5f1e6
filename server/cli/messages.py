"""`longwave get`, `list` and `cancel`: what became of messages.

It calls the engine and shows what comes back.
"""

from collections.abc import Callable
from itertools import islice
from typing import Annotated, Final, cast

import typer
from google.protobuf.timestamp_pb2 import Timestamp

from longwave.v1 import messaging_pb2 as m
from server.cli import output
from server.cli.connect import client
from server.cli.names import enum_name, resource, short, when
from server.cli.options import choices, one_of, read_timestamp
from server.cli.output import Json
from server.cli.records import PAGE_RECORDS, show, show_all

MessageId = Annotated[str, typer.Argument(metavar="MESSAGE", help="Its name, with or without `messages/`.")]

COLUMNS: Final[dict[str, Callable[[m.Message], str]]] = {
    "message": lambda x: short(x.name),
    "state": lambda x: enum_name(m.MessageState.DESCRIPTOR, x.state),
    "reason": lambda x: enum_name(m.Reason.DESCRIPTOR, x.reason),
    "code": lambda x: x.code,
    "campaign": lambda x: short(x.campaign),
    "from": lambda x: x.sender,
    "to": lambda x: x.recipient,
    "class": lambda x: enum_name(m.MessageClass.DESCRIPTOR, x.message_class),
    "segments": lambda x: str(x.segments),
    "accepted": lambda x: when(x.accept_time),
}
DETAILS: Final[dict[str, Callable[[m.Message], str]]] = {
    **COLUMNS,
    "changed": lambda x: when(x.update_time),
    "encoding": lambda x: enum_name(m.Encoding.DESCRIPTOR, x.encoding),
    "text": lambda x: x.text,
    "subject": lambda x: x.subject,
    "media": lambda x: " ".join(x.media_urls),
    "next attempt": lambda x: when(x.next_attempt_time),
    "scheduled": lambda x: when(x.schedule_time),
    "valid until": lambda x: when(x.expire_time),
    "attempts": lambda x: str(x.attempts),
    "generation": lambda x: str(x.generation) if x.generation else "",
    "provider": lambda x: x.provider,
    "provider's id": lambda x: x.provider_message,
    "carrier": lambda x: x.carrier,
    "request id": lambda x: x.request_id,
    "ordering key": lambda x: x.ordering_key,
    "reference": lambda x: x.client_reference,
    "labels": lambda x: " ".join(f"{key}={value}" for key, value in sorted(x.labels.items())),
    "possible duplicate": lambda x: "yes" if x.possible_duplicate else "",
    "cancel requested": lambda x: "yes" if x.cancel_requested else "",
}


def get(context: typer.Context, message: MessageId, *, as_json: Json = False) -> None:
    """Show a message with everything that happened to it."""
    with client(context) as c:
        found = c.get(resource("messages", message))
    if as_json:
        output.json_line(output.plain(found))
        return
    show(found.message, DETAILS, as_json=False)
    rows = [
        [
            str(event.seq),
            when(event.event_time),
            enum_name(m.MessageState.DESCRIPTOR, event.state),
            enum_name(m.Reason.DESCRIPTOR, event.reason),
            event.code,
            str(event.attempt) if event.attempt else "",
        ]
        for event in found.timeline
    ]
    output.line("")
    output.table(["seq", "time", "state", "reason", "code", "attempt"], rows)


def list_messages(
    context: typer.Context,
    *,
    campaign: Annotated[str, typer.Option(metavar="CAMPAIGN", help="Only of this campaign.")] = "",
    state: Annotated[
        list[int] | None,
        typer.Option(
            parser=one_of(m.MessageState.DESCRIPTOR),
            metavar=choices(m.MessageState.DESCRIPTOR),
            help="Only in this state; repeatable.",
        ),
    ] = None,
    recipient: Annotated[str, typer.Option("--to", metavar="NUMBER", help="Only to this number.")] = "",
    reference: Annotated[str, typer.Option(help="Only with this client reference.")] = "",
    since: Annotated[
        Timestamp | None, typer.Option(parser=read_timestamp, metavar="TIME", help="Only accepted at or after.")
    ] = None,
    until: Annotated[
        Timestamp | None, typer.Option(parser=read_timestamp, metavar="TIME", help="Only accepted before.")
    ] = None,
    messages_max: Annotated[
        int, typer.Option("--messages-max", "-n", min=0, help="At most so many; 0: all of them.")
    ] = 50,
    as_json: Json = False,
) -> None:
    """List messages, newest first."""
    request = m.ListMessagesRequest(
        page_size=min(messages_max, PAGE_RECORDS) or PAGE_RECORDS,
        campaign=resource("campaigns", campaign),
        states=[cast("m.MessageState.ValueType", number) for number in state or ()],
        recipient=recipient,
        client_reference=reference,
        accepted_from=since,
        accepted_until=until,
    )
    with client(context) as c:
        show_all(islice(c.list(request), messages_max or None), COLUMNS, "messages", as_json=as_json)


def cancel(context: typer.Context, message: MessageId, *, as_json: Json = False) -> None:
    """Cancel a message that has not left."""
    with client(context) as c:
        cancelled = c.cancel(resource("messages", message))
    show(cancelled, COLUMNS, as_json=as_json)
    if cancelled.cancel_requested and cancelled.state != m.MESSAGE_STATE_CANCELLED:
        output.say("an attempt may have left already: it will not be sent again")
