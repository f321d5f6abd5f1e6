"""Writes results to standard output and everything else to standard error, for people or as JSON.

It decides nothing about what is shown. Invariants: standard output holds results only, so that it can be piped; with
`--json` it is one JSON document, or one object a line; nothing moves or is coloured where there is no terminal.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message as ProtoMessage
from rich.console import Console
from rich.table import Table
from rich.text import Text

Json = Annotated[bool, typer.Option("--json", help="Print JSON: one document, or one object a line for lists.")]

# Not a terminal: as wide as the longest line a person still reads in a log; tables do not wrap names then.
PIPED_WIDTH_CHARACTERS: Final = 200


def out() -> Console:
    """Standard output."""
    return _console(stderr=False)


def err() -> Console:
    """Standard error."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else PIPED_WIDTH_CHARACTERS
    return Console(stderr=stderr, highlight=False, markup=False, emoji=False, width=width)


def say(text: str) -> None:
    """A line for people, on standard error."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def line(text: str) -> None:
    """A line of the result, at once: whoever reads the pipe waits for it."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def json_line(value: object) -> None:
    """One JSON value on a line of its own, at once."""
    line(json_text(value))


def json_text(value: object) -> str:
    """One JSON value without line breaks."""
    return json.dumps(value, ensure_ascii=False)


def plain(message: ProtoMessage) -> dict[str, Any]:
    """A message of the contract as JSON values: field names of the contract, enumerations by name, no empty fields."""
    return MessageToDict(message, preserving_proto_field_name=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, title: str = "") -> None:
    """A table on standard output; text in it is shown as it is."""
    shown = Table(*columns, title=title or None, title_justify="left", box=None, pad_edge=False, header_style="bold")
    for row in rows:
        shown.add_row(*(Text(printable(cell)) for cell in row))
    out().print(shown)


def fields(values: Mapping[str, str]) -> None:
    """Names and values, one a line; empty values are left out."""
    shown = Table(box=None, show_header=False, pad_edge=False)
    for name, value in values.items():
        if value:
            shown.add_row(Text(name, style="bold"), Text(printable(value)))
    out().print(shown)


def printable(text: str) -> str:
    """The text with control characters spelled out: what a stranger wrote must not move the cursor."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
