"""Every messaging and compliance RPC x another tenant's ids: the answer is that for an id that does not exist.

The registry's part of the matrix is in tests/registry/test_service.py.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeAlias, cast

import grpc
import pytest
import sqlalchemy as sa
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from engine.registry import api_keys, campaigns, tenants
from engine.registry.records import OnUnknown, Role
from engine.secrets import read_secrets
from engine.stores.connection import engine_over, open_writer
from longwave.v1 import compliance_pb2, compliance_pb2_grpc, messaging_pb2, messaging_pb2_grpc
from tests.server.process_fixture import NOW_US, EngineProcess, make_store

TO = "+12025550123"
FOREIGN_NUMBER = "+12025550100"
UNKNOWN_NUMBER = "+12025550177"
MISSING_MESSAGE = "messages/0000000000001"


def add_bolt(folder: Path) -> str:
    connection = open_writer(folder / "longwave.db")
    secrets = read_secrets(folder / "longwave.db.secrets")

    def make(control: sa.Connection) -> str:
        tenant = tenants.create_tenant(control, "bolt", "", now_us=NOW_US)
        brand = tenants.create_brand(control, tenant, "bolt", display_name="", ein="12-3456789", now_us=NOW_US)
        campaign = campaigns.create_campaign(
            control, tenant, brand, "own", tcr_campaign="", use_case="MIXED", on_unknown=OnUnknown.BY_CLASS,
            messaging_profile="", now_us=NOW_US,
        )  # fmt: skip
        campaigns.create_number(control, tenant, campaign, 12025550101, now_us=NOW_US)
        _, token = api_keys.create_api_key(
            control, secrets, role=Role.TENANT, tenant=tenant, display_name="", expire_us=None, now_us=NOW_US
        )
        return token.text

    with engine_over(connection).begin() as control:
        key = make(control)
    connection.close()
    return key


class World:
    """A running engine with a message and an opt-out of acme, seen by bolt."""

    def __init__(self, address: str, acme: str, bolt: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.messaging = messaging_pb2_grpc.MessagingServiceStub(self.channel)
        self.compliance = compliance_pb2_grpc.ComplianceServiceStub(self.channel)
        mine = (("authorization", f"Bearer {acme}"),)
        self.bolt = (("authorization", f"Bearer {bolt}"),)
        accepted = self.messaging.SubmitMessage(
            messaging_pb2.SubmitMessageRequest(submission=submission("campaigns/notices")), timeout=20, metadata=mine
        )
        self.foreign_message = accepted.result.message
        request = compliance_pb2.AddOptOutRequest(recipient="+12025550199")
        self.compliance.AddOptOut(request, timeout=20, metadata=mine)


def submission(campaign: str, sender: str = "") -> messaging_pb2.Submission:
    return messaging_pb2.Submission(campaign=campaign, sender=sender, recipient=TO, text="Your code is 123456.")


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("matrix")
    acme = make_store(folder)
    bolt = add_bolt(folder)
    process = EngineProcess(folder)
    try:
        process.until_ready()
        made = World(process.grpc, acme, bolt)
        yield made
        made.channel.close()
    finally:
        process.kill()


Ask: TypeAlias = Callable[[World, bool], Any]


def one_of_stream(world: World, request: messaging_pb2.StreamMessagesRequest) -> bytes:
    answers = world.messaging.StreamMessages(iter([request]), timeout=20, metadata=world.bolt)
    results = [result for answer in answers for result in answer.results]
    return b"".join(result.SerializeToString(deterministic=True) for result in results)


def watched(world: World, campaign: str) -> bytes:
    request = messaging_pb2.WatchEventsRequest(cursor="begin", campaigns=[campaign])
    call = world.messaging.WatchEvents(request, timeout=20, metadata=world.bolt)
    first = next(iter(call))
    call.cancel()
    return b"".join(event.SerializeToString() for event in first.events)


def opted_out(world: World, recipient: str) -> bytes:
    added = world.compliance.AddOptOut(
        compliance_pb2.AddOptOutRequest(recipient=recipient), timeout=20, metadata=world.bolt
    )
    lifted = world.compliance.RemoveOptOut(
        compliance_pb2.RemoveOptOutRequest(recipient=recipient), timeout=20, metadata=world.bolt
    )
    return f"{added.opt_out.source} {lifted.removed}".encode()


CASES: dict[tuple[str, str], Ask] = {
    ("SubmitMessage", "campaign"): lambda w, foreign: w.messaging.SubmitMessage(
        messaging_pb2.SubmitMessageRequest(submission=submission(f"campaigns/{'notices' if foreign else 'missing'}")),
        timeout=20,
        metadata=w.bolt,
    ),
    ("SubmitMessage", "sender"): lambda w, foreign: w.messaging.SubmitMessage(
        messaging_pb2.SubmitMessageRequest(
            submission=submission("campaigns/own", FOREIGN_NUMBER if foreign else UNKNOWN_NUMBER)
        ),
        timeout=20,
        metadata=w.bolt,
    ),
    ("SubmitMessages", "campaign"): lambda w, foreign: w.messaging.SubmitMessages(
        messaging_pb2.SubmitMessagesRequest(
            submissions=[submission(f"campaigns/{'notices' if foreign else 'missing'}")]
        ),
        timeout=20,
        metadata=w.bolt,
    ),
    ("StreamMessages", "campaign"): lambda w, foreign: one_of_stream(
        w,
        messaging_pb2.StreamMessagesRequest(
            sequence=1, submissions=[submission(f"campaigns/{'notices' if foreign else 'missing'}")]
        ),
    ),
    ("GetMessage", "name"): lambda w, foreign: w.messaging.GetMessage(
        messaging_pb2.GetMessageRequest(name=w.foreign_message if foreign else MISSING_MESSAGE),
        timeout=20,
        metadata=w.bolt,
    ),
    ("CancelMessage", "name"): lambda w, foreign: w.messaging.CancelMessage(
        messaging_pb2.CancelMessageRequest(name=w.foreign_message if foreign else MISSING_MESSAGE),
        timeout=20,
        metadata=w.bolt,
    ),
    ("ListMessages", "campaign"): lambda w, foreign: w.messaging.ListMessages(
        messaging_pb2.ListMessagesRequest(campaign=f"campaigns/{'notices' if foreign else 'missing'}"),
        timeout=20,
        metadata=w.bolt,
    ),
    ("WatchEvents", "campaigns"): lambda w, foreign: watched(w, f"campaigns/{'notices' if foreign else 'missing'}"),
    # An opt-out of one tenant is no news to the other: adding and lifting it there works as for any number.
    ("AddOptOut", "recipient"): lambda w, foreign: opted_out(w, "+12025550199" if foreign else "+12025550198"),
    ("RemoveOptOut", "recipient"): lambda w, foreign: w.compliance.RemoveOptOut(
        compliance_pb2.RemoveOptOutRequest(recipient="+12025550199" if foreign else "+12025550198"),
        timeout=20,
        metadata=w.bolt,
    ),
    ("ListOptOuts", "tenant"): lambda w, _foreign: w.compliance.ListOptOuts(
        compliance_pb2.ListOptOutsRequest(), timeout=20, metadata=w.bolt
    ),
}


def answer(world: World, ask: Ask, *, foreign: bool) -> tuple[object, ...]:
    """What the caller sees, without the page of a list that is its own."""
    try:
        found = ask(world, foreign)
    except grpc.RpcError as error:
        status: status_pb2.Status | None = rpc_status.from_call(cast("grpc.Call", error))
        assert status is not None
        info = error_details_pb2.ErrorInfo()
        for detail in status.details:
            if detail.Is(info.DESCRIPTOR):
                detail.Unpack(info)
        return (status.code, status.message, info.reason, len(status.details))
    shown = found if isinstance(found, bytes) else found.SerializeToString(deterministic=True)
    return (shown,)


@pytest.mark.parametrize("case", sorted(CASES), ids=lambda case: f"{case[0]}-{case[1]}")
def test_another_tenants_id_answers_as_a_missing_one(world: World, case: tuple[str, str]) -> None:
    foreign = answer(world, CASES[case], foreign=True)
    missing = answer(world, CASES[case], foreign=False)
    assert foreign == missing
    assert b"2025550199" not in repr(foreign).encode()
    assert world.foreign_message not in repr(foreign)


def test_the_matrix_has_every_method() -> None:
    services = (
        messaging_pb2.DESCRIPTOR.services_by_name["MessagingService"],
        compliance_pb2.DESCRIPTOR.services_by_name["ComplianceService"],
    )
    assert {method.name for service in services for method in service.methods} == {method for method, _ in CASES}
