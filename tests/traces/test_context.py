"""Ids of traces: W3C's header, roots made from messages, and who is picked."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.trace_context import Sampling, SpanContext, read_traceparent, root_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(("flags", "sampled"), [("00", False), ("01", True), ("03", True), ("fe", False)])
def test_a_traceparent_is_read(flags: str, sampled: bool) -> None:  # noqa: FBT001 - a table
    expected = SpanContext(int(TRACE, 16), int(SPAN, 16), sampled)
    assert read_traceparent(f"00-{TRACE}-{SPAN}-{flags}") == expected
    assert read_traceparent(f"cc-{TRACE}-{SPAN}-{flags}-what-is-yet-to-come") == expected
    assert (expected.trace_hex, expected.span_hex) == (TRACE, SPAN)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-01-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-\u0660\u0661",
    ],
)
def test_what_is_no_traceparent_is_as_none(text: str) -> None:
    assert read_traceparent(text) is None


@given(st.text())
def test_no_text_makes_it_fail(text: str) -> None:
    read_traceparent(text)


@given(st.integers(1, 2**63 - 1))
def test_a_message_has_one_root_wherever_it_is_met(message: int) -> None:
    root = root_of(message)
    assert root == root_of(message)
    assert 0 < root.trace_id < 1 << 128
    assert 0 < root.span_id < 1 << 64


def test_the_root_of_a_message_stays_as_it_is() -> None:
    """Nodes of two versions serve side by side, and a receipt may come after an upgrade."""
    root = root_of(0x0151_2345_6789_ABCD)
    assert (root.trace_hex, root.span_hex) == ("e9ad01a5c9b1c6584b789586ccc5633f", "da25c4e8b0b018f5")


@given(st.integers(1, 2**63 - 1), st.floats(0, 1))
def test_whoever_is_picked_alone_is_picked_among_others(message: int, ratio: float) -> None:
    sampling = Sampling(ratio)
    assert (list(sampling.picked([message])) == [message]) is sampling.has(message)


def test_none_or_all_are_picked_at_the_ends() -> None:
    messages = [7 << 22 | number for number in range(1000)]
    assert list(Sampling(0).picked(messages)) == []
    assert list(Sampling(1).picked(messages)) == messages


@pytest.mark.parametrize("ratio", [0.5, 0.1, 0.01])
@pytest.mark.parametrize("burst", [1, 50, 4096])
def test_the_share_is_kept_among_ids_in_bursts_and_one_by_one(ratio: float, burst: int) -> None:
    """Ids of one node: milliseconds in the upper bits, a number within each in the lower ones."""
    total = 40_000
    messages = [(1_000_000 + number // burst) << 22 | 5 << 12 | number % burst for number in range(total)]
    picked = len(Sampling(ratio).picked(messages))
    assert ratio * total * 0.8 < picked < ratio * total * 1.2
