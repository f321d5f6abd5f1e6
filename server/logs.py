"""Logs: one JSON object a line, UTC times, without message text, secrets or phone numbers.

It decides nothing about what is worth logging and opens no file: lines go to the stream it is given.

Invariants:

- Every line of the process passes `redact`, whether it came from structlog or from a library through stdlib logging.
- Values under a name that holds text or secrets are replaced, at any depth; phone numbers keep their last four digits.
- An object of an unknown type is shown as its class: what its text would hold is not known.
- One event is one line, whatever it contains: JSON escapes line ends.
"""

from __future__ import annotations

import logging
import re
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import TYPE_CHECKING, Final, TextIO
from uuid import UUID

import orjson
import structlog

if TYPE_CHECKING:
    from structlog.typing import EventDict, WrappedLogger

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
_DEPTH_MAX: Final = 6
_ITEMS_MAX: Final = 100
_CHARACTERS_MAX: Final = 8192

_PLAIN: Final = (bool, int, float, type(None))
_SHOWN: Final = (UUID, date, datetime, timedelta, Decimal, PurePath)


def mask(text: str) -> str:
    """Give `text` with every phone number cut to its last four digits and SQL hex literals removed."""
    if len(text) > _CHARACTERS_MAX:
        # Cut one number's length early: half a number at the edge would not be recognised.
        text = text[:_CHARACTERS_MAX].rstrip("+0123456789") + "…"
    text = _HEX_LITERAL.sub(REDACTED, text)
    text = _NUMBER.sub(_last_four, text)
    return _NUMBER_SPACED.sub(_last_four, text)


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Redact a whole event: the structlog processor in front of the renderer."""
    event.pop("color_message", None)  # uvicorn's copy of its message for terminals
    return {mask(str(name)): _redact_named(str(name), value, 0) for name, value in event.items()}


def render(_logger: WrappedLogger, _method: str, event: EventDict) -> str:
    """Render a redacted event as one line of JSON."""
    return orjson.dumps(event, default=_class_name, option=orjson.OPT_NON_STR_KEYS).decode()


def configure(level: str, stream: TextIO) -> None:
    """Send structlog and stdlib logging, of us and of libraries, to `stream` from `level` (a name such as `info`) up.

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
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[*shared, structlog.stdlib.ExtraAdder(), structlog.processors.format_exc_info],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, redact, render],
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
