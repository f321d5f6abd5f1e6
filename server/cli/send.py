"""`longwave send`: one message, or a file of them, followed to their end.

It reads with `send_rows`, runs with `send_run`, counts with `send_tally`; here are the options and what is shown.
"""

import asyncio
import io
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, BinaryIO, Final, TextIO, cast

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from longwave.client import LongwaveError, SubmitResult
from longwave.v1 import messaging_pb2 as m
from server.cli import output
from server.cli.connect import Target, target_of
from server.cli.failure import EXIT_FAILED, EXIT_INTERRUPTED, CliFailure, failure_of, usage
from server.cli.fictitious import NUMBERS_MAX
from server.cli.names import duration_ms, enum_name
from server.cli.options import choices, one_of, reader
from server.cli.output import Json
from server.cli.processes import ended_by_sigterm
from server.cli.send_rows import Defaults, Row, format_of, open_input, read_rows, submission_of
from server.cli.send_run import Ending, Patience, SendRun
from server.cli.send_tally import Tally

REFRESH_S: Final = 0.2
# Where there is no terminal, a line now and then shows that it goes on.
REPORT_S: Final = 10.0
# Refused lines shown on standard error; all of them go to --rejects.
REJECTS_SHOWN_MAX: Final = 20
MESSAGE = "The message"
FILE = "A file of messages"


def seconds_of(text: str) -> float:
    """Seconds of a duration. Raises ValueError."""
    return duration_ms(text) / 1000


def send(
    context: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="[FILE]", help="CSV or JSON lines, gzipped or not; - reads standard input.")
    ] = "",
    *,
    campaign: Annotated[str, typer.Option(metavar="CAMPAIGN", help="The campaign.", rich_help_panel=MESSAGE)] = "",
    to: Annotated[str, typer.Option(metavar="NUMBER", help="The recipient, E.164.", rich_help_panel=MESSAGE)] = "",
    text: Annotated[str, typer.Option(help="The text.", rich_help_panel=MESSAGE)] = "",
    sender: Annotated[
        str, typer.Option("--from", metavar="NUMBER", help="A number of the campaign.", rich_help_panel=MESSAGE)
    ] = "",
    message_class: Annotated[
        int,
        typer.Option(
            "--class",
            parser=one_of(m.MessageClass.DESCRIPTOR),
            metavar=choices(m.MessageClass.DESCRIPTOR),
            help="How urgent.",
            rich_help_panel=MESSAGE,
        ),
    ] = 0,
    media: Annotated[
        list[str] | None, typer.Option(metavar="URL", help="Makes it an MMS; repeatable.", rich_help_panel=MESSAGE)
    ] = None,
    subject: Annotated[str, typer.Option(help="Of an MMS.", rich_help_panel=MESSAGE)] = "",
    schedule: Annotated[
        str, typer.Option(metavar="TIME", help="Not before; with its zone.", rich_help_panel=MESSAGE)
    ] = "",
    validity: Annotated[
        str, typer.Option(metavar="15m|24h|3d", help="Not after accept or schedule by more.", rich_help_panel=MESSAGE)
    ] = "",
    ordering_key: Annotated[
        str, typer.Option(help="Messages with the same key leave in order.", rich_help_panel=MESSAGE)
    ] = "",
    reference: Annotated[str, typer.Option(help="Yours; listed by.", rich_help_panel=MESSAGE)] = "",
    label: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Yours; repeatable.", rich_help_panel=MESSAGE)
    ] = None,
    smart: Annotated[
        bool,
        typer.Option("--smart", help="Replace look-alikes where that makes it GSM-7.", rich_help_panel=MESSAGE),
    ] = False,
    request_id: Annotated[
        str, typer.Option(help="Of one message: sending it again is safe.", rich_help_panel=MESSAGE)
    ] = "",
    recipients: Annotated[
        int,
        typer.Option(
            min=0,
            max=NUMBERS_MAX,
            help="Spread lines without `to` over so many fictitious numbers (555-0100 to 555-0199 of each area code).",
            rich_help_panel=FILE,
        ),
    ] = 0,
    file_format: Annotated[
        str, typer.Option("--format", metavar="csv|jsonl", help="Where the name does not say.", rich_help_panel=FILE)
    ] = "",
    batch: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="Names this run: the same name and line is the same message. The file's own name unless given.",
            rich_help_panel=FILE,
        ),
    ] = "",
    rejects: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write lines that were not accepted here, as JSON lines.", rich_help_panel=FILE
        ),
    ] = None,
    retry_s: Annotated[
        float,
        typer.Option(
            "--retry-for",
            parser=reader(seconds_of),
            metavar="5m",
            help="Go on so long without an answer of the engine.",
        ),
    ] = 300.0,
    wait: Annotated[
        bool | None, typer.Option("--wait/--no-wait", help="See every message end; the default for files.")
    ] = None,
    wait_max_s: Annotated[
        float | None,
        typer.Option(
            "--wait-max", parser=reader(seconds_of), metavar="10m", help="Wait no longer than this after the last line."
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Send one message (--campaign, --to, --text), or FILE.

    A CSV file names its fields in the first line; fields, as in JSON: campaign, to, from, text, class, media, subject,
    schedule, validity, ordering_key, reference, labels (in CSV also label.KEY), smart, request_id. Options fill in what
    a line does not say. Request ids come from the file's name and the line: running it again sends nothing twice, also
    after Ctrl-C. Exit code 0: every line was accepted and, with --wait, has ended.
    """
    values: dict[str, Any] = {
        "campaign": campaign,
        "to": to,
        "from": sender,
        "text": text,
        "class": enum_name(m.MessageClass.DESCRIPTOR, message_class),
        "media": media,
        "subject": subject,
        "schedule": schedule,
        "validity": validity,
        "ordering_key": ordering_key,
        "reference": reference,
        "labels": _labels(label or []),
        "smart": smart,
        "request_id": request_id,
    }
    given = {name: value for name, value in values.items() if value}
    target = target_of(context)
    patience = Patience(retry_s, wait_max_s)
    if not file:
        _no_file_options(recipients, file_format, batch, rejects)
        _send_one(target, given, wait=bool(wait), patience=patience, as_json=as_json)
        return
    if request_id:
        raise usage("--request-id is for one message: the lines of a file have their own")
    if to and recipients:
        raise usage("give --to or --recipients, not both")
    kind = _kind(file, file_format)
    if file == "-" and not batch:
        raise usage(
            "standard input has no name to make request ids from: give --batch NAME, "
            "and the same one to run it again safely"
        )
    defaults = Defaults(batch or Path(file).name, given, recipients)
    with open_input(file, _standard_input()) as stream:
        job = Job(target, read_rows(stream, kind, defaults), wait is not False, patience, rejects)
        tally = send_rows(job, as_json=as_json)
    if not tally.complete(waited=job.wait):
        raise typer.Exit(EXIT_FAILED)


@dataclass(frozen=True, slots=True)
class Job:
    """What a run of many lines needs."""

    target: Target
    rows: Iterator[Row]
    wait: bool
    patience: Patience
    rejects: Path | None = None


def send_rows(job: Job, *, as_json: bool) -> Tally:
    """Hand in all rows with a progress display, print the final table, and return the numbers.

    Raises CliFailure when the run could not go on, and when it was interrupted; the table comes first.
    """
    tally = Tally()
    stopped: CliFailure | None = None
    with _reject_list(job.rejects) as rejected:
        try:
            with ended_by_sigterm():
                asyncio.run(_run(job, tally, rejected, show=not as_json))
        except KeyboardInterrupt:
            stopped = CliFailure("interrupted: run the same command again, nothing is sent twice", EXIT_INTERRUPTED)
        except TimeoutError:
            stopped = CliFailure(
                f"{tally.pending:,} messages have not ended; run the same command again to see them end"
            )
        except ExceptionGroup as group:
            stopped = _first(group)
        except LongwaveError as error:
            stopped = failure_of(error)
        except CliFailure as failure:
            stopped = failure
    if tally.read:
        if as_json:
            output.json_line(tally.document(waited=job.wait))
        else:
            output.fields(dict(tally.rows(waited=job.wait)))
    if stopped is not None:
        raise stopped
    return tally


def _first(group: ExceptionGroup[Exception]) -> CliFailure:
    """The expected failure in a group of tasks. Raises the group when there is another one in it."""
    expected, others = group.split((LongwaveError, CliFailure))
    if others is not None or expected is None:
        raise group
    error: BaseException = expected
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error if isinstance(error, CliFailure) else failure_of(error)


async def _run(job: Job, tally: Tally, rejected: "RejectList", *, show: bool) -> None:
    run = SendRun(job.target, tally, wait=job.wait, patience=job.patience, on_refused=rejected.add)
    display = asyncio.create_task(_display(run, job.wait, time.monotonic())) if show else None
    try:
        await run.run(job.rows)
    finally:
        if display is not None:
            display.cancel()
            await asyncio.gather(display, return_exceptions=True)


async def _display(run: SendRun, waits: bool, began_at: float) -> None:  # noqa: FBT001 - a fact of the run
    tally = run.tally
    if not sys.stderr.isatty():
        while True:
            await asyncio.sleep(REPORT_S)
            ended = f", {tally.settled_lines:,} ended" if waits else ""
            output.say(f"{time.monotonic() - began_at:.0f} s: {tally.read:,} lines, {tally.accepted:,} accepted{ended}")
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=output.err(), transient=True) as progress:
        accepting = progress.add_task("accepted", total=None)
        ending = progress.add_task("ended", total=None) if waits else None
        while True:
            # How many lines there are is known once all are read.
            total = tally.read if run.input_ended else None
            progress.update(accepting, completed=tally.accepted, total=total)
            if ending is not None:
                progress.update(ending, completed=tally.settled_lines, total=tally.accepted if total else None)
            await asyncio.sleep(REFRESH_S)


class RejectList:
    """Lines that were not accepted: the first on standard error, or all in a file."""

    def __init__(self, file: TextIO | None) -> None:
        """`file` None: show them."""
        self._file = file
        self._count = 0

    def add(self, line: int, reason: str) -> None:
        """Note a line."""
        self._count += 1
        if self._file is not None:
            self._file.write(output.json_text({"line": line, "reason": reason}) + "\n")
        elif self._count <= REJECTS_SHOWN_MAX:
            output.say(output.printable(f"line {line}: {reason}{_reused(reason)}"))

    def close(self) -> None:
        """Say how many there were more."""
        hidden = self._count - REJECTS_SHOWN_MAX
        if self._file is None and hidden > 0:
            output.say(f"and {hidden:,} more lines: --rejects FILE lists all of them")


def _reused(reason: str) -> str:
    if not reason.startswith("REQUEST_ID_REUSED"):
        return ""
    return " (the line, or an option, changed since it was sent: --batch NAME sends the file as a new one)"


@contextmanager
def _reject_list(path: Path | None) -> Iterator[RejectList]:
    with ExitStack() as stack:
        try:
            file = stack.enter_context(path.open("w", encoding="utf-8")) if path is not None else None
        except OSError as error:
            raise usage(f"--rejects {path}: {error.strerror}") from None
        listed = RejectList(file)
        stack.callback(listed.close)
        yield listed


def _send_one(target: Target, values: dict[str, Any], *, wait: bool, patience: Patience, as_json: bool) -> None:
    try:
        submission = submission_of(values)
    except ValueError as error:
        raise usage(f"{error}\nto send a file: longwave send FILE") from None
    one = OneMessage()
    run = SendRun(
        target, Tally(), wait=wait, patience=patience, on_refused=one.refused, on_accepted=one.took, on_final=one.ended
    )
    with suppress(TimeoutError):
        try:
            asyncio.run(run.run(iter([Row(1, submission)])))
        except ExceptionGroup as group:
            raise _first(group) from None
    if one.answer is None:
        raise CliFailure(one.refusal)
    _show_one(one.answer, one.ending, as_json=as_json)
    if wait and one.ending is None:
        raise CliFailure(f"it has not ended yet: `longwave get {one.answer.message}` says what it waits for")


class OneMessage:
    """What became of the only message of a run."""

    def __init__(self) -> None:
        """Nothing yet."""
        self.answer: SubmitResult | None = None
        self.ending: Ending | None = None
        self.refusal = ""

    def took(self, answer: SubmitResult) -> None:
        """It was accepted."""
        self.answer = answer

    def refused(self, _line: int, reason: str) -> None:
        """It was not."""
        self.refusal = reason

    def ended(self, ending: Ending) -> None:
        """It has ended."""
        self.ending = ending


def _show_one(answer: SubmitResult, ending: Ending | None, *, as_json: bool) -> None:
    encoding = enum_name(m.Encoding.DESCRIPTOR, answer.encoding)
    if as_json:
        document: dict[str, Any] = {
            "verdict": "ACCEPTED",
            "message": answer.message,
            "request_id": answer.request_id,
            "segments": answer.segments,
            "encoding": encoding,
        }
        if ending is not None:
            document |= {
                "state": enum_name(m.MessageState.DESCRIPTOR, ending.state),
                "reason": enum_name(m.Reason.DESCRIPTOR, ending.reason),
            }
            document["code"] = ending.code
        output.json_line(document)
        return
    segments = f"{answer.segments} segment{'' if answer.segments == 1 else 's'}"
    output.line(f"accepted {answer.message}: {segments}{f', {encoding}' if encoding else ''}")
    if ending is not None:
        parts = (
            enum_name(m.MessageState.DESCRIPTOR, ending.state),
            enum_name(m.Reason.DESCRIPTOR, ending.reason),
            ending.code,
        )
        output.line(" ".join(part for part in parts if part))


def _labels(texts: list[str]) -> dict[str, str]:
    labels = {}
    for text in texts:
        key, mark, value = text.partition("=")
        if not mark or not key:
            raise usage(f"--label {text!r}: write KEY=VALUE")
        labels[key] = value
    return labels


def _kind(file: str, asked: str) -> str:
    if asked not in {"", "csv", "jsonl"}:
        raise usage(f"--format {asked!r}: choose csv or jsonl")
    return format_of(file, asked or ("jsonl" if file == "-" else ""))


def _no_file_options(recipients: int, file_format: str, batch: str, rejects: Path | None) -> None:
    if recipients or file_format or batch or rejects is not None:
        raise usage("--recipients, --format, --batch and --rejects go with a FILE")


def _standard_input() -> BinaryIO:
    """Standard input by a reader of our own: a thread stuck in it at the end must not hold the interpreter's lock."""
    return cast("BinaryIO", io.BufferedReader(io.FileIO(0, closefd=False)))
