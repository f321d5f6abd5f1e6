"""Who calls: keys in metadata, expiry, revocation, rotation, lock-out, bounds."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import pytest

from engine.errors import Refused, Verdict
from engine.registry.api_keys import KeyRow
from engine.registry.keys import Token, keyed_hash, mint
from engine.registry.records import Role
from engine.secrets import Purpose, Secrets, add_key, open_secrets, use_second
from server import auth
from server.auth import Authenticator, Principal, require

NOW_US = 1_700_000_000_000_000
PEER = "ipv4:127.0.0.1:40000"


@pytest.fixture
def secrets(tmp_path: Path) -> Secrets:
    return open_secrets(tmp_path / "secrets", create=True, now_us=NOW_US)


Row = Callable[..., KeyRow]


@pytest.fixture
def row(secrets: Secrets) -> Row:
    def make(token: Token, tenant: int | None = 7, expire_us: int | None = None) -> KeyRow:
        key = secrets.api_key[0]
        owner = tenant if token.role is Role.TENANT else None
        return KeyRow(token.prefix, owner, token.role, keyed_hash(key.secret, token), key.name, expire_us)

    return make


def bearer(token: Token) -> list[tuple[str, str | bytes]]:
    return [("user-agent", "x"), ("authorization", f"Bearer {token.text}")]


def refusal(
    authenticator: Authenticator, metadata: auth.Metadata | None, at_us: int = NOW_US, peer: str = PEER
) -> Refused:
    with pytest.raises(Refused) as refused:
        authenticator.authenticate(metadata, peer, now_us=at_us)
    assert refused.value.verdict is Verdict.UNAUTHENTICATED
    return refused.value


@pytest.fixture
def token() -> Token:
    return mint(Role.TENANT)


@pytest.fixture
def authenticator(secrets: Secrets, row: Row, token: Token) -> Authenticator:
    made = Authenticator(secrets)
    made.replace(1, [row(token)])
    return made


def test_a_key_names_its_owner_in_either_header(authenticator: Authenticator, token: Token) -> None:
    expected = Principal(7, Role.TENANT, token.prefix)
    for metadata in (
        bearer(token),
        [("authorization", f"bearer  {token.text} ")],
        [("x-api-key", token.text)],
        [("x-api-key", token.text), *bearer(token)],
    ):
        assert authenticator.authenticate(metadata, PEER, now_us=NOW_US) == expected


def test_an_admin_key_has_no_tenant(secrets: Secrets, row: Row) -> None:
    admin = mint(Role.ADMIN)
    authenticator = Authenticator(secrets)
    authenticator.replace(1, [row(admin)])
    assert authenticator.authenticate(bearer(admin), PEER, now_us=NOW_US).tenant is None


def test_every_bad_credential_gets_the_same_words(authenticator: Authenticator, token: Token) -> None:
    text = token.text
    wrong_secret = text[:-1] + ("a" if text[-1] != "a" else "b")
    bad: list[auth.Metadata | None] = [
        None,
        [],
        [("authorization", "")],
        [("authorization", f"Basic {text}")],
        [("authorization", b"Bearer " + text.encode())],
        [("x-api-key", wrong_secret)],
        [("x-api-key", mint(Role.TENANT).text)],
        [("x-api-key", text.replace("lw_t_", "lw_a_"))],
        [("x-api-key", text), ("authorization", f"Bearer {wrong_secret}")],
        [("x-api-key", "é" * 50)],
        [("x-api-key", "a" * 100_000)],
    ]
    assert len({refusal(authenticator, metadata, peer=f"ipv4:{n}:1").detail for n, metadata in enumerate(bad)}) == 1


def test_a_row_that_was_made_admin_behind_our_back_lets_nobody_in(secrets: Secrets, row: Row, token: Token) -> None:
    authenticator = Authenticator(secrets)
    authenticator.replace(1, [dataclasses.replace(row(token), role=Role.ADMIN)])
    refusal(authenticator, bearer(token))


def test_nobody_passes_before_the_table_is_there(secrets: Secrets, token: Token) -> None:
    refusal(Authenticator(secrets), bearer(token))


def test_a_key_expires_even_where_it_was_verified_before(secrets: Secrets, row: Row, token: Token) -> None:
    authenticator = Authenticator(secrets)
    authenticator.replace(1, [row(token, expire_us=NOW_US + 10)])
    authenticator.authenticate(bearer(token), PEER, now_us=NOW_US + 9)
    refusal(authenticator, bearer(token), NOW_US + 10)


def test_a_revoked_key_is_out_with_the_next_table(authenticator: Authenticator, token: Token) -> None:
    authenticator.authenticate(bearer(token), PEER, now_us=NOW_US)
    authenticator.replace(2, [])
    refusal(authenticator, bearer(token))


def test_a_key_that_moved_to_another_tenant_moves_at_once(authenticator: Authenticator, row: Row, token: Token) -> None:
    authenticator.authenticate(bearer(token), PEER, now_us=NOW_US)
    authenticator.replace(2, [row(token, tenant=8)])
    assert authenticator.authenticate(bearer(token), PEER, now_us=NOW_US).tenant == 8


def test_an_address_is_locked_out_after_ten_failures_and_let_in_again(
    authenticator: Authenticator, row: Row, token: Token
) -> None:
    newcomer = mint(Role.TENANT)
    authenticator.replace(2, [row(token), row(newcomer)])
    authenticator.authenticate(bearer(token), PEER, now_us=NOW_US)
    for port in range(auth.FAILURES_MAX):
        assert refusal(authenticator, bearer(mint(Role.TENANT)), peer=f"ipv4:127.0.0.1:{port}").retry_delay_us == 0
    # Who was verified before is not hurt, a key not seen yet waits, and another address does not.
    authenticator.authenticate(bearer(token), PEER, now_us=NOW_US + 1)
    assert refusal(authenticator, bearer(newcomer), NOW_US + 1).retry_delay_us == auth.LOCKED_OUT_US - 1
    authenticator.authenticate(bearer(newcomer), "ipv4:127.0.0.2:1", now_us=NOW_US + 1)
    authenticator.authenticate(bearer(newcomer), PEER, now_us=NOW_US + auth.LOCKED_OUT_US)


def test_failures_far_apart_lock_nobody_out(authenticator: Authenticator) -> None:
    for number in range(3 * auth.FAILURES_MAX):
        at_us = NOW_US + number * auth.FAILURE_WINDOW_US
        assert refusal(authenticator, bearer(mint(Role.TENANT)), at_us).retry_delay_us == 0


def test_a_clock_set_back_locks_nobody_out_for_longer(authenticator: Authenticator, row: Row) -> None:
    newcomer = mint(Role.TENANT)
    authenticator.replace(2, [row(newcomer)])
    for _ in range(auth.FAILURES_MAX):
        refusal(authenticator, bearer(mint(Role.TENANT)))
    authenticator.authenticate(bearer(newcomer), PEER, now_us=NOW_US - 3_600_000_000)


def test_memory_is_bounded(secrets: Secrets, row: Row, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "VERIFIED_MAX", 5)
    monkeypatch.setattr(auth, "ADDRESSES_MAX", 5)
    tokens = [mint(Role.TENANT) for _ in range(20)]
    authenticator = Authenticator(secrets)
    authenticator.replace(1, [row(token) for token in tokens])
    for number, token in enumerate(tokens):
        authenticator.authenticate(bearer(token), PEER, now_us=NOW_US)
        refusal(authenticator, bearer(mint(Role.TENANT)), peer=f"ipv4:10.0.0.{number}:1")
    assert len(authenticator._verified) == len(authenticator._failures) == 5


def test_keys_move_to_a_new_secret_while_they_are_used(
    tmp_path: Path, secrets: Secrets, row: Row, token: Token
) -> None:
    old_row = row(token)
    add_key(tmp_path / "secrets", Purpose.API_KEY, drop="", in_use=frozenset({"k1"}), now_us=NOW_US)
    rotated = use_second(tmp_path / "secrets", Purpose.API_KEY)
    authenticator = Authenticator(rotated)
    authenticator.replace(1, [old_row])
    authenticator.authenticate(bearer(token), PEER, now_us=NOW_US)
    assert authenticator.take_rehashes() == {token.prefix: ("k2", keyed_hash(rotated.api_key[0].secret, token))}
    assert authenticator.take_rehashes() == {}
    # Once its secret is dropped, a key that was never seen meanwhile is out.
    last = add_key(tmp_path / "secrets", Purpose.API_KEY, drop="k1", in_use=frozenset(), now_us=NOW_US)
    shut = Authenticator(last)
    shut.replace(1, [old_row])
    refusal(shut, bearer(token))
    assert old_row.hash_key == secrets.api_key[0].name


def test_an_unknown_prefix_costs_one_hash_like_a_known_one(
    authenticator: Authenticator, token: Token, monkeypatch: pytest.MonkeyPatch
) -> None:
    compared: list[str] = []

    def counting(_secret: bytes, presented: Token, _stored: bytes) -> bool:
        compared.append(presented.prefix)
        return False

    monkeypatch.setattr(auth, "matches", counting)
    stranger = mint(Role.TENANT)
    refusal(authenticator, bearer(token))
    refusal(authenticator, bearer(stranger))
    assert compared == [token.prefix, stranger.prefix]


def test_a_role_is_required() -> None:
    require(Principal(None, Role.ADMIN, ""), Role.ADMIN)
    with pytest.raises(Refused) as refused:
        require(Principal(1, Role.TENANT, ""), Role.ADMIN)
    assert refused.value.verdict is Verdict.PERMISSION_DENIED
