"""MessagingService: submissions as raw bytes to the corridor, look-ups and cancellation back as the core encoded them.

It reads no submission: what crosses it is bytes. Streams are in `stream.py`, watches in `watch.py`.

Invariants: a refused SubmitMessage is an error with its verdict, a refused message of a batch is data; a caller that
goes away before its call was taken up leaves nothing behind; a cancellation once begun is finished.
"""

from typing import Final

import grpc
from google.protobuf.timestamp_pb2 import Timestamp

from engine.append import BATCH, UNARY
from engine.corridor import Corridor
from engine.entry import Reply
from engine.errors import Refused, Verdict
from engine.look_up import ListQuery
from engine.registry.names import digits_of, id_of, not_found
from engine.registry.pages import after, issue, page_rows
from engine.wire import message_id_of
from longwave.v1 import messaging_pb2
from server.gate import MESSAGING, Context, current_call, finished
from server.stream import Streams
from server.watch import Watches

PAGE_KIND: Final = "messages"
ID_MAX: Final = (1 << 63) - 1
ID_CHARACTERS_MAX: Final = 19
CLIENT_REFERENCE_BYTES_MAX: Final = 128
KNOWN_STATES: Final = frozenset(messaging_pb2.MessageState.values()) - {messaging_pb2.MESSAGE_STATE_UNSPECIFIED}
# 0001-01-01T00:00:00Z and 9999-12-31T23:59:59Z, as the Timestamp type says.
SECONDS_MIN: Final = -62_135_596_800
SECONDS_MAX: Final = 253_402_300_799
NANOS_END: Final = 1_000_000_000
VARINT_BITS: Final = 7
FIELD_1_BYTES: Final = b"\x0a"


class Messaging:
    """The handlers; they keep nothing between calls."""

    def __init__(self, corridor: Corridor, streams: Streams, watches: Watches) -> None:
        """Serve over `corridor`."""
        self._corridor = corridor
        self._streams = streams
        self._watches = watches

    def handlers(self) -> grpc.GenericRpcHandler:
        """All methods. Answers are bytes already; requests that are only passed on stay bytes."""
        one, watch = grpc.unary_unary_rpc_method_handler, grpc.unary_stream_rpc_method_handler
        return grpc.method_handlers_generic_handler(
            MESSAGING,
            {
                "SubmitMessage": one(self.submit_message),
                "SubmitMessages": one(self.submit_messages),
                "StreamMessages": grpc.stream_stream_rpc_method_handler(self._streams.serve),
                "GetMessage": one(self.get_message, messaging_pb2.GetMessageRequest.FromString),
                "ListMessages": one(self.list_messages, messaging_pb2.ListMessagesRequest.FromString),
                "CancelMessage": one(self.cancel_message, messaging_pb2.CancelMessageRequest.FromString),
                "WatchEvents": watch(self._watches.serve, messaging_pb2.WatchEventsRequest.FromString),
            },
        )

    async def submit_message(self, request: bytes, _context: Context) -> bytes:
        """One message."""
        call = current_call()
        return response_of(await self._corridor.submit(UNARY, call.tenant, request, call.deadline_us))

    async def submit_messages(self, request: bytes, _context: Context) -> bytes:
        """Many messages, a verdict each."""
        call = current_call()
        return response_of(await self._corridor.submit(BATCH, call.tenant, request, call.deadline_us))

    async def get_message(self, request: messaging_pb2.GetMessageRequest, _context: Context) -> bytes:
        """One message with its timeline."""
        identity = message_id_of(request.name, "name")
        found = await self._corridor.get_message(current_call().tenant, identity)
        if found is None:
            raise not_found()
        return found

    async def list_messages(self, request: messaging_pb2.ListMessagesRequest, _context: Context) -> bytes:
        """Messages of the caller's tenant, newest first."""
        tenant = current_call().tenant
        return await self._corridor.list_messages(tenant, list_query(tenant, request))

    async def cancel_message(self, request: messaging_pb2.CancelMessageRequest, _context: Context) -> bytes:
        """Cancel what has not left."""
        identity = message_id_of(request.name, "name")
        message, too_late = await finished(self._corridor.cancel_message(current_call().tenant, identity))
        if message is None:
            raise not_found()
        if too_late:
            raise Refused(Verdict.NOT_CANCELLABLE, "the message has left or is final")
        # A CancelMessageResponse: the message as field 1.
        return FIELD_1_BYTES + _varint(len(message)) + message


def response_of(reply: Reply) -> bytes:
    """The answer's bytes. Raises Refused when the whole call was refused."""
    if reply.verdict != Verdict.ACCEPTED:
        raise Refused(Verdict(reply.verdict), reply.detail, field=reply.field, retry_delay_us=reply.retry_delay_us)
    return reply.response


def list_query(tenant: int, request: messaging_pb2.ListMessagesRequest) -> ListQuery:
    """What is asked for, checked. Raises Refused INVALID_FIELD or INVALID_PAGE_TOKEN."""
    rows_max = page_rows(request.page_size)
    if not KNOWN_STATES.issuperset(request.states):
        raise Refused(Verdict.INVALID_FIELD, "name only states of the contract", field="states")
    if len(request.client_reference.encode()) > CLIENT_REFERENCE_BYTES_MAX:
        detail = f"use at most {CLIENT_REFERENCE_BYTES_MAX} bytes"
        raise Refused(Verdict.INVALID_FIELD, detail, field="client_reference")
    states = tuple(sorted(set(request.states)))
    campaign_id = id_of(request.campaign, "campaigns", "campaign") if request.campaign else ""
    recipient = digits_of(request.recipient, "recipient") if request.recipient else 0
    from_us = _micros(request.accepted_from, "accepted_from") if request.HasField("accepted_from") else 0
    until_us = _micros(request.accepted_until, "accepted_until") if request.HasField("accepted_until") else 0
    # Each in a place of its own; the page's size may change from page to page, as page tokens allow.
    arguments = (PAGE_KIND, str(tenant), campaign_id, str(states), str(recipient), str(from_us), str(until_us),
                 request.client_reference)  # fmt: skip
    return ListQuery(
        page_size=rows_max,
        before_id=_before_id(request.page_token, arguments),
        campaign_id=campaign_id,
        states=states,
        recipient=recipient,
        client_reference=request.client_reference,
        accepted_from_us=from_us,
        accepted_until_us=until_us,
        token_tail=lambda last_id: issue(str(last_id), *arguments),
    )


def _before_id(token: str, arguments: tuple[str, ...]) -> int:
    key = after(token, *arguments)
    if not key:
        return 0
    # The binding is no signature: whoever forges a token may ask for what it may see anyway, but not overflow anything.
    if not (key.isascii() and key.isdecimal() and len(key) <= ID_CHARACTERS_MAX and 0 < int(key) <= ID_MAX):
        raise Refused(Verdict.INVALID_PAGE_TOKEN, "the token was not issued for these arguments", field="page_token")
    return int(key)


def _micros(time: Timestamp, field: str) -> int:
    """Microseconds since 1970, at least 1: what is given is a filter, however early."""
    if not (SECONDS_MIN <= time.seconds <= SECONDS_MAX and 0 <= time.nanos < NANOS_END):
        raise Refused(Verdict.INVALID_FIELD, "give a time between the years 1 and 9999", field=field)
    return max(1, time.seconds * 1_000_000 + time.nanos // 1000)


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >> VARINT_BITS:
        out.append(value & 0x7F | 0x80)
        value >>= VARINT_BITS
    out.append(value)
    return bytes(out)
