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

from engine import _core
from engine.registry.keys import mint
from engine.registry.records import Role
from engine.trace_context import CURRENT, Sampling, SpanContext, root_of
from server import logs
from server.info import engine_version

if TYPE_CHECKING:
    from collections.abc import Iterator

NUMBER = "+12025550123"
CANARY = "canary-of-a-message-text"
GOLDEN = Path(__file__).parents[1] / "golden"


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
    assert list(line)[:3] == ["@timestamp", "log.level", "message"]
    moment = dt.datetime.fromisoformat(line.pop("@timestamp"))
    assert moment.utcoffset() == dt.timedelta(0)
    assert abs(dt.datetime.now(dt.UTC) - moment) < dt.timedelta(minutes=1)
    assert line == {
        "message": "record.written",
        "log.level": "info",
        "log.logger": "engine.record",
        "ecs.version": logs.ECS_VERSION,
        "service.name": "longwave",
        "service.version": engine_version(),
        "event.dataset": "longwave.log",
        "longwave": {"stage": "record", "messages": 3},
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


def test_a_key_in_a_sentence_does_not_come_out(stream: io.StringIO) -> None:
    """Libraries quote what they do not understand: in messages, exceptions and their stacks."""
    key = mint(Role.TENANT)
    logging.getLogger("uvicorn.error").warning("bad header: authorization: Bearer %s", key.text)
    logging.getLogger("aiohttp").warning("refused {'Authorization': 'Bearer KEY0123_canary'}")
    try:
        int(key.text)
    except ValueError:
        structlog.stdlib.get_logger("t").exception("failed")
    assert len(lines(stream)) == 3
    text = stream.getvalue()
    assert key.text.rpartition("_")[2] not in text
    assert "canary" not in text
    assert key.prefix in text


def test_objects_show_what_is_known_to_be_harmless(stream: io.StringIO) -> None:
    made = uuid.UUID(int=1)
    structlog.stdlib.get_logger("t").info(
        "e", a=b"secret", b=Unknown(), c=Colour.RED, d=made, e=Path("x/y"), f=None, g=1.5, h={1, 2}, i={"k": Unknown()}
    )
    assert lines(stream)[0]["longwave"] == {
        "a": "<6 bytes>", "b": "<Unknown>", "c": "RED", "d": str(made), "e": "x/y", "f": None, "g": 1.5, "h": [1, 2],
        "i": {"k": "<Unknown>"},
    }  # fmt: skip
    assert "canary" not in stream.getvalue()


def test_a_forged_line_end_stays_inside_its_line(stream: io.StringIO) -> None:
    structlog.stdlib.get_logger("t").info('a\r\n{"event": "forged"}', value="b\n{}")
    assert [line["message"] for line in lines(stream)] == ['a\r\n{"event": "forged"}']


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
    assert first["longwave"] == {"call_id": "c1", "body": "[redacted]"}
    assert second["log.logger"] == "py.warnings"
    assert "5550123" not in stream.getvalue()


async def test_what_asyncio_reports_is_redacted_too(stream: io.StringIO) -> None:
    def fail() -> None:
        raise ValueError(NUMBER)

    loop = asyncio.get_running_loop()
    loop.call_soon(fail)
    done = loop.create_future()
    loop.call_soon(done.set_result, None)
    await done
    assert lines(stream)[0]["log.logger"] == "asyncio"
    assert "5550123" not in stream.getvalue()


def test_a_header_that_is_not_utf_8_is_not_quoted(stream: io.StringIO) -> None:
    """As gRPC logs it: it may be a key with a byte too many."""
    logging.getLogger("grpc._cython.cygrpc").error("Invalid encoding on %s", b"Bearer lwk_1234\xff")
    logging.getLogger("grpc._cython.cygrpc").error("something else")
    assert "lwk_1234" not in stream.getvalue()
    assert "something else" in stream.getvalue()


# The schema.


def schema() -> dict[str, str]:
    """Fields of the Elastic Common Schema that lines may have, and their types."""
    rows = (GOLDEN / "ecs_fields.tsv").read_text(encoding="utf-8").splitlines()
    named = (row.split("\t") for row in rows if not row.startswith("#"))
    return {name: kind for name, kind, _ in named}


def problems(line: dict[str, Any]) -> list[str]:
    """What of a line is not as the schema has it."""
    fields = schema()
    found = [f"no {name}" for name in ("@timestamp", "log.level", "message", "ecs.version") if name not in line]
    for name, value in line.items():
        if name == "longwave":
            # A namespace of our own, which the schema leaves to whoever names it so.
            found += [] if isinstance(value, dict) else [f"{name} is no object"]
        elif name not in fields:
            found.append(f"{name} is no field")
        elif not isinstance(value, str):  # what lines have is keyword, text, date or match_only_text
            found.append(f"{name} is no {fields[name]}")
    return found


def test_the_check_of_lines_finds_what_is_not_in_the_schema() -> None:
    good = {"@timestamp": "2026-11-28T00:00:00Z", "log.level": "info", "message": "e", "ecs.version": "9.4.0"}
    assert problems(good) == []
    assert problems(good | {"level": "info"}) == ["level is no field"]
    assert problems(good | {"error.type": 3}) == ["error.type is no keyword"]
    assert problems({name: value for name, value in good.items() if name != "message"}) == ["no message"]


def test_every_line_is_as_the_common_schema_has_it(stream: io.StringIO) -> None:
    log = structlog.stdlib.get_logger("longwave.record")
    log.info("e", stage="record", messages=3, findings=["a=b"])
    log.error("e", error="ValueError", message_id="0am9afzbw0400")
    log.critical("e", error="the lease was lost: this process stops")
    logging.getLogger("uvicorn.error").error("refused %s", "x", extra={"peer": "y"})
    try:
        int("x")
    except ValueError as error:
        log.exception("e")
        log.warning("e", exc_info=error)
        logging.getLogger("asyncio").exception("failed")
    warnings_line = logging.getLogger("py.warnings")
    warnings_line.warning("w")
    found = lines(stream)
    assert [problem for line in found for problem in problems(line)] == []
    assert len(found) == 8
    assert found[1]["error.type"] == "ValueError"
    assert found[2]["error.message"] == "the lease was lost: this process stops"
    for line in found[4:7]:
        assert line["error.type"] == "ValueError"
        assert line["error.message"] == "invalid literal for int() with base 10: 'x'"
        assert line["error.stack_trace"].startswith("Traceback")


# Traces.

MESSAGE = 0x0151_2345_6789_ABCD


@pytest.fixture
def traced(stream: io.StringIO) -> io.StringIO:
    """The log of a process that traces every message."""
    logs.configure("info", stream, Sampling(1))
    return stream


def test_a_line_names_the_span_of_the_call_that_its_task_serves(traced: io.StringIO) -> None:
    token = CURRENT.set(SpanContext(0xAB, 0xCD, sampled=True))
    try:
        structlog.stdlib.get_logger("t").info("e")
        logging.getLogger("uvicorn.error").warning("e")
    finally:
        CURRENT.reset(token)
    structlog.stdlib.get_logger("t").info("e")
    first, second, third = lines(traced)
    for line in (first, second):
        assert (line["trace.id"], line["span.id"]) == (f"{0xAB:032x}", f"{0xCD:016x}")
        assert problems(line) == []
    assert not {"trace.id", "span.id"} & third.keys()


def test_a_line_about_a_traced_message_names_its_trace(traced: io.StringIO) -> None:
    log = structlog.stdlib.get_logger("t")
    log.error("message set aside", message_id=_core.short_id(MESSAGE))
    log.error("message set aside", message_id="no id")
    logs.configure("info", traced, Sampling(0))
    structlog.stdlib.get_logger("t").error("message set aside", message_id=_core.short_id(MESSAGE))
    named, *nameless = lines(traced)
    assert named["trace.id"] == root_of(MESSAGE).trace_hex
    assert len(nameless) == 2
    assert not any("trace.id" in line for line in nameless)


def test_an_id_whose_digits_would_pass_for_a_number_is_told_whole(traced: io.StringIO) -> None:
    """A few in a hundred have ten digits in a row: cut like a phone number, the line would lead nowhere."""
    likely = SpanContext(0xAB2025550123CD, 0xA12025550123, sampled=True)
    assert logs.mask(likely.trace_hex) != likely.trace_hex
    token = CURRENT.set(likely)
    try:
        structlog.stdlib.get_logger("t").info("e", recipient=NUMBER)
        logging.getLogger("uvicorn.error").warning("e")
    finally:
        CURRENT.reset(token)
    for line in lines(traced):
        assert (line["trace.id"], line["span.id"]) == (likely.trace_hex, likely.span_hex)
    assert NUMBER not in traced.getvalue()
