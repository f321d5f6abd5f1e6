"""`longwave doctor`: is everything in place to run: settings, store, ports, provider, clock.

It prints what the checks of `doctor_store` and `doctor_network` find; it repairs nothing.
"""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Final

import typer

from engine.config import Settings, load_settings
from engine.errors import ConfigError
from server.cli import output
from server.cli.doctor_network import check_network
from server.cli.doctor_store import check_store
from server.cli.failure import EXIT_FAILED
from server.cli.finding import Finding, Level
from server.cli.output import Json

STYLES: Final = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red bold"}


def doctor(*, as_json: Json = False) -> None:
    """Check settings, store, ports, provider and clock; exit code 1 when something is wrong.

    It asks the provider one harmless question (a message that does not exist), and changes nothing.
    """
    findings = list(_findings())
    failed = any(finding.level is Level.FAIL for finding in findings)
    if as_json:
        output.json_line({"ok": not failed, "checks": [asdict(finding) for finding in findings]})
    else:
        for finding in findings:
            _show(finding)
    if failed:
        raise typer.Exit(EXIT_FAILED)


def _findings() -> Iterator[Finding]:
    try:
        settings = load_settings()
    except ConfigError as error:
        for problem in error.problems:
            yield Finding(Level.FAIL, "settings", problem, "longwave config --markdown lists all of them")
        return
    yield Finding(Level.OK, "settings", _given(settings))
    held = yield from check_store(settings)
    yield from check_network(settings, engine_runs=held)


def _given(settings: Settings) -> str:
    names = [name for name in type(settings).model_fields if settings.source_of(name) != "default"]
    return f"{len(names)} given, the rest by default; longwave config lists them"


def _show(finding: Finding) -> None:
    console = output.out()
    console.print(f"{finding.level:<4}", style=STYLES[finding.level], end=" ")
    console.print(f"{finding.check}: {finding.found}", soft_wrap=True)
    if finding.advice:
        console.print(f"     {finding.advice}", soft_wrap=True)
