"""Telnyx's webhooks as tables: signature, window, key rotation and the MAC of our callback URL.

What a webhook of good standing does to a message is in `tests/corridor/test_receipts.py`.
"""

import base64
import hashlib
import hmac
import json
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from engine import _core
from tests.corridor.engine_fixture import US, Signing, inbound_body, receipt_body

GOLDEN: Final[dict[str, Any]] = json.loads(
    (Path(__file__).resolve().parents[1] / "golden" / "webhook_signature_vectors.json").read_text()
)["telnyx"]
AT_US: Final = int(GOLDEN["timestamp"]) * US
WINDOW_US: Final = 300 * US
MAC_KEY: Final = b"m" * 32
OLD: Final = Signing(Ed25519PrivateKey.from_private_bytes(b"o" * 32))
NEW: Final = Signing(Ed25519PrivateKey.from_private_bytes(b"n" * 32))


def read(
    query: bytes, signature: bytes, timestamp: bytes, body: bytes, *, keys: Any = None, now_us: int = AT_US
) -> str:
    """The verdict on one webhook, by the golden key unless others are given."""
    keys = keys or _core.WebhookKeys([GOLDEN["public_key_base64"]], [("k1", MAC_KEY)], WINDOW_US)
    [verdict] = _core.Webhooks.read([(query, signature, timestamp, body)], keys, now_us).verdicts()
    return verdict


def golden() -> tuple[bytes, bytes, bytes]:
    """Signature, timestamp and body of the vector."""
    return GOLDEN["signature_base64"].encode(), GOLDEN["timestamp"].encode(), GOLDEN["raw_body"].encode()


def test_the_golden_vector_passes() -> None:
    assert read(b"", *golden()) == "receipt"


def test_the_golden_key_is_what_its_seed_gives() -> None:
    signing = Signing(Ed25519PrivateKey.from_private_bytes(bytes.fromhex(GOLDEN["key_seed_hex"])))
    assert signing.public_base64 == GOLDEN["public_key_base64"]
    assert signing.sign("", GOLDEN["raw_body"].encode(), AT_US).signature == GOLDEN["signature_base64"].encode()


@pytest.mark.parametrize("part", ["signature", "timestamp", "body"])
def test_one_flipped_bit_anywhere_fails(part: str) -> None:
    parts: dict[str, Any] = dict(zip(("signature", "timestamp", "body"), golden(), strict=True))
    original = base64.b64decode(parts["signature"]) if part == "signature" else parts[part]
    passed = []
    for place in range(len(original)):
        for bit in range(8):
            flipped = bytearray(original)
            flipped[place] ^= 1 << bit
            changed = base64.b64encode(flipped) if part == "signature" else bytes(flipped)
            if read(b"", **(parts | {part: changed})) not in {"bad_signature", "stale"}:
                passed.append((place, bit))
    assert passed == []


@pytest.mark.parametrize(
    ("part", "value"),
    [
        ("signature", b""),
        ("signature", b"not base64 at all!"),
        ("signature", base64.b64encode(b"\0" * 63)),
        ("signature", base64.b64encode(b"\0" * 64)),
        ("signature", GOLDEN["signature_base64"].encode() + b"=="),
        ("timestamp", b""),
        ("timestamp", b"yesterday"),
        ("timestamp", GOLDEN["timestamp"].encode() + b".0"),
        ("timestamp", b"99999999999999999999"),
        ("timestamp", b"\xff"),
        ("body", b""),
        ("body", json.dumps(json.loads(GOLDEN["raw_body"])).encode()),  # the same JSON, written anew
    ],
)
def test_what_is_not_the_signed_bytes_fails(part: str, value: bytes) -> None:
    parts: dict[str, Any] = dict(zip(("signature", "timestamp", "body"), golden(), strict=True))
    assert read(b"", **(parts | {part: value})) == "bad_signature"


@pytest.mark.parametrize(
    ("off_us", "verdict"),
    [
        (-WINDOW_US, "receipt"),
        (WINDOW_US, "receipt"),
        (-WINDOW_US - 1, "stale"),
        (WINDOW_US + 1, "stale"),
        (10**15, "stale"),
        (-(10**15), "stale"),
    ],
)
def test_the_window_is_five_minutes_both_ways(off_us: int, verdict: str) -> None:
    assert read(b"", *golden(), now_us=AT_US + off_us) == verdict


@pytest.mark.parametrize("signing", [OLD, NEW])
@pytest.mark.parametrize(("live", "verdict"), [((OLD, NEW), "receipt"), ((), "bad_signature")])
def test_two_keys_are_valid_while_one_replaces_the_other(
    signing: Signing, live: tuple[Signing, ...], verdict: str
) -> None:
    keys = _core.WebhookKeys([one.public_base64 for one in live], [], WINDOW_US)
    sent = signing.sign("", receipt_body("e1", "delivered", provider_id="p1"), AT_US)
    assert read(b"", sent.signature, sent.timestamp, sent.body, keys=keys) == verdict


@pytest.mark.parametrize("signing", [OLD, NEW])
def test_a_key_that_is_gone_signs_nothing(signing: Signing) -> None:
    keys = _core.WebhookKeys([(NEW if signing is OLD else OLD).public_base64], [], WINDOW_US)
    sent = signing.sign("", receipt_body("e1", "delivered", provider_id="p1"), AT_US)
    assert read(b"", sent.signature, sent.timestamp, sent.body, keys=keys) == "bad_signature"


@pytest.mark.parametrize("key", ["", "AAAA", base64.b64encode(b"k" * 31).decode(), "not base64"])
def test_a_public_key_that_is_none_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="public key"):
        _core.WebhookKeys([key], [], WINDOW_US)


BODY: Final = receipt_body("e1", "delivered", provider_id="p1")


@pytest.mark.parametrize(
    ("body", "verdict"),
    [
        (BODY, "receipt"),
        (receipt_body("e1", "sent", provider_id="p1"), "receipt"),
        (receipt_body("e1", "delivered"), "garbage"),  # of nobody knows what
        (receipt_body("", "delivered", provider_id="p1"), "garbage"),
        (receipt_body("e" * 101, "delivered", provider_id="p1"), "garbage"),
        (receipt_body("e1", "a status of next year", provider_id="p1"), "other"),
        (inbound_body("e1", "hello", sender="+12025550123"), "inbound"),
        (b'{"data":{"id":"e1","event_type":"number.ported"}}', "other"),
        (b'{"data":{"id":"e1","event_type":"message.sent"}}', "garbage"),
        (b'{"data":{"event_type":"message.sent"}}', "garbage"),
        (b"{}", "garbage"),
        (b"", "garbage"),
        (b"\xff\xfe", "garbage"),
        (b"[" * 5000, "garbage"),
    ],
)
def test_what_a_signed_body_is(body: bytes, verdict: str) -> None:
    sent = NEW.sign("", body, AT_US)
    keys = _core.WebhookKeys([NEW.public_base64], [], WINDOW_US)
    assert read(b"", sent.signature, sent.timestamp, sent.body, keys=keys) == verdict


def mac(identity: str, generation: str, key: bytes = MAC_KEY) -> str:
    """As the contract has it, not as the core computes it."""
    return hmac.new(key, f"telnyx|{identity}|{generation}".encode(), hashlib.sha256).digest()[:16].hex()


M: Final = _core.short_id(123_456_789_012_345)
OTHER: Final = _core.short_id(123_456_789_012_346)
RIGHT: Final = mac(M, "1")


@pytest.mark.parametrize(
    ("query", "verdict"),
    [
        (f"m={M}&g=1&k=k1&s={RIGHT}", "receipt"),
        (f"s={RIGHT}&k=k1&g=1&m={M}", "receipt"),
        (f"m={M}&g=1&k=k1&s={RIGHT}&utm=x", "receipt"),
        ("", "receipt"),  # by the provider's id alone
        ("x=1", "receipt"),
        (f"m={M}&g=2&k=k1&s={RIGHT}", "wrong_mac"),
        (f"m={OTHER}&g=1&k=k1&s={RIGHT}", "wrong_mac"),
        (f"m={M}&g=1&k=k2&s={RIGHT}", "wrong_mac"),
        (f"m={M}&g=1&k=k1&s={RIGHT.upper()}", "wrong_mac"),
        (f"m={M}&g=1&k=k1&s={RIGHT[:-1]}", "wrong_mac"),
        (f"m={M}&g=1&k=k1&s={RIGHT[:-1]}{'0' if RIGHT[-1] != '0' else '1'}", "wrong_mac"),
        (f"m={M}&g=1&k=k1&s=", "wrong_mac"),
        (f"m={M}&g=1&k=k1", "wrong_mac"),
        (f"g=1&k=k1&s={RIGHT}", "wrong_mac"),
        (f"m=&g=1&k=k1&s={RIGHT}", "wrong_mac"),
        (f"m={M}&g=65537&k=k1&s={RIGHT}", "wrong_mac"),
        (f"m={M}&g=1&k=k1&s={mac(M, '1', b'x' * 32)}", "wrong_mac"),
    ],
)
def test_the_mac_of_the_callback(query: str, verdict: str) -> None:
    sent = NEW.sign(query, BODY, AT_US)
    keys = _core.WebhookKeys([NEW.public_base64], [("k1", MAC_KEY)], WINDOW_US)
    assert read(query.encode(), sent.signature, sent.timestamp, sent.body, keys=keys) == verdict


@pytest.mark.parametrize("name", ["k1", "k2"])
def test_two_mac_keys_are_live(name: str) -> None:
    keys = _core.WebhookKeys([NEW.public_base64], [("k2", b"2" * 32), ("k1", MAC_KEY)], WINDOW_US)
    query = f"m={M}&g=1&k={name}&s={mac(M, '1', MAC_KEY if name == 'k1' else b'2' * 32)}"
    sent = NEW.sign(query, BODY, AT_US)
    assert read(query.encode(), sent.signature, sent.timestamp, sent.body, keys=keys) == "receipt"
