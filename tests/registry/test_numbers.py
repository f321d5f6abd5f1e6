"""Names and numbers that three places share: the proto, the engine's enumerations, the statuses."""

from enum import IntEnum

import grpc
import pytest

from engine import errors
from engine.registry import records
from longwave.v1 import messaging_pb2, registry_pb2, verdict_pb2
from server.status import CODES


def test_verdicts_are_those_of_the_proto() -> None:
    proto = {name.removeprefix("VERDICT_"): number for name, number in verdict_pb2.Verdict.items()}
    assert {verdict.name: verdict.value for verdict in errors.Verdict} == proto


@pytest.mark.parametrize(
    ("kind", "proto", "prefix", "renamed"),
    [
        (records.TenantState, registry_pb2.TenantState, "TENANT_STATE_", {}),
        (records.CampaignState, registry_pb2.CampaignState, "CAMPAIGN_STATE_", {}),
        (records.OnUnknown, registry_pb2.OnUnknown, "ON_UNKNOWN_", {"UNSPECIFIED": "BY_CLASS"}),
        (records.Role, registry_pb2.Role, "ROLE_", {}),
        (records.Scope, registry_pb2.QuotaScope, "QUOTA_SCOPE_", {}),
        (records.Unit, registry_pb2.QuotaUnit, "QUOTA_UNIT_", {}),
        (records.Carrier, registry_pb2.Carrier, "CARRIER_", {"UNSPECIFIED": "NONE"}),
        (records.MessageClass, messaging_pb2.MessageClass, "MESSAGE_CLASS_", {"UNSPECIFIED": "NONE"}),
    ],
)
def test_enumerations_are_those_of_the_proto(
    kind: type[IntEnum], proto: "type[registry_pb2.Role]", prefix: str, renamed: dict[str, str]
) -> None:
    wanted = {}
    for name, number in proto.items():
        bare = name.removeprefix(prefix)
        if bare != "UNSPECIFIED" or bare in renamed:
            wanted[renamed.get(bare, bare)] = number
    assert {member.name: member.value for member in kind} == wanted


def test_every_verdict_has_its_status_code_of_the_proto() -> None:
    assert set(CODES) == set(errors.Verdict)
    for verdict, code in CODES.items():
        if 10 <= verdict <= 30:
            assert code is grpc.StatusCode.INVALID_ARGUMENT
        if 60 <= verdict <= 69:
            assert code is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert CODES[errors.Verdict.STORE_UNAVAILABLE] is grpc.StatusCode.UNAVAILABLE
    assert CODES[errors.Verdict.CURSOR_EXPIRED] is grpc.StatusCode.OUT_OF_RANGE
    assert CODES[errors.Verdict.DEADLINE_PASSED] is grpc.StatusCode.DEADLINE_EXCEEDED
