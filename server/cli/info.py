"""`longwave info`: what the engine is: version, durability, limits.

It calls the engine and shows what comes back.
"""

import typer
from google.protobuf.duration_pb2 import Duration

from longwave.v1 import admin_pb2
from server.cli import output
from server.cli.connect import client
from server.cli.names import enum_name
from server.cli.output import Json


def info(context: typer.Context, *, as_json: Json = False) -> None:
    """Show the engine's version, durability level and limits."""
    with client(context) as connected:
        found = connected.server_info()
    if as_json:
        output.json_line(output.plain(found))
        return
    limits = found.limits
    output.fields(
        {
            "version": found.version,
            "durability": enum_name(admin_pb2.DurabilityLevel.DESCRIPTOR, found.durability_level),
            "store": found.store,
            "provider": found.provider,
            "messages in a batch": f"{limits.batch_messages_max:,}",
            "bytes in a request": f"{limits.request_bytes_max:,}",
            "segments of a message": f"{limits.segments_max:,}",
            "messages waiting at once": f"{limits.held_messages_max:,}",
            "credit of a stream": f"{limits.stream_credit_messages:,} messages",
            "schedule ahead": _hours(limits.schedule_ahead_max),
            "validity": _hours(limits.validity_max),
            "request ids kept": _hours(limits.request_id_retention),
            "events kept": _hours(limits.event_retention),
        }
    )


def _hours(duration: Duration) -> str:
    return f"{duration.ToSeconds() / 3600:g} h"
