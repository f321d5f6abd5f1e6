"""Targets over what Python hands to the core, and over Python's own readers of outside bytes.

Each takes any bytes. Only the documented errors may come out; anything else, a panic of the core above all, is a
finding.
"""

import asyncio
import base64
import os
import tempfile
from collections.abc import Callable
from typing import Any, Final, cast
from unittest import mock

from google.protobuf.message import DecodeError

from engine import _core
from engine.config import FILE_VARIABLE, Settings, load_settings, variable
from engine.errors import ConfigError, Refused, Verdict
from engine.metrics import Metrics
from engine.registry import keys as api_keys
from engine.registry import pages
from loadtest.carrier import segments as segments_of_carrier
from longwave.v1 import messaging_pb2 as pb
from server.watch import cursor_of, position_of
from server.webhook_connection import TELNYX_HEADERS, Connection, WebhookLimits
from server.webhooks import WebhookServer

NOW_US: Final = 1_790_000_000_000_000
TENANT: Final = 1
REGISTRY: Final = _core.Registry(1, [(TENANT, True)], [(10, TENANT, 7, "a", 1, 0, "", [12_025_550_100])], [])
KEYS: Final = _core.WebhookKeys([base64.b64encode(bytes(32)).decode()], [("k1", b"1" * 32)], 300_000_000)
KINDS: Final = (1, 2, 3)
WEBHOOK_VERDICTS: Final = {"bad_signature", "stale", "garbage"}
LISTING: Final = ("messages", "1", "")
SLOT: Final = 0
FIELDS: Final = list(Settings.model_fields)
SECRET: Final = "KEY-canary-5d20"


def admit(data: bytes) -> None:
    """A call: one answer, whose submissions all have a verdict; what is to be stored has as many rows of each kind."""
    admitter = _core.Admitter({"batch_messages_max": 100}, 1, 0)
    kind = KINDS[data[0] % len(KINDS)] if data else 1
    admission = admitter.admit([(kind, TENANT, data[1:])], REGISTRY, _core.Consent([]), NOW_US, 100)
    [(verdict, response, _, _, delay_us)] = admission.replies()
    assert Verdict(verdict) is not Verdict.UNSPECIFIED
    assert delay_us >= 0
    accepted = admission.accepted
    assert len(admission.message_rows(0, accepted)) == len(admission.body_rows(0, accepted)) == accepted
    if verdict == Verdict.ACCEPTED and kind == KINDS[1]:
        results = pb.SubmitMessagesResponse.FromString(response).results
        try:
            asked = pb.SubmitMessagesRequest.FromString(data[1:])
        except DecodeError:
            return  # the core reads each submission by itself: one that cannot be read is refused alone
        assert len(results) == len(asked.submissions)


def webhook(data: bytes) -> None:
    """A webhook that nobody signed is refused, whatever it says."""
    query, signature, timestamp, body = [*data.split(b"\0", 3), b"", b"", b""][:4]
    [verdict] = _core.Webhooks.read([(query, signature, timestamp, body)], KEYS, NOW_US).verdicts()
    assert verdict in WEBHOOK_VERDICTS


def text(data: bytes) -> None:
    """A text: its parts make it up again, as many as it is said to cost."""
    whole = data.decode("utf-8", "replace")
    _, segments, units, _ = _core.segment(whole)
    assert segments >= 0
    assert units >= 0
    try:
        parts = _core.split(whole)
    except ValueError:
        return  # past 255 parts, as documented
    assert "".join(part for part, _ in parts) == whole
    assert sum(count for _, count in parts) == units
    # The simulated carrier counts by a reading of the standard of its own.
    gsm7 = segments_of_carrier.is_gsm7(whole)
    if whole:
        assert _core.segment(whole)[0] == ("GSM-7" if gsm7 else "UCS-2")
        assert segments == segments_of_carrier.count_parts(whole, gsm7=gsm7)
    encoded = _core.smart_encode(whole)
    assert encoded is None or _core.segment(encoded)[0] == "GSM-7"


def tokens(data: bytes) -> None:
    """Page tokens and cursors: another's is refused, one of ours means what it meant."""
    given = data.decode("utf-8", "replace")
    for read in (lambda: pages.after(given, *LISTING), lambda: position_of(given, SLOT)):
        try:
            read()
        except Refused as refused:
            assert refused.verdict in {Verdict.INVALID_PAGE_TOKEN, Verdict.INVALID_CURSOR}  # noqa: PT017 - it is the finding
    if given and "\0" not in given and len(given.encode()) <= 63:
        assert pages.after(pages.issue(given, *LISTING), *LISTING) == given
    position = int.from_bytes(data[:7], "big")
    assert position_of(cursor_of(position, SLOT), SLOT) == position


def ids(data: bytes) -> None:
    """Ids and numbers read back as what they were."""
    given = data.decode("utf-8", "replace")
    identity = _core.parse_short_id(given)
    assert identity is None or _core.short_id(identity) == given.lower()
    digits = _core.parse_phone(given)
    assert digits is None or _core.parse_phone(f"+{digits}") == digits


def config(data: bytes) -> None:
    """Settings from an environment and a file: whole, or refused in sentences that hold no secret."""
    pairs, _, file = data.partition(b"\0\0")
    environment = {variable("telnyx_api_key"): SECRET, variable("store_url"): "sqlite:///x.db"}
    for pair in pairs.split(b"\0"):
        name, _, value = pair.decode("utf-8", "replace").partition("=")
        if name and value.isprintable() and "=" not in name:
            field = FIELDS[int(name)] if name.isdecimal() and int(name) < len(FIELDS) else name
            environment[variable(field)] = value
    with tempfile.NamedTemporaryFile(suffix=".toml") as written:
        if file:
            written.write(file)
            written.flush()
            environment[FILE_VARIABLE] = written.name
        with mock.patch.dict(os.environ, environment, clear=True):
            try:
                settings = load_settings()
            except ConfigError as error:
                assert SECRET not in str(error)  # noqa: PT017 - it is the finding
            else:
                assert SECRET not in repr(settings)


def keys(data: bytes) -> None:
    """Keys as callers present them: what has the form of one is itself, and no other string has its hash."""
    given = data.decode("utf-8", "replace")
    token = api_keys.parse(given)
    if token is None:
        return
    assert token.text == given
    assert token.prefix in given
    assert given not in repr(token)
    stored = api_keys.keyed_hash(b"secret", token)
    assert api_keys.matches(b"secret", token, stored)
    assert not api_keys.matches(b"other", token, stored)


class _Wire:
    """A transport that goes nowhere."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = False

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return ("127.0.0.1", 40_000) if name == "peername" else default

    def write(self, data: bytes) -> None:
        self.written += data

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        return

    def is_reading(self) -> bool:
        return True

    def pause_reading(self) -> None:
        return

    resume_reading = pause_reading


async def _stored(batch: list[Any]) -> list[int]:
    return [200] * len(batch)


_LOOP: Final = asyncio.new_event_loop()
_METRICS: Final = Metrics("0", "memory")


async def _feed(data: bytes) -> None:
    server = WebhookServer(_stored, {"telnyx": TELNYX_HEADERS}, _METRICS, limits=WebhookLimits(batch_wait_s=0.000_001))
    server._loop = asyncio.get_running_loop()
    wire = _Wire()
    connection = Connection(server)
    connection.connection_made(cast("asyncio.Transport", wire))
    step = 1 + data[0] % 64 if data else 1
    for start in range(1, len(data), step):
        connection.data_received(data[start : start + step])
    for _ in range(6):
        await asyncio.sleep(0)
    if server._batch:
        server._hand_over()
    while server._handling:
        await asyncio.wait(server._handling)
    connection.connection_lost(None)
    assert wire.written == b"" or wire.written.startswith(b"HTTP/1.1 ")
    assert server.held_bytes == 0
    assert server.connections == 0


def webhook_http(data: bytes) -> None:
    """A connection of the receipts edge, cut into pieces: answers in HTTP or nothing, and nothing is held after it."""
    _LOOP.run_until_complete(_feed(data))


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    target.__name__: target for target in (admit, webhook, text, tokens, ids, config, keys, webhook_http)
}
