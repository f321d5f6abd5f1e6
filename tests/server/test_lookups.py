"""Look-ups, cancellation and consent: arguments checked, pages bound to their arguments, tenants apart."""

from typing import Any

import grpc
import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from engine import _core
from engine.registry.pages import issue
from longwave.v1 import compliance_pb2
from longwave.v1 import messaging_pb2 as pb
from server.info import SCHEDULE_AHEAD_MAX_S, SEGMENTS_MAX, VALIDITY_MAX_S
from tests.server.conftest import Client, Server, refused

UNKNOWN = f"messages/{_core.short_id(999)}"


async def submitted(client: Client, count: int = 1) -> list[str]:
    request = pb.SubmitMessagesRequest(submissions=[pb.Submission(text=str(i)) for i in range(count)])
    return [result.message for result in (await client.call(client.messaging.SubmitMessages, request)).results]


async def test_a_message_is_found_by_its_tenant_only(server: Server) -> None:
    client, other = server.client(), server.client(server.other_key)
    [name] = await submitted(client)
    found = await client.call(client.messaging.GetMessage, pb.GetMessageRequest(name=name))
    assert (found.message.name, found.message.text) == (name, "0")
    for who, asked in ((other, name), (client, UNKNOWN)):
        for method, kind in (
            (who.messaging.GetMessage, pb.GetMessageRequest),
            (who.messaging.CancelMessage, pb.CancelMessageRequest),
        ):
            refusal = await refused(who.call(method, kind(name=asked)))
            assert (refusal.code, refusal.verdict) == (grpc.StatusCode.NOT_FOUND, "NOT_FOUND")


@pytest.mark.parametrize("name", ["", "messages/", "messages/x", "campaigns/a", UNKNOWN + "0", UNKNOWN.upper()])
async def test_a_name_of_another_form_is_refused(server: Server, name: str) -> None:
    client = server.client()
    for method, kind in (
        (client.messaging.GetMessage, pb.GetMessageRequest),
        (client.messaging.CancelMessage, pb.CancelMessageRequest),
    ):
        refusal = await refused(client.call(method, kind(name=name)))
        assert (refusal.code, refusal.verdict) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
        assert refusal.fields == ["name"]


@pytest.mark.parametrize("text", ["short", "long" * 100])
async def test_a_cancelled_message_comes_back_and_a_second_time_it_is_too_late(server: Server, text: str) -> None:
    client = server.client()
    request = pb.SubmitMessageRequest(submission=pb.Submission(text=text))
    name = (await client.call(client.messaging.SubmitMessage, request)).result.message
    answer = await client.call(client.messaging.CancelMessage, pb.CancelMessageRequest(name=name))
    assert (answer.message.name, answer.message.text) == (name, text)
    assert answer.message.state == pb.MESSAGE_STATE_CANCELLED
    refusal = await refused(client.call(client.messaging.CancelMessage, pb.CancelMessageRequest(name=name)))
    assert (refusal.code, refusal.verdict) == (grpc.StatusCode.FAILED_PRECONDITION, "NOT_CANCELLABLE")


async def test_pages_lead_through_all_messages(server: Server) -> None:
    client = server.client()
    expected = list(reversed(await submitted(client, 25)))
    found: list[str] = []
    token = ""
    for size in (10, 3, 100):  # the size may change from page to page
        request = pb.ListMessagesRequest(page_size=size, page_token=token)
        page = await client.call(client.messaging.ListMessages, request)
        found += [message.name for message in page.messages]
        token = page.next_page_token
    assert (found, token) == (expected, "")


async def test_filters_reach_the_corridor(server: Server) -> None:
    client = server.client()
    states = [pb.MESSAGE_STATE_NO_RECEIPT, pb.MESSAGE_STATE_QUEUED, pb.MESSAGE_STATE_NO_RECEIPT]
    request = pb.ListMessagesRequest(
        page_size=5000, campaign="campaigns/a-1", states=states, recipient="+12025550123", client_reference="ref",
        accepted_from=Timestamp(seconds=5, nanos=7000), accepted_until=Timestamp(seconds=-1),
    )  # fmt: skip
    await client.call(client.messaging.ListMessages, request)
    await client.call(client.messaging.ListMessages, pb.ListMessagesRequest())
    given, empty = server.corridor.queries
    assert (given.page_size, given.campaign_id, given.states) == (1000, "a-1", (1, 18))
    assert (given.recipient, given.client_reference, given.before_id) == (12025550123, "ref", 0)
    assert (given.accepted_from_us, given.accepted_until_us) == (5_000_007, 1)
    assert (empty.page_size, empty.campaign_id, empty.states, empty.recipient) == (50, "", (), 0)
    assert (empty.accepted_from_us, empty.accepted_until_us) == (0, 0)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("page_size", -1),
        ("campaign", "a"),
        ("campaign", "campaigns/A"),
        ("states", [0]),
        ("states", [99]),
        ("recipient", "12025550123"),
        ("recipient", "+442071838750"),
        ("client_reference", "x" * 129),
        ("accepted_from", Timestamp(seconds=1 << 40)),
        ("accepted_until", Timestamp(nanos=-1)),
    ],
)
async def test_a_wrong_argument_is_named(server: Server, field: str, value: Any) -> None:
    client = server.client()
    refusal = await refused(client.call(client.messaging.ListMessages, pb.ListMessagesRequest(**{field: value})))
    assert (refusal.code, refusal.verdict) == (grpc.StatusCode.INVALID_ARGUMENT, "INVALID_FIELD")
    assert refusal.fields == [field]


async def test_a_page_token_is_bound_to_its_arguments(server: Server) -> None:
    client, other = server.client(), server.client(server.other_key)
    await submitted(client, 3)
    first = await client.call(client.messaging.ListMessages, pb.ListMessagesRequest(page_size=1))
    token = first.next_page_token
    binding = ("messages", "1", "", "()", "0", "0", "0", "")
    forged = [issue(key, *binding) for key in ("0", "-1", "x", str(1 << 63), "9" * 30)]
    tries = [
        (client, pb.ListMessagesRequest(page_token=token, states=[pb.MESSAGE_STATE_QUEUED])),
        (client, pb.ListMessagesRequest(page_token=token, campaign="campaigns/a")),
        (client, pb.ListMessagesRequest(page_token=token, client_reference="x")),
        (client, pb.ListMessagesRequest(page_token=token, accepted_from=Timestamp(seconds=1))),
        (other, pb.ListMessagesRequest(page_token=token)),
        *((client, pb.ListMessagesRequest(page_token=text)) for text in ("x", token[:-1], token + "A", *forged)),
    ]
    for who, request in tries:
        refusal = await refused(who.call(who.messaging.ListMessages, request))
        assert (refusal.verdict, refusal.fields) == ("INVALID_PAGE_TOKEN", ["page_token"])
    issued = issue("2", *binding)
    page = await client.call(client.messaging.ListMessages, pb.ListMessagesRequest(page_token=issued))
    assert [message.name for message in page.messages] == [f"messages/{_core.short_id(1)}"]


async def test_opt_outs_are_added_listed_and_lifted(server: Server) -> None:
    client, other = server.client(), server.client(server.other_key)
    numbers = [f"+1202555{100 + i:04d}" for i in range(3)]
    for number in numbers:
        added = await client.call(client.compliance.AddOptOut, compliance_pb2.AddOptOutRequest(recipient=number))
        assert (added.opt_out.recipient, added.opt_out.source) == (number, compliance_pb2.OPT_OUT_SOURCE_API)
        assert added.opt_out.create_time.seconds == 1_700_000_000
    first = await client.call(client.compliance.ListOptOuts, compliance_pb2.ListOptOutsRequest(page_size=2))
    token = first.next_page_token
    request = compliance_pb2.ListOptOutsRequest(page_size=2, page_token=token)
    second = await client.call(client.compliance.ListOptOuts, request)
    assert [opt_out.recipient for page in (first, second) for opt_out in page.opt_outs] == numbers
    assert (len(first.opt_outs), second.next_page_token) == (2, "")
    refusal = await refused(
        other.call(other.compliance.ListOptOuts, compliance_pb2.ListOptOutsRequest(page_token=token))
    )
    assert refusal.verdict == "INVALID_PAGE_TOKEN"
    lift = compliance_pb2.RemoveOptOutRequest(recipient=numbers[0])
    assert not (await other.call(other.compliance.RemoveOptOut, lift)).removed
    assert (await client.call(client.compliance.RemoveOptOut, lift)).removed
    assert not (await client.call(client.compliance.RemoveOptOut, lift)).removed


@pytest.mark.parametrize("number", ["", "2025550123", "+1", "+12025550123 ", "+11115550123"])
async def test_an_opt_out_needs_a_number(server: Server, number: str) -> None:
    client = server.client()
    for method, kind in (
        (client.compliance.AddOptOut, compliance_pb2.AddOptOutRequest),
        (client.compliance.RemoveOptOut, compliance_pb2.RemoveOptOutRequest),
    ):
        refusal = await refused(client.call(method, kind(recipient=number)))
        assert (refusal.verdict, refusal.fields) == ("INVALID_FIELD", ["recipient"])


@pytest.mark.parametrize("beyond", [0, 1])
def test_the_limits_told_are_the_cores(beyond: int) -> None:
    """Each limit passes, and one more is refused."""
    admitter = _core.Admitter({}, 1, 0)
    campaign = (1, 1, 1, "c", 1, 0, "", [12025550100])
    registry = _core.Registry(1, [(1, True)], [campaign], [])
    now_us = 1_700_000_000_000_000
    base: dict[str, Any] = {"campaign": "campaigns/c", "recipient": "+12025550123", "text": "x"}
    text = pb.Submission(**(base | {"text": "x" * (153 * SEGMENTS_MAX + beyond)}))
    late = pb.Submission(**base)
    late.schedule_time.FromMicroseconds(now_us + (SCHEDULE_AHEAD_MAX_S + beyond) * 1_000_000)
    long = pb.Submission(**base)
    long.validity.FromSeconds(VALIDITY_MAX_S + beyond)
    for submission, verdict in ((text, 15), (late, 17), (long, 18)):
        call = (1, 1, pb.SubmitMessageRequest(submission=submission).SerializeToString())
        admission = admitter.admit([call], registry, _core.Consent([]), now_us, 10)
        assert admission.accepted == 1 - beyond
        assert admission.replies()[0][0] == (verdict if beyond else 1)
