"""What is kept in memory of messages that never change again: bounded in bytes and time, and each tenant's own."""

import re
from pathlib import Path
from typing import Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.finals import ENTRY_BYTES, KEPT_US, UNCHANGING, Finals

ROOT: Final = Path(__file__).parents[2]
BIG: Final = 1 << 20


def test_what_is_kept_is_found_by_its_tenant_alone() -> None:
    finals = Finals(BIG)
    finals.keep(1, 7, b"of one", 0)
    assert finals.find(1, 7, 1) == b"of one"
    assert finals.find(2, 7, 1) is None
    finals.keep(2, 7, b"of two", 0)
    assert finals.find(1, 7, 1) == b"of one"
    assert finals.find(2, 7, 1) == b"of two"


def test_nothing_is_found_when_its_time_is_over() -> None:
    finals = Finals(BIG)
    finals.keep(1, 7, b"whole", 10)
    finals.keep(1, 8, b"less", 10, left_us=5)
    finals.keep(1, 9, b"never more", 10, left_us=10 * KEPT_US)
    assert finals.find(1, 7, 10 + KEPT_US - 1) == b"whole"
    assert finals.find(1, 8, 14) == b"less"
    assert finals.find(1, 8, 15) is None
    assert finals.find(1, 7, 10 + KEPT_US) is None
    assert finals.find(1, 9, 10 + KEPT_US) is None
    assert (len(finals), finals.bytes) == (0, 0)


def test_a_hit_does_not_make_it_stay_longer() -> None:
    finals = Finals(BIG)
    finals.keep(1, 7, b"x", 0)
    assert finals.find(1, 7, KEPT_US - 1)
    assert finals.find(1, 7, KEPT_US) is None


def test_what_nobody_asks_for_leaves_memory_when_others_come() -> None:
    finals = Finals(BIG)
    for identity in range(10):
        finals.keep(1, identity, b"x", identity)
    finals.keep(1, 10, b"x", 8 + KEPT_US)
    assert len(finals) == 2


def test_the_least_recently_used_goes_first() -> None:
    finals = Finals(3 * (ENTRY_BYTES + 1))
    for identity in (1, 2, 3):
        finals.keep(1, identity, b"x", 0)
    finals.find(1, 1, 0)
    finals.keep(1, 4, b"x", 0)
    assert [identity for identity in range(1, 5) if finals.find(1, identity, 0)] == [1, 3, 4]


def test_what_takes_free_room_only_pushes_nothing_out() -> None:
    finals = Finals(2 * (ENTRY_BYTES + 1))
    finals.keep(1, 1, b"x", 0)
    assert finals.lacks(1, 2, 1)
    assert not finals.lacks(1, 1, 1)
    finals.keep(1, 2, b"x", 0, in_room=True)
    assert not finals.lacks(1, 3, 1)
    finals.keep(1, 3, b"x", 0, in_room=True)
    assert [identity for identity in (1, 2, 3) if finals.find(1, identity, 0)] == [1, 2]


def test_what_is_larger_than_all_is_not_kept_and_pushes_nothing_out() -> None:
    finals = Finals(1000)
    finals.keep(1, 1, b"x", 0)
    finals.keep(1, 2, bytes(1000), 0)
    assert finals.find(1, 1, 0) == b"x"
    assert finals.find(1, 2, 0) is None


def test_zero_keeps_nothing() -> None:
    finals = Finals(0)
    finals.keep(1, 1, b"", 0)
    assert not finals.lacks(1, 1, 0)
    assert (len(finals), finals.bytes) == (0, 0)


def test_forgotten_is_forgotten() -> None:
    finals = Finals(BIG)
    finals.keep(1, 1, b"x", 0)
    finals.forget()
    assert finals.find(1, 1, 0) is None
    assert finals.bytes == 0


STEP = st.tuples(
    st.sampled_from(["keep", "room", "find", "forget"]), st.integers(1, 2), st.integers(0, 9), st.integers(0, 900),
    st.integers(0, KEPT_US // 3),
)  # fmt: skip


@given(st.integers(0, 4000), st.lists(STEP, max_size=60))
def test_bytes_are_bounded_and_true_whatever_happens(
    bytes_max: int, steps: list[tuple[str, int, int, int, int]]
) -> None:
    finals, now_us = Finals(bytes_max), 0
    told: dict[tuple[int, int], tuple[bytes, int]] = {}
    for number, (what, tenant, identity, size, passed_us) in enumerate(steps):
        now_us += passed_us
        if what == "forget":
            finals.forget()
            told.clear()
        elif what == "find":
            found = finals.find(tenant, identity, now_us)
            answer, since_us = told.get((tenant, identity), (None, 0))
            assert found is None or (found == answer and now_us < since_us + KEPT_US)
        else:
            answer = bytes([number]) * size
            finals.keep(tenant, identity, answer, now_us, in_room=what == "room")
            told[tenant, identity] = answer, now_us
        held = [len(answer) + ENTRY_BYTES for answer, _ in finals._kept.values()]
        assert finals.bytes == sum(held) <= bytes_max


def test_only_states_that_may_become_nothing_are_kept() -> None:
    """The page is made of the core's table: a transition that is added there ends this."""
    page = (ROOT / "docs/STATES.md").read_text(encoding="utf-8")
    last = re.findall(r"^\| (\d+) \| `[A-Z_]+` \| [^|]* \| nothing \|$", page, re.MULTILINE)
    assert {int(number) for number in last} == UNCHANGING
    assert len(last) == 5


@pytest.mark.parametrize("room", [False, True])
def test_an_answer_that_is_kept_again_counts_once(*, room: bool) -> None:
    finals = Finals(BIG)
    finals.keep(1, 1, b"x", 0)
    finals.keep(1, 1, b"xyz", 0, in_room=room)
    assert finals.find(1, 1, 0) == b"xyz"
    assert finals.bytes == ENTRY_BYTES + 3
