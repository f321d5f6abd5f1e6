"""`longwave cache`: filled for a campaign and cleared, over a real store and a real Redis."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest
import sqlalchemy as sa

from engine import _core
from engine.clock import Clock
from engine.config import load_settings
from engine.finals_seal import Seal, seals_of
from engine.registry import campaigns, tenants
from engine.registry.records import OnUnknown
from engine.secrets import open_secrets, read_secrets
from engine.stores.opened import mysql_store
from engine.stores.store import Callbacks
from longwave.v1 import messaging_pb2 as pb
from tests.cli.conftest import Run
from tests.servers.certificates import make_certificates
from tests.servers.mariadb import PASSWORD
from tests.servers.redis_server import RedisServer

pytestmark = pytest.mark.timeout(120)
FIRST_ID: Final = 0x0190_0000_0000_0000
DELIVERED: Final = 16
UNDELIVERED: Final = 17


@pytest.fixture
def store(
    monkeypatch: pytest.MonkeyPatch, new_database: Callable[[], str], tmp_path: Path, redis_server: RedisServer
) -> dict[str, int]:
    """Keys of tenants `acme`, `other` and `third`, each with a campaign of six messages; the fifth may still change."""
    settings = {
        "store_url": new_database(), "store_password": PASSWORD, "secret_file": str(tmp_path / "longwave.secrets"),
        "redis_url": redis_server.url, "redis_cache": "true",
    }  # fmt: skip
    for name, value in settings.items():
        monkeypatch.setenv(f"LONGWAVE_{name.upper()}", value)
    open_secrets(tmp_path / "longwave.secrets", create=True, now_us=1)
    return asyncio.run(filled())


async def filled() -> dict[str, int]:
    store = mysql_store(load_settings(), Clock())
    await store.open(Callbacks(lambda _error: None, lambda _stats: None, lambda _full: None))
    try:
        return await store.run_control(fill)
    finally:
        await store.close()


def fill(control: sa.Connection) -> dict[str, int]:
    keys, identity = {}, FIRST_ID
    for name, campaign in (("acme", "notices"), ("other", "notices"), ("third", "alone")):
        tenant = tenants.create_tenant(control, name, name, now_us=1)
        brand = tenants.create_brand(control, tenant, name, display_name=name, ein="12-3456789", now_us=1)
        made = campaigns.create_campaign(
            control, tenant, brand, campaign, tcr_campaign="", use_case="MIXED", on_unknown=OnUnknown.BY_CLASS,
            messaging_profile="", now_us=1,
        )  # fmt: skip
        keys[name] = tenant.key
        for number in range(6):
            state = UNDELIVERED if number == 4 else DELIVERED
            insert(control, identity, tenant.key, made.key, state)
            identity += 1
    return keys


def insert(control: sa.Connection, identity: int, tenant: int, campaign: int, state: int) -> None:
    """A message that was, by the columns that have no default."""
    record = pb.Submission(text=f"text of {identity}").SerializeToString()
    values: dict[str, Any] = {
        "id": identity, "tenant": tenant, "campaign": campaign, "sender": 12025550100, "recipient": 12025550101,
        "class": 2, "kind": 1, "encoding": 1, "segments": 1, "state": state, "reason": 11, "code": "", "seq": 1,
        "attempt": 1, "generation": 1, "counted": 0, "flags": 0, "due_us": 0, "accept_us": 1, "expires_us": 2,
        "updated_us": 2, "history": b"",
    }  # fmt: skip
    names = ", ".join(f"`{name}`" for name in values)
    places = ", ".join(f":{name}" for name in values)
    control.execute(sa.text(f"INSERT INTO messages ({names}) VALUES ({places})"), values)  # noqa: S608 - ours
    control.execute(
        sa.text("INSERT INTO bodies (id, record) VALUES (:id, :record)"), {"id": identity, "record": record}
    )


def seal() -> Seal:
    return seals_of(read_secrets(load_settings().secrets_path))[0]


def kept(redis_server: RedisServer) -> set[str]:
    """Names in Redis."""
    return set(redis_server.said("--scan", "--pattern", "longwave:final:*").decode().split())


def named(tenant: int, *places: int) -> set[str]:
    return {seal().name(tenant, FIRST_ID + place) for place in places}


def test_warm_keeps_the_newest_that_never_change(run: Run, store: dict[str, int], redis_server: RedisServer) -> None:
    ran = run("cache", "warm", "--campaign", "notices", "--tenant", "acme", "--limit", "3", "--json")
    assert (ran.code, ran.json) == (0, {"kept": 3})
    assert kept(redis_server) == named(store["acme"], 5, 3, 2)
    ran = run("cache", "warm", "--campaign", "campaigns/notices", "--tenant", "acme")
    assert ran.out == "5 messages of notices are kept for 300 s\n"
    assert kept(redis_server) == named(store["acme"], 5, 3, 2, 1, 0)
    assert 0 < int(redis_server.said("TTL", seal().name(store["acme"], FIRST_ID))) <= 300


def test_what_is_warm_is_the_answer_of_a_look_up(run: Run, store: dict[str, int], redis_server: RedisServer) -> None:
    assert run("cache", "warm", "--campaign", "alone").code == 0
    identity = FIRST_ID + 12
    value = redis_server.said("--raw", "GET", seal().name(store["third"], identity)).removesuffix(b"\n")
    opened = seal().open(store["third"], identity, value)
    assert opened is not None
    answer = pb.GetMessageResponse.FromString(opened[0])
    assert answer.message.name == f"messages/{_core.short_id(identity)}"
    assert answer.message.campaign == "campaigns/alone"
    assert answer.message.text == f"text of {identity}"
    assert abs(opened[1] - Clock().now_us()) < 60_000_000


@pytest.mark.parametrize("scanned", [3, 1])
def test_warm_walks_on_behind_its_pieces(
    run: Run, store: dict[str, int], redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch, scanned: int
) -> None:
    monkeypatch.setattr("engine.finals_by_hand.PIECE", 2)
    monkeypatch.setattr("engine.finals_by_hand.ROWS_SCANNED_MAX", scanned)
    assert run("cache", "warm", "--campaign", "notices", "--tenant", "acme", "--json").json == {"kept": 5}
    assert kept(redis_server) == named(store["acme"], 5, 3, 2, 1, 0)


def test_warm_of_what_is_not_there_is_a_sentence(
    run: Run, store: dict[str, int], redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store
    ran = run("cache", "warm", "--campaign", "nothing")
    assert (ran.code, ran.err) == (1, "longwave: there is no such campaign\n")
    ran = run("cache", "warm", "--campaign", "notices")
    assert ran.code == 1
    assert "name one by --tenant" in ran.err
    monkeypatch.setenv("LONGWAVE_REDIS_CACHE", "false")
    ran = run("cache", "warm", "--campaign", "alone")
    assert ran.code == 2
    assert "LONGWAVE_REDIS_CACHE is off" in ran.err
    assert kept(redis_server) == set()


def test_clear_by_message_by_tenant_and_all(run: Run, store: dict[str, int], redis_server: RedisServer) -> None:
    for tenant, campaign in (("acme", "notices"), ("other", "notices"), ("third", "alone")):
        assert run("cache", "warm", "--campaign", campaign, "--tenant", tenant).code == 0
    name = f"messages/{_core.short_id(FIRST_ID + 1)}"
    assert run("cache", "clear", "--message", name, "--json").json == {"cleared": 1}
    assert run("cache", "clear", "--message", _core.short_id(FIRST_ID + 1), "--json").json == {"cleared": 0}
    acme = named(store["acme"], 0, 2, 3, 5)
    assert kept(redis_server) >= acme
    assert run("cache", "clear", "--tenant", "acme", "--json").json == {"cleared": 4}
    assert not kept(redis_server) & acme
    assert len(kept(redis_server)) == 10
    ran = run("cache", "clear", "--all")
    assert ran.out == "10 cleared in Redis; nodes that do not hear of it drop theirs within 300 s\n"
    assert kept(redis_server) == set()


def test_clear_says_what_it_needs(run: Run, store: dict[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    assert store
    for arguments in ((), ("--all", "--tenant", "acme"), ("--message", "?!")):
        assert run("cache", "clear", *arguments).code == 2
    ran = run("cache", "clear", "--tenant", "nobody")
    assert (ran.code, ran.err) == (1, "longwave: no such resource for this key\n")
    monkeypatch.setenv("LONGWAVE_REDIS_CACHE", "false")
    monkeypatch.setenv("LONGWAVE_REDIS_URL", "")
    ran = run("cache", "clear", "--all")
    assert ran.code == 2
    assert "LONGWAVE_REDIS_URL is not set" in ran.err


def test_a_redis_that_is_not_there_is_a_sentence(run: Run, store: dict[str, int], redis_server: RedisServer) -> None:
    assert store
    redis_server.kill()
    ran = run("cache", "clear", "--all")
    assert ran.code == 1
    assert ran.err.startswith("longwave: Redis: ConnectionError")


def test_credentials_are_files_that_are_named_when_they_are_amiss(
    run: Run, store: dict[str, int], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A server that asks for a password and a certificate; all of it lies in files, as a platform mounts them."""
    assert store
    own, other = make_certificates(tmp_path / "own"), make_certificates(tmp_path / "other")
    (tmp_path / "password").write_text("spoken-elsewhere\n")
    (tmp_path / "redis").mkdir()
    server = RedisServer(tmp_path / "redis", "--requirepass", "spoken-elsewhere", certificates=own, asks_clients=True)
    monkeypatch.setenv("LONGWAVE_REDIS_URL", server.url)
    # A connection over TLS ends when the server has said so; this process, unlike a command's, goes on afterwards.
    monkeypatch.setenv("LONGWAVE_REDIS_WAIT_MS", "5000")
    for field, path in (
        ("PASSWORD", tmp_path / "password"),
        ("TLS_CA", own.authority),
        ("TLS_CERT", own.certificate),
        ("TLS_KEY", own.key),
    ):
        monkeypatch.setenv(f"LONGWAVE_REDIS_{field}_FILE", str(path))
    server.start()
    try:
        assert run("cache", "clear", "--all", "--json").json == {"cleared": 0}
        monkeypatch.setenv("LONGWAVE_REDIS_TLS_KEY_FILE", str(other.key))
        ran = run("cache", "clear", "--all")
        assert ran.code == 2
        advice = "name the two that were issued together"
        words = f"{other.key}: it is not the key of {own.certificate}: {advice}"
        assert ran.err == f"longwave: LONGWAVE_REDIS_TLS_KEY_FILE {words}\n"
        checks = {check["check"]: check for check in run("doctor", "--json").json["checks"]}
        assert (checks["Redis"]["level"], checks["Redis"]["advice"]) == ("fail", advice)
        monkeypatch.setenv("LONGWAVE_REDIS_TLS_KEY_FILE", str(own.key))
        checks = {check["check"]: check for check in run("doctor", "--json").json["checks"]}
        assert checks["Redis"]["level"] == "ok"
        (tmp_path / "password").write_text("spoken-wrongly")
        ran = run("cache", "clear", "--all")
        assert ran.code == 1
        assert ran.err.startswith("longwave: Redis: AuthenticationError")
        assert "spoken" not in ran.err + str(checks)
    finally:
        server.kill()
