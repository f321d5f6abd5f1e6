"""`longwave smoke`: does a deployed engine work end to end, asked through its public interfaces alone.

The checks are in `smoke_checks`; here are the options, the order, and what is shown. It is what a deployment runs last.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Annotated, Final

import typer

from longwave.client import LongwaveError
from server.cli import output
from server.cli.connect import client, target_of
from server.cli.doctor import STYLES
from server.cli.failure import EXIT_FAILED, CliFailure, failure_of
from server.cli.finding import Finding, Level
from server.cli.names import duration_ms, resource
from server.cli.options import reader
from server.cli.output import Json
from server.cli.smoke_checks import EngineChecks, Order, ready, scrape
from server.cli.smoke_tls import link

TEXT: Final = "Longwave: a test message of a deployment."
# Room for a carrier's receipt: most come within seconds, some within a minute.
FINAL_S: Final = 120.0


@dataclass(frozen=True, slots=True)
class Step:
    """One check; the later ones of a chain are not tried once one has failed, but those that clean up."""

    name: str
    run: Callable[[], str]
    """Says what is the case. Raises CliFailure or LongwaveError."""
    anyway: Callable[[], bool] = lambda: False
    """Whether it is to be tried though one before it failed."""


@dataclass(frozen=True, slots=True)
class Done:
    """What came of a check, and how long it took."""

    finding: Finding
    seconds: float


def smoke(
    context: typer.Context,
    *,
    campaign: Annotated[str, typer.Option(metavar="CAMPAIGN", help="A campaign of the key's tenant.")],
    to: Annotated[
        str,
        typer.Option(
            metavar="NUMBER",
            help="Send a message there and see it delivered. Without: one for an hour ahead, cancelled at once.",
        ),
    ] = "",
    text: Annotated[str, typer.Option(help="The message's text.")] = TEXT,
    within_s: Annotated[
        float,
        typer.Option(
            "--within",
            parser=reader(lambda text: duration_ms(text) / 1000),
            metavar="2m",
            help="The message must be delivered so soon.",
        ),
    ] = FINAL_S,
    ops: Annotated[
        str, typer.Option(metavar="URL", help="Operations, such as http://127.0.0.1:8080: /ready and /metrics, too.")
    ] = "",
    expect_version: Annotated[
        str, typer.Option(metavar="VERSION", help="Fail when the engine has another version.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Check a running engine end to end, a line for each check; exit code 1 when one fails.

    Link, health, version, keys, a submission, the same again, and its end. Without --to nothing reaches a carrier.
    """
    order = Order(resource("campaigns", campaign), to, text, within_s, expect_version)
    began_at = time.monotonic()
    done: list[Done] = []
    for each in _all(context, order, ops):
        done.append(each)
        if not as_json:
            _show(each)
    failed = [each for each in done if each.finding.level is Level.FAIL]
    if as_json:
        checks = [asdict(each.finding) | {"seconds": round(each.seconds, 3)} for each in done]
        output.json_line({"ok": not failed, "seconds": round(time.monotonic() - began_at, 3), "checks": checks})
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _all(context: typer.Context, order: Order, ops: str) -> Iterator[Done]:
    target = target_of(context)
    with client(context) as connected, client(context, api_key=EngineChecks.made_up_key()) as stranger:
        checks = EngineChecks(connected, stranger, order)
        yield from _chain(
            [
                Step("link", lambda: link(target)),
                Step("health", checks.health),
                Step("version", checks.version),
                Step("wrong key", checks.wrong_key),
                Step("submit", checks.submit),
                Step("submit again", checks.submit_again),
                Step("delivered", checks.delivered)
                if order.recipient
                else Step("cancelled", checks.cancelled, checks.leaves_later),
            ]
        )
    if ops:
        yield from _chain([Step("ready", lambda: ready(ops))])
        yield from _chain([Step("metrics", lambda: scrape(ops))])


def _chain(steps: list[Step]) -> Iterator[Done]:
    """Each step with its time, until one fails: what builds on it would only fail for the same reason."""
    broken = ""
    for step in steps:
        if broken and not step.anyway():
            yield Done(Finding(Level.WARN, step.name, f"not tried: {broken} failed"), 0.0)
            continue
        began_at = time.monotonic()
        finding = _tried(step)
        yield Done(finding, time.monotonic() - began_at)
        if finding.level is Level.FAIL and not broken:
            broken = step.name


def _tried(step: Step) -> Finding:
    try:
        return Finding(Level.OK, step.name, step.run())
    except CliFailure as failure:
        said = str(failure)
    except LongwaveError as error:
        said = str(failure_of(error))
    found, _, advice = said.partition("\n")
    return Finding(Level.FAIL, step.name, output.printable(found), advice)


def _show(done: Done) -> None:
    finding = done.finding
    console = output.out()
    console.print(f"{finding.level:<4}", style=STYLES[finding.level], end=" ")
    console.print(f"{done.seconds:7.3f} s  {finding.check}: {finding.found}", soft_wrap=True)
    for advice in finding.advice.splitlines():
        console.print(f"                {advice}", soft_wrap=True)
