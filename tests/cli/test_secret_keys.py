"""`longwave secret`: what is shown of keys, and that none goes which something depends on."""

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Ran, Run


@pytest.fixture
def file(run: Run) -> Path:
    """The secret file beside a store with one admin key."""
    assert run("bootstrap").code == 0
    return Path("longwave.db.secrets")


def states(ran: Ran) -> dict[str, list[tuple[str, str]]]:
    found: dict[str, list[tuple[str, str]]] = {}
    for row in ran.json_lines:
        found.setdefault(row["purpose"], []).append((row["name"], row["state"]))
    return found


def test_keys_are_listed_without_a_byte_of_them(file: Path, run: Run) -> None:
    ran = run("secret", "list", "--json")
    assert states(ran) == {"api-key": [("k1", "in use")], "callback": [("k1", "in use")]}
    people = run("secret", "list").out
    assert "in use" in people
    for entries in json.loads(file.read_text(encoding="ascii")).values():
        if isinstance(entries, list):
            assert entries[0]["secret"] not in ran.out + people


@pytest.mark.parametrize("purpose", ["api-key", "callback"])
def test_a_key_is_added_then_used(file: Path, run: Run, purpose: str) -> None:
    added = run("secret", "add", purpose, "--json")
    assert states(added)[purpose] == [("k1", "in use"), ("k2", "believed")]
    used = run("secret", "use", purpose, "--json")
    assert states(used)[purpose] == [("k2", "in use"), ("k1", "believed")]
    assert file.stat().st_mode & 0o777 == 0o600


def test_a_key_that_api_keys_depend_on_stays(file: Path, run: Run) -> None:
    for command in (["add", "api-key"], ["use", "api-key"]):
        assert run("secret", *command).code == 0
    before = file.read_bytes()
    refused = run("secret", "add", "api-key", "--drop", "k1")
    assert refused.code == 2
    assert "key k1 of api_key is still in use" in refused.err
    assert file.read_bytes() == before


def test_a_callback_key_goes_when_it_is_named(file: Path, run: Run) -> None:
    for command in (["add", "callback"], ["use", "callback"]):
        assert run("secret", *command).code == 0
    assert "name k1 as the one to drop" in run("secret", "add", "callback").err
    ran = run("secret", "add", "callback", "--drop", "k1", "--json")
    assert states(ran)["callback"] == [("k2", "in use"), ("k3", "believed")]
    assert file.exists()


def test_what_cannot_be_done_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run("secret", "add", "passwords").code == 2
    assert run("bootstrap").code == 0
    monkeypatch.setenv("LONGWAVE_STORE_URL", "sqlite:///elsewhere.db")
    monkeypatch.setenv("LONGWAVE_SECRET_FILE", "longwave.db.secrets")
    ran = run("secret", "add", "api-key")
    assert ran.code == 2
    assert "there is no store" in ran.err
    assert "add a second one first" in run("secret", "use", "callback").err
    Path("longwave.db.secrets").unlink()
    assert "No such file" in run("secret", "list").err
