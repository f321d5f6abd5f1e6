"""ComplianceService: who may not be written to, by RPC.

It keeps no consent (the corridor does) and knows no keyword. Scope is the caller's tenant.

Invariants: AddOptOut answers only when nothing to that number starts or is on the wire any more; once begun, a change
is finished whether or not its caller waits.
"""

# ruff: noqa: N802 - the contract names the methods

from typing import Final

from engine.corridor import Corridor
from engine.errors import Refused, Verdict
from engine.registry.names import digits_of
from engine.registry.pages import after_number, issue, page_rows
from longwave.v1 import compliance_pb2, compliance_pb2_grpc
from server.gate import Context, current_call, finished

PAGE_KIND: Final = "optOuts"
SOURCES: Final = frozenset(compliance_pb2.OptOutSource.values())


class ComplianceService(compliance_pb2_grpc.ComplianceServiceServicer):
    """The contract's service; see `proto/longwave/v1/compliance.proto`. Called behind the gate."""

    def __init__(self, corridor: Corridor) -> None:
        """Serve over `corridor`."""
        self._corridor = corridor

    async def AddOptOut(
        self, request: compliance_pb2.AddOptOutRequest, _context: Context
    ) -> compliance_pb2.AddOptOutResponse:
        """Stop all messages to a number."""
        recipient = digits_of(request.recipient, "recipient")
        source, since_us = await finished(self._corridor.add_opt_out(current_call().tenant, recipient))
        return compliance_pb2.AddOptOutResponse(opt_out=_opt_out(recipient, source, since_us))

    async def RemoveOptOut(
        self, request: compliance_pb2.RemoveOptOutRequest, _context: Context
    ) -> compliance_pb2.RemoveOptOutResponse:
        """Lift an opt-out."""
        recipient = digits_of(request.recipient, "recipient")
        removed = await finished(self._corridor.remove_opt_out(current_call().tenant, recipient))
        return compliance_pb2.RemoveOptOutResponse(removed=removed)

    async def ListOptOuts(
        self, request: compliance_pb2.ListOptOutsRequest, _context: Context
    ) -> compliance_pb2.ListOptOutsResponse:
        """Opt-outs in force, by number."""
        tenant = current_call().tenant
        rows_max = page_rows(request.page_size)
        after = after_number(request.page_token, PAGE_KIND, str(tenant))
        rows = await self._corridor.list_opt_outs(tenant, after, rows_max + 1)
        shown = rows[:rows_max]
        return compliance_pb2.ListOptOutsResponse(
            opt_outs=[_opt_out(*row) for row in shown],
            next_page_token=issue(str(shown[-1][0]), PAGE_KIND, str(tenant)) if len(rows) > rows_max else "",
        )


def _opt_out(recipient: int, source: int, since_us: int) -> compliance_pb2.OptOut:
    if source not in SOURCES:
        raise Refused(Verdict.INTERNAL, "a bug: the opt-out has an unknown source")
    opt_out = compliance_pb2.OptOut(recipient=f"+{recipient}", source=compliance_pb2.OptOutSource.ValueType(source))
    opt_out.create_time.FromMicroseconds(since_us)
    return opt_out
