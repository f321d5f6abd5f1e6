"""Canary strings through every way into the log: none may come out."""

from __future__ import annotations

import asyncio
import datetime as dt
import io
import json
import logging
import uuid
import warnings
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import structlog

from server import logs

if TYPE_CHECKING:
    from collections.abc import Iterator

NUMBER = "+12025550123"
CANARY = "canary-of-a-message-text"


class Colour(Enum):
    RED = 1


class Unknown:
    def __repr__(self) -> str:
        return CANARY

    __str__ = __repr__


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    """The log of a process configured as `serve` does, put back afterwards."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    made = io.StringIO()
    logs.configure("info", made)
    yield made
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def lines(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_has_time_level_event_stage_and_logger(stream: io.StringIO) -> None:
    structlog.stdlib.get_logger("engine.record").info("record.written", stage="record", messages=3)
    line = lines(stream)[0]
    moment = dt.datetime.fromisoformat(line.pop("timestamp"))
    assert moment.utcoffset() == dt.timedelta(0)
    assert abs(dt.datetime.now(dt.UTC) - moment) < dt.timedelta(minutes=1)
    assert line == {
        "event": "record.written",
        "level": "info",
        "logger": "engine.record",
        "stage": "record",
        "messages": 3,
    }


@pytest.mark.parametrize(
    "name",
    [
        "text",
        "body",
        "secret",
        "api_key",
        "authorization",
        "Authorization",
        "telnyx_api_key",
        "webhook_secret",
        "message_text",
    ],
)
def test_values_under_secret_names_never_come_out_at_any_depth(stream: io.StringIO, name: str) -> None:
    log = structlog.stdlib.get_logger("t")
    log.info("e", **{name: CANARY})
    log.info("e", outer={name: {"inner": CANARY}})
    log.info("e", items=[{name: [CANARY]}])
    logging.getLogger("grpc").warning("e", extra={name: CANARY})
    assert len(lines(stream)) == 4
    assert "canary" not in stream.getvalue()
    assert stream.getvalue().count("[redacted]") == 4


@pytest.mark.parametrize(
    "written",
    [
        NUMBER,
        f"to={NUMBER};",
        "%2B12025550123",
        "12025550123",
        "2025550123",
        "(202) 555-0123",
        "202-555-0123",
        "+1 202.555.0123",
        "+442079460123",
        "https://x/webhooks?to=%2B12025550123&g=1",
    ],
)
def test_numbers_keep_their_last_four_digits_everywhere(stream: io.StringIO, written: str) -> None:
    log = structlog.stdlib.get_logger("t")
    event = f"event {written}"
    log.info(event, value=written, nested={"a": [written], written: 1}, error=ValueError(written))
    logging.getLogger("uvicorn.error").error("refused %s", written)
    logging.getLogger("asyncmy").error("x", extra={"peer": written})
    try:
        int(written + "!")
    except ValueError:
        log.exception("failed")
        logging.getLogger("asyncio").exception("failed")
    assert len(lines(stream)) == 5
    text = stream.getvalue()
    assert "0123" in text
    for piece in ("555012", "555-012", "555.012", "5550123", "460123"):
        assert piece not in text


@pytest.mark.parametrize(
    "written", ["1768512734", "1768512734123456", "0b6f1c52-7f1e-4c7a", "v1.22.333.4444", "127.0.0.1:50051"]
)
def test_what_is_no_number_stays(written: str) -> None:
    assert logs.mask(written) == written


def test_text_inside_rendered_sql_does_not_come_out(stream: io.StringIO) -> None:
    literal = CANARY.encode().hex()
    logging.getLogger("asyncmy").error("near 'x'%s' at line 1", literal)
    logging.getLogger("asyncmy").error("near '_utf8mb4 x'%s", literal)
    assert literal not in stream.getvalue()
    assert len(lines(stream)) == 2


def test_objects_show_what_is_known_to_be_harmless(stream: io.StringIO) -> None:
    made = uuid.UUID(int=1)
    structlog.stdlib.get_logger("t").info(
        "e", a=b"secret", b=Unknown(), c=Colour.RED, d=made, e=Path("x/y"), f=None, g=1.5, h={1, 2}, i={"k": Unknown()}
    )
    line = lines(stream)[0]
    shown = {name: line[name] for name in "abcdefghi"}
    assert shown == {
        "a": "<6 bytes>", "b": "<Unknown>", "c": "RED", "d": str(made), "e": "x/y", "f": None, "g": 1.5, "h": [1, 2],
        "i": {"k": "<Unknown>"},
    }  # fmt: skip
    assert "canary" not in stream.getvalue()


def test_a_forged_line_end_stays_inside_its_line(stream: io.StringIO) -> None:
    structlog.stdlib.get_logger("t").info('a\r\n{"event": "forged"}', value="b\n{}")
    assert [line["event"] for line in lines(stream)] == ['a\r\n{"event": "forged"}']


def test_long_and_deep_values_are_bounded(stream: io.StringIO) -> None:
    deep: dict[str, Any] = {}
    for _ in range(100):
        deep = {"d": deep}
    log = structlog.stdlib.get_logger("t")
    log.info("e", long="x" * 1_000_000, many=list(range(100_000)), deep=deep)
    assert len(stream.getvalue()) < 20_000


@pytest.mark.parametrize("shift", range(13))
def test_a_number_at_the_edge_of_a_cut_does_not_come_out(shift: int) -> None:
    text = "x" * (8192 - shift) + NUMBER + "y" * 100
    assert "120" not in logs.mask(text)


def test_level_and_names_of_levels(stream: io.StringIO) -> None:
    structlog.stdlib.get_logger("t").debug("hidden")
    logging.getLogger("uvicorn").debug("hidden")
    assert stream.getvalue() == ""
    with pytest.raises(ValueError, match="loud"):
        logs.configure("loud", stream)


def test_warnings_and_context_reach_the_log(stream: io.StringIO) -> None:
    with structlog.contextvars.bound_contextvars(call_id="c1", body=CANARY):
        structlog.stdlib.get_logger("t").warning("e")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn(f"about {NUMBER}", stacklevel=1)
    first, second = lines(stream)
    assert (first["call_id"], first["body"]) == ("c1", "[redacted]")
    assert second["logger"] == "py.warnings"
    assert "5550123" not in stream.getvalue()


async def test_what_asyncio_reports_is_redacted_too(stream: io.StringIO) -> None:
    def fail() -> None:
        raise ValueError(NUMBER)

    loop = asyncio.get_running_loop()
    loop.call_soon(fail)
    done = loop.create_future()
    loop.call_soon(done.set_result, None)
    await done
    assert lines(stream)[0]["logger"] == "asyncio"
    assert "5550123" not in stream.getvalue()


def test_a_header_that_is_not_utf_8_is_not_quoted(stream: io.StringIO) -> None:
    """As gRPC logs it: it may be a key with a byte too many."""
    logging.getLogger("grpc._cython.cygrpc").error("Invalid encoding on %s", b"Bearer lwk_1234\xff")
    logging.getLogger("grpc._cython.cygrpc").error("something else")
    assert "lwk_1234" not in stream.getvalue()
    assert "something else" in stream.getvalue()
