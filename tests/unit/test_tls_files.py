"""PEM files towards a server: each that is amiss is named, with what to do, and nothing of its content."""

import ssl
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from engine.errors import ConfigError
from engine.tls_files import TlsFiles
from tests.servers.certificates import make_certificates

PREFIX = "LONGWAVE_REDIS_TLS"


@pytest.fixture
def files(tmp_path: Path) -> TlsFiles:
    made = make_certificates(tmp_path / "own")
    return TlsFiles(PREFIX, made.authority, made.certificate, made.key)


def with_file(files: TlsFiles, field: str, path: Path) -> TlsFiles:
    changed: dict[str, Any] = {field: path}
    return replace(files, **changed)


def refusal(files: TlsFiles) -> str:
    with pytest.raises(ConfigError) as refused:
        files.context()
    [problem] = refused.value.problems
    return problem


def test_the_authorities_alone_are_believed_and_the_name_is_checked(files: TlsFiles) -> None:
    context = files.context()
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert [found["subject"] for found in context.get_ca_certs()] == [((("commonName", "authority of own"),),)]


@pytest.mark.parametrize(("field", "kind"), [("authorities", "CA"), ("certificate", "CERT"), ("key", "KEY")])
def test_a_file_that_is_not_there_is_named(files: TlsFiles, tmp_path: Path, field: str, kind: str) -> None:
    absent = tmp_path / "absent.pem"
    variable = f"{PREFIX}_{kind}_FILE"
    assert refusal(with_file(files, field, absent)) == (
        f"{variable} {absent}: No such file or directory: put it there, or set {variable} to where it is"
    )


@pytest.mark.parametrize(("field", "kind"), [("authorities", "CA"), ("certificate", "CERT"), ("key", "KEY")])
def test_a_file_that_may_not_be_read_is_named(
    files: TlsFiles, monkeypatch: pytest.MonkeyPatch, field: str, kind: str
) -> None:
    shut, read = getattr(files, field), Path.read_bytes

    def read_bytes(path: Path) -> bytes:
        # Root, as whom tests may run, is refused nothing.
        if path == shut:
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    assert refusal(files) == (
        f"{PREFIX}_{kind}_FILE {shut}: Permission denied: let the user that runs longwave read it"
    )


@pytest.mark.parametrize(
    ("field", "kind", "words"),
    [
        ("authorities", "CA", "no certificate in it"),
        ("certificate", "CERT", "no certificate in it"),
        ("key", "KEY", "no private key in it"),
    ],
)
def test_a_file_of_something_else_is_named(files: TlsFiles, tmp_path: Path, field: str, kind: str, words: str) -> None:
    other = tmp_path / "other.pem"
    other.write_text("hunter2")
    said = refusal(with_file(files, field, other))
    assert said == f"{PREFIX}_{kind}_FILE {other}: {words}: name a file of PEM"


def pem(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, passphrase: bytes = b"") -> bytes:
    lock: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        lock = serialization.BestAvailableEncryption(passphrase)
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, lock)


@pytest.mark.parametrize("kind", ["of the same kind", "of another kind"])
def test_a_key_of_another_certificate_is_told(files: TlsFiles, tmp_path: Path, kind: str) -> None:
    path = tmp_path / "other.key"
    same = kind == "of the same kind"
    path.write_bytes(pem(ec.generate_private_key(ec.SECP256R1()) if same else rsa.generate_private_key(65537, 2048)))
    assert refusal(replace(files, key=path)) == (
        f"{PREFIX}_KEY_FILE {path}: it is not the key of {files.certificate}: name the two that were issued together"
    )


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(files: TlsFiles, tmp_path: Path) -> None:
    path = tmp_path / "locked.key"
    path.write_bytes(pem(ec.generate_private_key(ec.SECP256R1()), b"hunter2"))
    assert refusal(replace(files, key=path)).endswith("it wants a passphrase: store the key without one")


def test_a_certificate_that_was_cut_is_told(files: TlsFiles, tmp_path: Path) -> None:
    assert files.certificate is not None
    path = tmp_path / "cut.pem"
    path.write_bytes(files.certificate.read_bytes()[:200])
    said = refusal(replace(files, certificate=path))
    assert said.startswith(f"{PREFIX}_CERT_FILE {path}: it cannot be read together with {files.key}")
