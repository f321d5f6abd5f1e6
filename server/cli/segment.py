"""`longwave segment`: what texts cost: encoding, segments, and which characters make them expensive.

It asks no engine and sends nothing; the measuring is the core's, the one that counts for quotas and bills.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Final

import typer

from engine.text import measure, smart_encode
from server.cli import output
from server.cli.failure import EXIT_FAILED
from server.cli.output import Json

# Far beyond the 255 parts that a message can have; a longer line is no text message.
LINE_BYTES_MAX: Final = 1024 * 1024
SHOWN_CHARACTERS: Final = 40


@dataclass(frozen=True, slots=True)
class Cost:
    """What one text costs."""

    encoding: str
    """`GSM-7` or `UCS-2`."""
    segments: int
    units: int
    """Septets of GSM-7, UTF-16 code units of UCS-2."""
    costly: list[str]
    """Characters that cost it GSM-7, each once."""


def segment(
    *,
    jsonl: Annotated[
        bool,
        typer.Option(
            "--jsonl", help="Every line is a JSON object with `text`; else only lines that are one are read so."
        ),
    ] = False,
    smart: Annotated[
        bool, typer.Option("--smart", help="Also measure the text as smart encoding would send it.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Measure texts, one a line on standard input, as text or as JSON objects with `text`.

    A text with line breaks needs JSON. Exit code 1 when a line could not be read; the others are still measured.
    """
    failed = False
    rows: list[list[str]] = []
    for number, raw in enumerate(_lines(), 1):
        try:
            text = text_of(raw, jsonl=jsonl)
        except ValueError as error:
            failed = True
            output.say(f"line {number}: {error}")
            if as_json:
                # One object a line, so that answers can be laid beside the questions.
                output.json_line({"error": str(error), "line": number})
            continue
        if as_json:
            output.json_line(described(text, smart=smart))
        else:
            rows.append(_row(number, text, smart=smart))
    if rows:
        smart_column = ["smart"] if smart else []
        output.table(["line", "encoding", "segments", "units", "costly", *smart_column, "text"], rows)
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _lines() -> Iterator[bytes]:
    stream = sys.stdin.buffer
    while line := stream.readline(LINE_BYTES_MAX + 1):
        if len(line) > LINE_BYTES_MAX:
            # The rest of the line is dropped unread, so that memory stays bounded.
            rest = line
            while rest and not rest.endswith(b"\n"):
                rest = stream.readline(LINE_BYTES_MAX)
        yield line


def text_of(raw: bytes, *, jsonl: bool) -> str:
    """The text on a line. Raises ValueError with what is wrong."""
    if len(raw) > LINE_BYTES_MAX:
        message = f"longer than {LINE_BYTES_MAX:,} bytes"
        raise ValueError(message)
    try:
        line = raw.decode("utf-8").removesuffix("\n").removesuffix("\r")
    except UnicodeDecodeError as error:
        message = f"not UTF-8 at byte {error.start + 1}"
        raise ValueError(message) from None
    text = _from_object(line, required=jsonl)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no character") from None
    return text


def _from_object(line: str, *, required: bool) -> str:
    if required or line.startswith("{"):
        try:
            value = json.loads(line)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and isinstance(value.get("text"), str):
            return str(value["text"])
    if required:
        raise ValueError("not a JSON object with a string `text`")
    return line


def described(text: str, *, smart: bool) -> dict[str, object]:
    """The cost of a text as JSON values; with `smart` what smart encoding makes of it, or null where it cannot help."""
    cost = asdict(Cost(*measure(text)))
    if smart:
        replaced = smart_encode(text)
        cost["smart"] = None if replaced is None else {"text": replaced, **asdict(Cost(*measure(replaced)))}
    return cost


def _row(number: int, text: str, *, smart: bool) -> list[str]:
    cost = Cost(*measure(text))
    row = [str(number), cost.encoding, str(cost.segments), str(cost.units), " ".join(map(_character, cost.costly))]
    if smart:
        row.append(_saving(text, cost))
    shown = text if len(text) <= SHOWN_CHARACTERS else f"{text[: SHOWN_CHARACTERS - 1]}…"
    return [*row, shown]


def _saving(text: str, cost: Cost) -> str:
    replaced = smart_encode(text)
    if replaced is None:
        return "cannot help" if cost.encoding != "GSM-7" else "not needed"
    after = Cost(*measure(replaced))
    return f"{after.encoding}, {after.segments} segments"


def _character(character: str) -> str:
    """A character with its number: many of them look like another, or like nothing."""
    return f"{character} U+{ord(character):04X}" if character.isprintable() else f"U+{ord(character):04X}"
