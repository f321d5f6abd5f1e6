"""What is kept in Redis opens under its own name and secret alone, and shows nothing to whoever reads there."""

from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.finals_seal import FORMAT, PREFIX, Seal
from engine.secrets import KEY_BYTES, NamedKey

SECRET: Final = NamedKey("k1", bytes(range(KEY_BYTES)), 1)
SEAL: Final = Seal(SECRET)
TENANT: Final = 3
MESSAGE: Final = 0x0AB1_2345_6789_ABCD
READ_US: Final = 1_800_000_000_000_000
TEXT: Final = b"Your table is ready, Ada."


def test_what_was_closed_opens_with_its_time() -> None:
    value = SEAL.close(TENANT, MESSAGE, TEXT, READ_US)
    assert SEAL.open(TENANT, MESSAGE, value) == (TEXT, READ_US)
    assert Seal(SECRET).open(TENANT, MESSAGE, value) == (TEXT, READ_US)
    assert SEAL.open(TENANT, MESSAGE, SEAL.close(TENANT, MESSAGE, b"", 0)) == (b"", 0)


def test_neither_name_nor_value_shows_anything() -> None:
    name, value = SEAL.name(TENANT, MESSAGE), SEAL.close(TENANT, MESSAGE, TEXT, READ_US)
    assert TEXT not in value
    assert READ_US.to_bytes(8, "big") not in value
    prefix, tenant, message = name[: len(PREFIX)], *name[len(PREFIX) :].split(":")
    assert prefix == "longwave:final:"
    assert (len(tenant), len(message)) == (16, 32)
    assert f"{MESSAGE:x}" not in name
    assert SEAL.close(TENANT, MESSAGE, TEXT, READ_US) != value, "two values of one answer must not look alike"


def test_patterns_match_their_names() -> None:
    name = SEAL.name(TENANT, MESSAGE)
    assert name.startswith(SEAL.names_of_tenant(TENANT).removesuffix("*"))
    assert name.endswith(SEAL.names_of_message(MESSAGE).rpartition("*")[2])
    others = {
        SEAL.name(TENANT + 1, MESSAGE),
        SEAL.name(TENANT, MESSAGE + 1),
        Seal(NamedKey("k1", b"x" * 32, 1)).name(3, 1),
    }
    assert name not in others
    assert len(others) == 3


@pytest.mark.parametrize(("tenant", "message"), [(TENANT + 1, MESSAGE), (TENANT, MESSAGE + 1), (MESSAGE, TENANT)])
def test_a_value_does_not_open_under_another_name(tenant: int, message: int) -> None:
    """Whoever may write in Redis cannot show one tenant what is another's."""
    assert SEAL.open(tenant, message, SEAL.close(TENANT, MESSAGE, TEXT, READ_US)) is None


@pytest.mark.parametrize(
    "secret",
    [NamedKey("k2", SECRET.secret, 1), NamedKey("k1", b"x" * KEY_BYTES, 1)],
    ids=["another name", "another secret"],
)
def test_a_value_does_not_open_after_a_rotation(secret: NamedKey) -> None:
    assert Seal(secret).open(TENANT, MESSAGE, SEAL.close(TENANT, MESSAGE, TEXT, READ_US)) is None


def test_every_changed_bit_keeps_it_closed() -> None:
    value = SEAL.close(TENANT, MESSAGE, TEXT, READ_US)
    for place in range(len(value) * 8):
        changed = bytearray(value)
        changed[place // 8] ^= 1 << place % 8
        assert SEAL.open(TENANT, MESSAGE, bytes(changed)) is None
    for length in range(len(value)):
        assert SEAL.open(TENANT, MESSAGE, value[:length]) is None
    assert SEAL.open(TENANT, MESSAGE, value + b"\x00") is None


def test_another_format_is_not_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    value = SEAL.close(TENANT, MESSAGE, TEXT, READ_US)
    monkeypatch.setattr("engine.finals_seal.FORMAT", b"\x02")
    later = Seal(SECRET)
    assert later.open(TENANT, MESSAGE, value) is None
    # Relabelled it does not open either: the format is bound.
    assert later.open(TENANT, MESSAGE, b"\x02" + value[len(FORMAT) :]) is None


@given(st.binary(max_size=200))
def test_no_bytes_raise(value: bytes) -> None:
    assert SEAL.open(TENANT, MESSAGE, value) is None
