"""The checks of `longwave smoke`: each asks a running engine one thing, and says what it found.

They know no order and print nothing. Every wait is bounded. Without a recipient no carrier is bothered: the message
goes to a number that is kept for fiction, for an hour ahead, and is cancelled.
"""

import http.client
import json
import secrets
import string
import time
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health_pb2
from prometheus_client.parser import text_string_to_metric_families

from longwave.client import Client, LongwaveError, Submission, SubmitResult, Unauthenticated
from longwave.contract import Method
from longwave.v1 import admin_pb2
from longwave.v1 import messaging_pb2 as m
from server.cli.failure import CliFailure, usage
from server.cli.fictitious import fictitious_number
from server.cli.names import enum_name
from server.cli.send_tally import is_final

CALL_S: Final = 10.0
POLL_S: Final = 0.1
AHEAD_S: Final = 3600
# A few thousand series of 100 bytes; more is not ours.
BODY_BYTES_MAX: Final = 16 << 20
FICTITIOUS_INDEX: Final = 0
HEALTH: Final = Method(
    "/grpc.health.v1.Health/Check",
    health_pb2.HealthCheckRequest,
    health_pb2.HealthCheckResponse.FromString,
    repeatable=True,
)
BUILD_METRIC: Final = "longwave_build"


@dataclass(frozen=True, slots=True)
class Order:
    """What is to be sent, and what is expected."""

    campaign: str
    """`campaigns/{campaign}`."""
    recipient: str
    """E.164; empty: nothing is to leave."""
    text: str
    final_s: float
    """Within so many seconds it must be delivered."""
    version: str
    """Expected of the engine; empty: any."""


class EngineChecks:
    """Checks over gRPC; the later ones look after the message of the earlier ones."""

    def __init__(self, client: Client, stranger: Client, order: Order) -> None:
        """`stranger` is a client with a key that nobody made."""
        self._client = client
        self._stranger = stranger
        self._order = order
        self._submission = _submission(order)
        self._accepted: SubmitResult | None = None
        self._answer_lost = False

    @staticmethod
    def made_up_key() -> str:
        """A key of the right form that no engine has."""
        letters = string.ascii_lowercase
        return f"lw_t_{_drawn(letters, 12)}_{_drawn(letters, 32)}"

    def health(self) -> str:
        """The standard health service says SERVING."""
        answer = self._client.call(HEALTH, health_pb2.HealthCheckRequest(), deadline_s=CALL_S)
        status = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
        if answer.status != health_pb2.HealthCheckResponse.SERVING:
            raise CliFailure(f"{status}\n/ready of the operations address says why")
        return status

    def version(self) -> str:
        """Version, store and durability; the key is believed."""
        info = self._client.server_info(deadline_s=CALL_S)
        if self._order.version not in {"", info.version}:
            raise CliFailure(
                f"{info.version}, not {self._order.version}\nthe rollout is not done, or the address is of another one"
            )
        level = enum_name(admin_pb2.DurabilityLevel.DESCRIPTOR, info.durability_level)
        return f"{info.version}, durability {level}, store {info.store}, provider {info.provider}"

    def wrong_key(self) -> str:
        """A key that nobody made is refused."""
        try:
            self._stranger.server_info(deadline_s=CALL_S)
        except Unauthenticated:
            return "a made-up key is refused"
        raise CliFailure("a made-up key is believed\ntake the engine off the network")

    def submit(self) -> str:
        """A message is accepted: it is on disk."""
        try:
            self._accepted = self._client.submit(self._submission, deadline_s=CALL_S)
        except LongwaveError as error:
            self._answer_lost = error.outcome_unknown
            raise
        segments = self._accepted.segments
        return f"accepted {self._accepted.message}: {segments} segment{'' if segments == 1 else 's'}"

    def submit_again(self) -> str:
        """The same request id with the same content is the same message."""
        again = self._client.submit(self._submission, deadline_s=CALL_S)
        if again.message != self._message:
            raise CliFailure(f"the same request id made another message: {again.message}\nit may be sent twice")
        return f"the same message for request id {self._submission.request_id}"

    def delivered(self) -> str:
        """The message reaches a final state in time, and that is DELIVERED."""
        until = time.monotonic() + self._order.final_s
        while True:
            message = self._client.get(self._message, deadline_s=CALL_S).message
            if is_final(message.state):
                break
            if time.monotonic() > until:
                raise CliFailure(
                    f"{_standing(message)} after {self._order.final_s:g} s\n"
                    f"`longwave get {self._message}` shows its way so far"
                )
            time.sleep(POLL_S)
        if message.state != m.MESSAGE_STATE_DELIVERED:
            raise CliFailure(f"{_standing(message)}\n`longwave get {self._message}` shows its way")
        return _standing(message)

    def leaves_later(self) -> bool:
        """Whether there is, or may be, a message of an hour ahead, which would go to the carrier then."""
        return not self._order.recipient and (self._accepted is not None or self._answer_lost)

    def cancelled(self) -> str:
        """The message of an hour ahead can be cancelled: it was held, and nothing has left."""
        if self._accepted is None:
            self.submit()  # by its request id: the one whose answer was lost, or one that goes at once
        try:
            message = self._client.cancel(self._message, deadline_s=CALL_S)
        except LongwaveError as error:
            raise CliFailure(f"{error}\nit leaves in an hour: `longwave cancel {self._message}`") from None
        if message.state != m.MESSAGE_STATE_CANCELLED or message.attempts:
            raise CliFailure(f"{_standing(message)} after {message.attempts} attempts, not CANCELLED")
        return f"{_standing(message)}, nothing left"

    @property
    def _message(self) -> str:
        if self._accepted is None:
            raise RuntimeError("nothing was submitted")
        return self._accepted.message


def ready(ops: str) -> str:
    """/ready says yes."""
    status, body = _get(ops, "/ready")
    try:
        reasons = json.loads(body)["reasons"]
    except (ValueError, KeyError, TypeError):
        raise CliFailure(f"HTTP {status} with a body that no engine gives\ngive the operations address") from None
    if status != http.client.OK or reasons:
        raise CliFailure(f"HTTP {status}: {', '.join(str(reason) for reason in reasons) or 'no reason given'}")
    return "yes"


def scrape(ops: str) -> str:
    """/metrics can be read as Prometheus reads it, and is an engine's."""
    status, body = _get(ops, "/metrics")
    if status != http.client.OK:
        raise CliFailure(f"HTTP {status}")
    try:
        families = list(text_string_to_metric_families(body.decode()))
    except ValueError as error:
        raise CliFailure(f"not readable: {error}") from None
    versions = [
        sample.labels.get("version", "")
        for family in families
        if family.name.startswith(BUILD_METRIC)
        for sample in family.samples
    ]
    if not versions:
        raise CliFailure("no longwave_build_info among them: this is not an engine\ngive the operations address")
    return f"{sum(len(family.samples) for family in families):,} series of version {versions[0]}"


def _submission(order: Order) -> Submission:
    made = Submission(
        campaign=order.campaign,
        recipient=order.recipient or fictitious_number(FICTITIOUS_INDEX),
        text=order.text,
        request_id=f"smoke-{secrets.token_hex(8)}",
        client_reference="longwave smoke",
    )
    if not order.recipient:
        later = Timestamp()
        later.FromSeconds(int(time.time()) + AHEAD_S)
        made.schedule_time.CopyFrom(later)
    return made


def _standing(message: m.Message) -> str:
    """State, reason and code of a message."""
    state = enum_name(m.MessageState.DESCRIPTOR, message.state)
    reason = enum_name(m.Reason.DESCRIPTOR, message.reason)
    return " ".join(part for part in (state, reason, message.code) if part)


def _drawn(letters: str, count: int) -> str:
    return "".join(secrets.choice(letters) for _ in range(count))


def _get(url: str, path: str) -> tuple[int, bytes]:
    """Status and body of a GET: no proxy, no redirect. Raises CliFailure."""
    no_address = usage(f"--ops {url}: write http://host:port")
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise no_address from None
    if not host or parts.scheme not in {"http", "https"}:
        raise no_address
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(host, port, timeout=CALL_S)
    try:
        connection.request("GET", f"{parts.path.rstrip('/')}{path}")
        response = connection.getresponse()
        return response.status, response.read(BODY_BYTES_MAX)
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise CliFailure(f"{parts.netloc} did not answer: {reason}\nis that LONGWAVE_HTTP_ADDRESS?") from None
    finally:
        connection.close()
