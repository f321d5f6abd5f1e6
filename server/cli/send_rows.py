"""Reads submissions from CSV or JSON lines, gzipped or not, one at a time: memory does not grow with the file.

It sends nothing and looks nothing up. A line that cannot be read is handed on with its number and what is wrong, and
never stops those after it.

Invariants: an unknown field is refused, never ignored; text arrives as it stands in the file, or not at all; the same
line of a file of the same name has the same request id, whatever run it is read in.
"""

import codecs
import csv
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

from longwave.v1 import messaging_pb2 as m
from server.cli import names
from server.cli.failure import CliFailure, usage
from server.cli.fictitious import fictitious_number

GZIP_MAGIC: Final = b"\x1f\x8b"
# A text of ten segments with labels and URLs stays under 32 KiB; a line far beyond is no submission.
LINE_BYTES_MAX: Final = 1024 * 1024
# Short names first: they are what the help shows.
ALIASES: Final = {
    "recipient": "to",
    "sender": "from",
    "message_class": "class",
    "media_urls": "media",
    "schedule_time": "schedule",
    "client_reference": "reference",
    "smart_encoding": "smart",
}
FIELDS: Final = (
    "campaign", "to", "from", "text", "class", "media", "subject", "schedule", "validity", "ordering_key", "reference",
    "labels", "smart", "request_id",
)  # fmt: skip
LABEL_PREFIX: Final = "label."
TRUE: Final = frozenset({"1", "true", "yes"})
FALSE: Final = frozenset({"", "0", "false", "no"})


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the input: a submission, or what is wrong with it."""

    line: int
    """1 is the file's first line, a CSV's heading included."""
    submission: m.Submission | None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Defaults:
    """What holds for lines that do not say otherwise, and how request ids are made."""

    batch: str
    """Names the run: the same batch and line is the same message."""
    values: Mapping[str, Any] = field(default_factory=dict)
    """By the names of `FIELDS`."""
    recipients: int = 0
    """Spread lines without `to` over so many fictitious numbers; 0: such lines are refused."""


@dataclass(frozen=True, slots=True)
class _Unreadable:
    """A line that has no text, and why."""

    problem: str


@contextmanager
def open_input(path: str, standard_input: BinaryIO) -> Iterator[BinaryIO]:
    """The file, or standard input for `-`, decompressed where its first bytes say so. Raises CliFailure."""
    with ExitStack() as stack:
        try:
            raw = standard_input if path == "-" else stack.enter_context(Path(path).open("rb"))
        except OSError as error:
            raise usage(f"{path}: {error.strerror}") from None
        buffered = raw if isinstance(raw, io.BufferedReader) else io.BufferedReader(cast("io.RawIOBase", raw))
        if buffered.peek(len(GZIP_MAGIC))[: len(GZIP_MAGIC)] == GZIP_MAGIC:
            yield cast("BinaryIO", stack.enter_context(gzip.GzipFile(fileobj=buffered)))
        else:
            yield buffered


def format_of(path: str, asked: str) -> str:
    """`csv` or `jsonl`: as asked, else by the name. Raises CliFailure where neither says."""
    if asked:
        return asked
    suffixes = [suffix for suffix in Path(path).suffixes if suffix != ".gz"]
    match suffixes[-1:] and suffixes[-1].lower():
        case ".csv":
            return "csv"
        case ".jsonl" | ".ndjson" | ".json":
            return "jsonl"
    raise usage(f"{path}: is it CSV or JSON lines? give --format csv or --format jsonl")


def read_rows(stream: BinaryIO, kind: str, defaults: Defaults) -> Iterator[Row]:
    """All lines of the input. Raises CliFailure where nothing after it can be read."""
    make = _Maker(defaults)
    try:
        yield from (_csv_rows if kind == "csv" else _jsonl_rows)(stream, make)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise CliFailure(f"the gzip data is damaged or cut off: {error}\nlines before that were handed in") from None


def _jsonl_rows(stream: BinaryIO, make: "_Maker") -> Iterator[Row]:
    for number, line in enumerate(_lines(stream), 1):
        if isinstance(line, str) and not line.strip():
            continue
        yield make.row(number, partial(_parsed, line))


def _parsed(line: str | _Unreadable) -> Mapping[str, Any]:
    return _object(_readable(line))


def _object(line: str) -> Mapping[str, Any]:
    try:
        value = json.loads(line)
    except RecursionError:
        value = None
    except ValueError as error:
        message = f"not JSON: {error}"
        raise ValueError(message) from None
    if not isinstance(value, dict):
        raise ValueError("not a JSON object")  # noqa: TRY004 - one kind of error for everything wrong with a line
    return value


def _csv_rows(stream: BinaryIO, make: "_Maker") -> Iterator[Row]:
    csv.field_size_limit(LINE_BYTES_MAX)
    # A quoted field may hold line breaks, so the reader sees every line; one that is unreadable spoils its own row.
    unreadable: list[str] = []

    def texts() -> Iterator[str]:
        for line in _lines(stream):
            if isinstance(line, str):
                yield line
            else:
                unreadable.append(line.problem)
                yield "\n"

    reader = csv.reader(texts(), strict=True)
    heading = [_canonical(name.strip()) for name in next(reader, [])]
    if unreadable:
        raise usage(f"line 1: {unreadable[0]}")
    _check_heading(heading)
    while True:
        start = reader.line_num + 1
        unreadable.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Row(start, None, f"not CSV: {error}")
            continue
        if unreadable:
            yield Row(start, None, unreadable[0])
        elif cells:
            yield make.row(start, partial(_from_cells, heading, cells))


def _from_cells(heading: list[str], cells: list[str]) -> Mapping[str, Any]:
    if len(cells) != len(heading):
        message = f"{len(cells)} fields, the heading has {len(heading)}"
        raise ValueError(message)
    values: dict[str, Any] = {}
    for name, cell in zip(heading, cells, strict=True):
        if cell == "":
            continue
        if name.startswith(LABEL_PREFIX):
            values.setdefault("labels", {})[name.removeprefix(LABEL_PREFIX)] = cell
        elif name == "media":
            values[name] = cell.split()
        elif name == "labels":
            values.setdefault("labels", {}).update(_object(cell))
        else:
            values[name] = cell
    return values


def _check_heading(heading: list[str]) -> None:
    if not heading:
        raise usage("the file is empty: its first line must name the fields, such as to,text")
    for name in heading:
        if name not in FIELDS and not name.startswith(LABEL_PREFIX):
            raise usage(f"line 1: {_unknown(name)}")
    twice = {name for name in heading if heading.count(name) > 1}
    if twice:
        raise usage(f"line 1: field {twice.pop()!r} is there twice")


def _unknown(name: str) -> str:
    nearest = get_close_matches(name, FIELDS, n=1)
    return f"unknown field {name!r}" + (f": did you mean {nearest[0]!r}?" if nearest else f": use {', '.join(FIELDS)}")


def _canonical(name: str) -> str:
    return ALIASES.get(name, name)


def _lines(stream: BinaryIO) -> Iterator[str | _Unreadable]:
    first = True
    while raw := stream.readline(LINE_BYTES_MAX + 1):
        if len(raw) > LINE_BYTES_MAX:
            rest = raw
            while rest and not rest.endswith(b"\n"):
                rest = stream.readline(LINE_BYTES_MAX)
            yield _Unreadable(f"longer than {LINE_BYTES_MAX:,} bytes")
            continue
        if first:
            raw, first = raw.removeprefix(codecs.BOM_UTF8), False
        try:
            yield raw.decode("utf-8")
        except UnicodeDecodeError as error:
            yield _Unreadable(f"not UTF-8 at byte {error.start + 1}")


def _readable(line: str | _Unreadable) -> str:
    if isinstance(line, _Unreadable):
        raise ValueError(line.problem)  # noqa: TRY004 - one kind of error for everything wrong with a line
    return line


class _Maker:
    """Makes rows; counts lines without a recipient, so that they spread evenly."""

    def __init__(self, defaults: Defaults) -> None:
        self._defaults = defaults
        self._prefix = hashlib.sha256(defaults.batch.encode("utf-8", "surrogateescape")).hexdigest()[:32]

    def row(self, line: int, read: Callable[[], Mapping[str, Any]]) -> Row:
        try:
            values = {_canonical(name): value for name, value in read().items()}
            merged = {**self._defaults.values, **{name: value for name, value in values.items() if value is not None}}
            if "to" not in merged and self._defaults.recipients:
                # By line, not by count: a line that cannot be read must not shift those after it.
                merged["to"] = fictitious_number((line - 1) % self._defaults.recipients)
            merged.setdefault("request_id", self.request_id(line))
            return Row(line, submission_of(merged))
        except ValueError as error:
            return Row(line, None, str(error))

    def request_id(self, line: int) -> str:
        """The same for the same batch and line; 32 hexadecimal digits, a dash and the line's number."""
        return f"{self._prefix}-{line}"


def submission_of(values: Mapping[str, Any]) -> m.Submission:
    """A submission of fields by their short names. Raises ValueError with the field at fault."""
    for name in values:
        if name not in FIELDS:
            raise ValueError(_unknown(name))
    for name in ("campaign", "to"):
        if not values.get(name):
            hint = ", or --recipients N for fictitious numbers" if name == "to" else ""
            message = f"no {name!r}: the line needs it, or give --{name}{hint}"
            raise ValueError(message)
    made = m.Submission(
        campaign=names.resource("campaigns", _text(values, "campaign")),
        recipient=_text(values, "to"),
        sender=_text(values, "from"),
        text=_text(values, "text"),
        media_urls=_texts(values.get("media", ())),
        subject=_text(values, "subject"),
        request_id=_text(values, "request_id"),
        ordering_key=_text(values, "ordering_key"),
        client_reference=_text(values, "reference"),
        labels=_labels(values.get("labels", {})),
        smart_encoding=_flag(values.get("smart", False)),
    )
    if values.get("class"):
        number = _field("class", lambda: names.enum_number(m.MessageClass.DESCRIPTOR, _text(values, "class")))
        made.message_class = cast("m.MessageClass.ValueType", number)
    if values.get("schedule"):
        made.schedule_time.CopyFrom(_field("schedule", lambda: names.timestamp(_text(values, "schedule"))))
    if values.get("validity"):
        made.validity.CopyFrom(_field("validity", lambda: names.duration(_text(values, "validity"))))
    return made


def _text(values: Mapping[str, Any], name: str) -> str:
    value = values.get(name, "")
    if isinstance(value, int) and not isinstance(value, bool) and name in {"reference", "ordering_key", "validity"}:
        value = str(value)
    return _whole(name, value)


def _whole(name: str, value: object) -> str:
    if not isinstance(value, str):
        message = f"{name!r} is not a string"
        raise ValueError(message)  # noqa: TRY004 - one kind of error for everything wrong with a line
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        message = f"{name!r} holds half of a surrogate pair, which is no character"
        raise ValueError(message) from None
    return value


def _texts(value: object) -> Iterable[str]:
    if isinstance(value, str):
        value = value.split()
    if not isinstance(value, list | tuple):
        raise ValueError("'media' is not a list of URLs")  # noqa: TRY004 - as above
    return [_whole("media", item) for item in value]


def _labels(value: object) -> dict[str, str]:
    if not isinstance(value, Mapping):
        raise ValueError("'labels' is not an object of strings")  # noqa: TRY004 - as above
    return {_whole("labels", key): _whole("labels", item) for key, item in value.items()}


def _flag(value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in TRUE | FALSE:
        return value.lower() in TRUE
    raise ValueError("'smart' is not true or false")


def _field(name: str, read: Callable[[], Any]) -> Any:
    try:
        return read()
    except ValueError as error:
        message = f"{name!r}: {error}"
        raise ValueError(message) from None
