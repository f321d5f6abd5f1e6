"""Logs: one JSON object a line in the Elastic Common Schema, UTC times, without message text, secrets or phone numbers.

It decides nothing about what is worth logging and opens no file: lines go to the stream it is given.

Invariants:

- Every line of the process passes `redact`, whether it came from structlog or from a library through stdlib logging.
- Values under a name that holds text or secrets are replaced, at any depth; phone numbers keep their last four digits.
- An object of an unknown type is shown as its class: what its text would hold is not known.
- One event is one line, whatever it contains: JSON escapes line ends.
- Fields of the schema have its names and types; whatever else a line says is below `longwave`.
- A line names the trace of the call that its task serves, else of the message it is about, where that is traced.
"""

from __future__ import annotations

import logging
import re
import sys
import traceback
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, TextIO
from uuid import UUID

import orjson
import structlog

from engine.errors import Refused
from engine.trace_context import CURRENT, Sampling, root_of
from engine.wire import MESSAGES, message_id_of
from server.info import engine_version

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

    from engine.trace_context import SpanContext

REDACTED: Final = "[redacted]"
_SECRET_NAMES: Final = frozenset(
    {
        "text", "body", "secret", "api_key", "authorization", "password", "token", "signature", "subject", "media_urls",
        "x-api-key", "cookie",
    }
)  # fmt: skip
_SECRET_ENDINGS: Final = ("_text", "_body", "_secret", "_api_key", "_password", "_token", "_authorization")
# An E.164 number, or a bare North American one (10 digits, or 11 with the leading 1), also after `%2B` in a query.
_NUMBER: Final = re.compile(r"\+[1-9]\d{6,14}(?!\d)|(?<!\d)1?[2-9]\d{2}[2-9]\d{6}(?!\d)")
# The same written for people: (202) 555-0123, 202-555-0123, +1 202.555.0123.
_NUMBER_SPACED: Final = re.compile(
    r"(?:\+?1[ .-])?(?:\([2-9]\d{2}\) ?|(?<!\d)[2-9]\d{2}[ .-])[2-9]\d{2}[ .-]\d{4}(?!\d)"
)
# Rendered SQL carries every text as a hex literal; a database error may quote a piece of it, without its end.
_HEX_LITERAL: Final = re.compile(r"x'[0-9A-Fa-f]{2,}'?")
# A key of ours in a sentence (its prefix, which names it, stays), and whatever is presented as a bearer's.
_KEY: Final = re.compile(r"(lw_[ta]_[a-z2-7]{12}_)[a-z2-7]+|((?i:bearer) )[^\s\"',;]+")
_DEPTH_MAX: Final = 6
_ITEMS_MAX: Final = 100
_CHARACTERS_MAX: Final = 8192

ECS_VERSION: Final = "9.4.0"
SERVICE: Final = "longwave"
# Names of the schema by ours. The order is that of the schema for logs: time, level, message first.
_ECS_NAMES: Final = {
    "timestamp": "@timestamp",
    "level": "log.level",
    "event": "message",
    "logger": "log.logger",
    "exception": "error.stack_trace",
    "error.type": "error.type",
    "error.message": "error.message",
    "trace.id": "trace.id",
    "span.id": "span.id",
}

_PLAIN: Final = (bool, int, float, type(None))
_SHOWN: Final = (UUID, date, datetime, timedelta, Decimal, PurePath)


def mask(text: str) -> str:
    """Give `text` with every phone number cut to its last four digits; keys and SQL hex literals are removed."""
    if len(text) > _CHARACTERS_MAX:
        # Cut one number's length early: half a number at the edge would not be recognised.
        text = text[:_CHARACTERS_MAX].rstrip("+0123456789") + "…"
    text = _HEX_LITERAL.sub(REDACTED, text)
    text = _KEY.sub(_without_key, text)
    text = _NUMBER.sub(_last_four, text)
    return _NUMBER_SPACED.sub(_last_four, text)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Redact a whole event: the structlog processor in front of the renderer."""
    event.pop("color_message", None)  # uvicorn's copy of its message for terminals
    return {mask(str(name)): _redact_named(str(name), value, 0) for name, value in event.items()}


def render(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Render a redacted event as one line of JSON."""
    return orjson.dumps(event, default=_class_name, option=orjson.OPT_NON_STR_KEYS).decode()


class ToEcs:
    """The structlog processor behind `redact`: gives an event the names of the schema."""

    def __init__(self, version: str) -> None:
        """Of this version of the service."""
        self._same: Final = {
            "ecs.version": ECS_VERSION,
            "service.name": SERVICE,
            "service.version": version,
            "event.dataset": f"{SERVICE}.log",
        }

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Rename what the schema has; the rest goes below `longwave`."""
        if (error := event.pop("error", None)) is not None:
            # Most say the class alone; a few, a sentence.
            event.setdefault("error.type" if str(error).isidentifier() else "error.message", str(error))
        line = {ecs: event.pop(name) for name, ecs in _ECS_NAMES.items() if name in event}
        line["message"] = str(line.get("message", ""))
        line |= self._same
        if event:
            line[SERVICE] = event
        return line


class AddTrace:
    """The structlog processor that names a trace, in the context of whoever logs."""

    def __init__(self, sampling: Sampling | None) -> None:
        """Which messages are traced; None: none is, nor any call."""
        self._sampling = sampling

    def __call__(self, _logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
        """Add trace and span, if any."""
        if self._sampling is None:
            return event
        span = CURRENT.get()
        if span is None and "message_id" in event:
            span = self._of_message(str(event["message_id"]))
        if span is not None:
            event["trace.id"], event["span.id"] = span.trace_hex, span.span_hex
        return event

    def _of_message(self, short: str) -> SpanContext | None:
        try:
            message = message_id_of(MESSAGES + short, "message")
        except Refused:
            return None
        return root_of(message) if self._sampling is not None and self._sampling.has(message) else None


def describe_error(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Say of an exception what it was, what it said and where it came from; the processor in front of `redact`."""
    given = event.pop("exc_info", None)
    error = given if isinstance(given, BaseException) else (given[1] if isinstance(given, tuple) else None)
    if given is True:
        error = sys.exc_info()[1]
    if error is not None:
        event["error.type"], event["error.message"] = type(error).__name__, str(error)
        event["exception"] = "".join(traceback.format_exception(error))
        event.pop("error", None)  # the same by its class alone
    return event


def configure(level: str, stream: TextIO, sampling: Sampling | None = None) -> None:
    """Send structlog and stdlib logging, of us and of libraries, to `stream` from `level` (a name such as `info`) up.

    Where traces are on, `sampling` says which messages are traced.

    Raises ValueError for an unknown level. Meant to be called once, at start; a second call replaces the first.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None:
        raise ValueError(f"unknown log level {level!r}; use debug, info, warning or error")
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.processors.StackInfoRenderer(),
            describe_error,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), describe_error],
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                redact,
                # Behind it: an id is ours, and digits of a few in a hundred would pass for a phone number.
                AddTrace(sampling),
                ToEcs(engine_version()),
                render,
            ],
        )
    )
    root = logging.getLogger()
    for old in tuple(root.handlers):
        root.removeHandler(old)
    root.addHandler(handler)
    root.setLevel(number)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access", "grpc", "grpc._cython.cygrpc", "asyncmy", "asyncio"):
        library = logging.getLogger(name)
        library.handlers.clear()
        library.propagate = True
    logging.getLogger("grpc._cython.cygrpc").addFilter(_shows_no_header)
    logging.captureWarnings(capture=True)


def _shows_no_header(record: logging.LogRecord) -> bool:
    """False for gRPC's line about a header that is not UTF-8: it quotes the header, which may be a key."""
    return not str(record.msg).startswith("Invalid encoding")


def _redact_named(name: str, value: object, depth: int) -> object:
    lowered = name.lower()
    if value is not None and (lowered in _SECRET_NAMES or lowered.endswith(_SECRET_ENDINGS)):
        return REDACTED
    return _redact(value, depth)


def _redact(value: object, depth: int) -> object:
    if isinstance(value, str) and not isinstance(value, Enum):
        return mask(value)
    if isinstance(value, Enum):
        return value.name
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return f"<{len(value)} bytes>"
    if isinstance(value, BaseException):
        return mask(f"{type(value).__name__}: {value}")
    if isinstance(value, _SHOWN):
        return mask(str(value))
    if depth < _DEPTH_MAX:
        if isinstance(value, dict):
            shown = list(value.items())[:_ITEMS_MAX]
            return {mask(str(name)): _redact_named(str(name), item, depth + 1) for name, item in shown}
        if isinstance(value, list | tuple | set | frozenset):
            return [_redact(item, depth + 1) for item in list(value)[:_ITEMS_MAX]]
    return _class_name(value)


def _class_name(value: object) -> str:
    return f"<{type(value).__name__}>"


def _last_four(match: re.Match[str]) -> str:
    return "***" + match[0][-4:]


def _without_key(match: re.Match[str]) -> str:
    return (match[1] or match[2]) + REDACTED
