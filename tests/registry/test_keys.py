"""API keys as strings, and the secret file that their hashes depend on."""

import json
import os
import stat
import threading
from pathlib import Path

import pytest

from engine.errors import ConfigError
from engine.registry.keys import ALPHABET, keyed_hash, matches, mint, parse
from engine.registry.records import Role
from engine.secrets import Purpose, Secrets, add_key, open_secrets, read_secrets, use_second, write_secrets

NOW_US = 1_700_000_000_000_000


@pytest.mark.parametrize("role", list(Role))
def test_a_key_is_read_back_and_carries_enough_randomness(role: Role) -> None:
    token = mint(role)
    assert parse(token.text) == token
    _, letter, prefix, secret = token.text.split("_")
    assert (letter, prefix) == (role.name[0].lower(), token.prefix)
    assert len(secret) * 5 >= 128
    assert set(prefix + secret) <= set(ALPHABET)
    assert secret not in repr(token)


def test_no_two_keys_are_alike() -> None:
    tokens = [mint(Role.TENANT) for _ in range(1000)]
    assert len({token.prefix for token in tokens}) == len({token.text for token in tokens}) == 1000


@pytest.mark.parametrize(
    "text",
    [
        "",
        "lw_t_abcdefghijkl",
        "lw_t_abcdefghijkl_" + "a" * 25,
        "lw_x_abcdefghijkl_" + "a" * 32,
        "lw_t_abcdefghijk1_" + "a" * 32,
        "lw_t_abcdefghijkl_" + "A" * 32,
        "lw_t_abcdefghijkl_" + "a" * 32 + "\n",
        "lw_t_abcdefghijkl_" + "a" * 10_000,
        "lw_t_abcdefghijkl_" + "\uff41" * 32,
    ],
)
def test_what_has_not_the_form_is_no_key(text: str) -> None:
    assert parse(text) is None


def test_a_hash_needs_the_secret_and_the_whole_key() -> None:
    token, other = mint(Role.TENANT), mint(Role.TENANT)
    stored = keyed_hash(b"s" * 32, token)
    assert matches(b"s" * 32, token, stored)
    assert not matches(b"t" * 32, token, stored)
    assert not matches(b"s" * 32, other, stored)
    assert not matches(b"s" * 32, token, stored[:-1])


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "secrets"


def test_the_file_is_made_private_once(path: Path) -> None:
    made = open_secrets(path, create=True, now_us=NOW_US)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert open_secrets(path, create=True, now_us=NOW_US) == read_secrets(path) == made
    assert [key.name for key in made.api_key + made.callback] == ["k1", "k1"]
    assert made.api_key[0].secret != made.callback[0].secret
    assert len(made.api_key[0].secret) == 32
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_file_is_not_made_anew_when_the_store_depends_on_it(path: Path) -> None:
    with pytest.raises(ConfigError, match="restore it from its backup"):
        open_secrets(path, create=False, now_us=NOW_US)
    assert not path.exists()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o601])
def test_a_file_that_others_reach_is_refused(path: Path, mode: int) -> None:
    open_secrets(path, create=True, now_us=NOW_US)
    path.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}: run chmod 600"):
        read_secrets(path)


@pytest.mark.parametrize(
    ("mode", "reached"), [(0o440, False), (0o640, False), (0o460, True), (0o444, True), (0o441, True)]
)
def test_a_file_that_a_platform_mounts_is_read_through_its_group(
    path: Path, monkeypatch: pytest.MonkeyPatch, mode: int, *, reached: bool
) -> None:
    """Kubernetes mounts a secret as root's, readable for the group of the pod, and for nobody else."""
    made = open_secrets(path, create=True, now_us=NOW_US)
    path.chmod(mode)
    monkeypatch.setattr("engine.secrets.PLATFORM_UID", path.stat().st_uid)
    monkeypatch.setattr("os.geteuid", lambda: path.stat().st_uid + 1)
    if reached:
        with pytest.raises(ConfigError, match=f"mode {mode:04o}: run chmod 600"):
            read_secrets(path)
    else:
        assert read_secrets(path) == made


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{",
        '{"format": 1}',
        '{"format": 1, "api_key": [], "callback": []}',
        '{"format": 1, "api_key": [{"name": "k1", "secret": "abcd", "create_us": 0}], "callback": []}',
        '{"format": 1, "api_key": [{"name": "x", "secret": "' + "ab" * 32 + '", "create_us": 0}], "callback": []}',
    ],
)
def test_what_is_no_secret_file_is_refused_without_a_word_of_it(path: Path, content: str) -> None:
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="is not a secret file") as refused:
        read_secrets(path)
    assert "abab" not in str(refused.value)


def test_a_file_of_a_newer_format_is_refused(path: Path) -> None:
    path.write_text('{"format": 2}')
    path.chmod(0o600)
    with pytest.raises(ConfigError, match="newer longwave"):
        read_secrets(path)


def rotate(path: Path, *, drop: str, in_use: frozenset[str]) -> Secrets:
    """Both rounds."""
    add_key(path, Purpose.API_KEY, drop=drop, in_use=in_use, now_us=NOW_US + 1)
    return use_second(path, Purpose.API_KEY)


def test_rotation_keeps_two_keys_and_never_gives_a_name_twice(path: Path) -> None:
    first = open_secrets(path, create=True, now_us=NOW_US)
    second = rotate(path, drop="", in_use=frozenset({"k1"}))
    assert [key.name for key in second.api_key] == ["k2", "k1"]
    assert second.find(Purpose.API_KEY, "k1") == first.api_key[0].secret
    assert second.callback == first.callback
    third = rotate(path, drop="k1", in_use=frozenset({"k2"}))
    assert [key.name for key in third.api_key] == ["k3", "k2"]
    assert third.find(Purpose.API_KEY, "k1") is None
    assert read_secrets(path) == third
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_rotation_refuses_to_drop_a_key_in_use(path: Path) -> None:
    open_secrets(path, create=True, now_us=NOW_US)
    before = rotate(path, drop="", in_use=frozenset())
    with pytest.raises(ConfigError, match="key k1 of api_key is still in use"):
        rotate(path, drop="k1", in_use=frozenset({"k1"}))
    assert read_secrets(path) == before


def test_a_key_is_believed_before_it_is_used_and_a_name_is_never_given_twice(path: Path) -> None:
    first = open_secrets(path, create=True, now_us=NOW_US)
    added = add_key(path, Purpose.API_KEY, drop="", in_use=frozenset({"k1"}), now_us=NOW_US + 1)
    assert [key.name for key in added.api_key] == ["k1", "k2"]
    assert added.callback == first.callback
    used = use_second(path, Purpose.API_KEY)
    assert used.api_key == (added.api_key[1], added.api_key[0])
    assert read_secrets(path) == used
    # One that was added and never used goes as well; its name does not come back.
    again = add_key(path, Purpose.API_KEY, drop="k1", in_use=frozenset({"k2"}), now_us=NOW_US + 2)
    assert [key.name for key in again.api_key] == ["k2", "k3"]
    last = add_key(path, Purpose.API_KEY, drop="k3", in_use=frozenset({"k2"}), now_us=NOW_US + 3)
    assert [key.name for key in last.api_key] == ["k2", "k4"]
    assert [key.name for key in rotate(path, drop="k4", in_use=frozenset()).api_key] == ["k5", "k2"]


def test_a_file_keeps_its_owner_when_root_changes_it(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    open_secrets(path, create=True, now_us=NOW_US)
    owner = path.stat()
    given: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(os, "fchown", lambda _, uid, gid: given.append((uid, gid)))
    rotate(path, drop="", in_use=frozenset())
    assert given == [(owner.st_uid, owner.st_gid)] * 2
    monkeypatch.setattr(os, "geteuid", lambda: owner.st_uid or 1)
    monkeypatch.setattr("engine.secrets.PLATFORM_UID", -1)
    use_second(path, Purpose.API_KEY)
    assert len(given) == 2


def test_of_two_who_add_a_key_at_once_one_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both read one key; the second to write would give the name k2 to another secret."""
    open_secrets(path, create=True, now_us=NOW_US)
    writing, told = threading.Event(), []
    write = write_secrets

    def slowly(to: Path, live: Secrets) -> None:
        writing.set()
        if threading.current_thread() is not other:
            other.join(0.3)  # it waits for its turn, so nothing ends this early
        write(to, live)

    def add() -> None:
        writing.wait(10)
        with pytest.raises(ConfigError) as refused:
            add_key(path, Purpose.API_KEY, drop="", in_use=frozenset(), now_us=NOW_US)
        told.append(str(refused.value))

    monkeypatch.setattr("engine.secrets.write_secrets", slowly)
    other = threading.Thread(target=add)
    other.start()
    made = add_key(path, Purpose.API_KEY, drop="", in_use=frozenset(), now_us=NOW_US)
    other.join(10)
    assert read_secrets(path) == made
    assert "name k2 as the one to drop" in told[0]


def test_what_a_change_that_was_killed_left_is_cleared_by_the_next(path: Path) -> None:
    open_secrets(path, create=True, now_us=NOW_US)
    left = path.with_name(f"{path.name}.0123abcd.part")
    left.write_text("keys")
    rotate(path, drop="", in_use=frozenset())
    assert list(path.parent.iterdir()) == [path]


def test_what_is_used_or_depended_on_is_not_dropped_for_a_new_key(path: Path) -> None:
    open_secrets(path, create=True, now_us=NOW_US)
    with pytest.raises(ConfigError, match="add a second one first"):
        use_second(path, Purpose.CALLBACK)
    with pytest.raises(ConfigError, match="leave k1 out"):
        add_key(path, Purpose.CALLBACK, drop="k1", in_use=frozenset(), now_us=NOW_US)
    before = add_key(path, Purpose.CALLBACK, drop="", in_use=frozenset(), now_us=NOW_US)
    for drop in ("", "k1"):
        with pytest.raises(ConfigError, match="name k2 as the one to drop"):
            add_key(path, Purpose.CALLBACK, drop=drop, in_use=frozenset(), now_us=NOW_US)
    with pytest.raises(ConfigError, match="key k2 of callback is still in use"):
        add_key(path, Purpose.CALLBACK, drop="k2", in_use=frozenset({"k2"}), now_us=NOW_US)
    assert read_secrets(path) == before


def test_no_repr_shows_a_secret(path: Path) -> None:
    secrets: Secrets = open_secrets(path, create=True, now_us=NOW_US)
    assert json.loads(path.read_text())["api_key"][0]["secret"] == secrets.api_key[0].secret.hex()
    assert repr(secrets.api_key[0].secret) not in repr(secrets)
    assert secrets.api_key[0].secret.hex() not in repr(secrets)
