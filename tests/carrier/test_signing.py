"""Webhooks are signed as the provider signs them."""

import hashlib
import json
import stat
from pathlib import Path

import pytest

from loadtest.carrier.signing import Signer, SigningKeyError, key_seed_from, load_or_create_key_seed

VECTOR = json.loads((Path(__file__).parents[1] / "golden" / "webhook_signature_vectors.json").read_text())["telnyx"]


def test_golden_vector() -> None:
    signer = Signer(bytes.fromhex(VECTOR["key_seed_hex"]))
    timestamp, body = VECTOR["timestamp"].encode(), VECTOR["raw_body"].encode()
    assert hashlib.sha256(timestamp + b"|" + body).hexdigest() == VECTOR["signed_bytes_sha256"]
    assert signer.public_key_base64 == VECTOR["public_key_base64"]
    assert signer.signature(timestamp, body).decode() == VECTOR["signature_base64"]
    assert signer.wrong_signature(timestamp, body).decode() != VECTOR["signature_base64"]


def test_key_file_is_made_private_and_read_again(tmp_path: Path) -> None:
    path = tmp_path / "key"
    made = load_or_create_key_seed(path)
    assert len(made) == 32
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_create_key_seed(path) == made


def test_key_file_open_to_others_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    load_or_create_key_seed(path)
    path.chmod(0o640)
    with pytest.raises(SigningKeyError, match="0600"):
        load_or_create_key_seed(path)


def test_key_file_with_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_text("c2hvcnQ=\n")
    path.chmod(0o600)
    with pytest.raises(SigningKeyError, match="32 bytes"):
        load_or_create_key_seed(path)


def test_key_from_seed_depends_on_the_seed() -> None:
    assert key_seed_from(1) == key_seed_from(1) != key_seed_from(2)
