"""ServerService: what this server is, what its OK survives, and its limits.

It measures nothing; all of it is known when the server starts.
"""

# ruff: noqa: N802 - the contract names the methods

from importlib.metadata import version
from typing import Final

from google.protobuf.duration_pb2 import Duration

from engine.corridor import Corridor
from longwave.v1 import admin_pb2, admin_pb2_grpc
from server.gate import Context

DISTRIBUTION: Final = "longwave-engine"
# The core's own defaults (`Limits` in rust_core/src/admit.rs), which no setting changes; a test compares them.
SEGMENTS_MAX: Final = 10
SCHEDULE_AHEAD_MAX_S: Final = 35 * 86400
VALIDITY_MAX_S: Final = 14 * 86400
HOUR_S: Final = 3600
DAY_S: Final = 86400


def engine_version() -> str:
    """The version of the installed application."""
    return version(DISTRIBUTION)


class ServerService(admin_pb2_grpc.ServerServiceServicer):
    """The contract's service; see `proto/longwave/v1/admin.proto`. Called behind the gate."""

    def __init__(self, corridor: Corridor) -> None:
        """Serve over `corridor`."""
        self._corridor = corridor

    async def GetServerInfo(
        self, _request: admin_pb2.GetServerInfoRequest, _context: Context
    ) -> admin_pb2.GetServerInfoResponse:
        """Version, durability and limits."""
        settings = self._corridor.settings
        return admin_pb2.GetServerInfoResponse(
            version=engine_version(),
            durability_level=admin_pb2.DurabilityLevel.Value(f"DURABILITY_LEVEL_{settings.store_durability}"),
            store=self._corridor.store_name,
            provider=settings.provider,
            limits=admin_pb2.ServerLimits(
                batch_messages_max=settings.batch_messages_max,
                request_bytes_max=settings.request_bytes_max,
                segments_max=SEGMENTS_MAX,
                held_messages_max=settings.held_messages_max,
                stream_credit_messages=settings.stream_credit_messages,
                schedule_ahead_max=Duration(seconds=SCHEDULE_AHEAD_MAX_S),
                validity_max=Duration(seconds=VALIDITY_MAX_S),
                request_id_retention=Duration(seconds=int(settings.request_id_retention_h * HOUR_S)),
                event_retention=Duration(seconds=int(settings.event_retention_days * DAY_S)),
            ),
        )
