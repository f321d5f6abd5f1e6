"""Runbooks: one for each alert and no other, the same four headings, commands that exist.

It judges no advice.
"""

import re
import shlex
from functools import cache
from typing import Any, cast

import pytest
import typer

from server.cli.app import app
from tests.observe import promql

FOLDER = promql.ROOT / "docs" / "operations" / "runbooks"
RUNBOOKS = tuple(sorted(FOLDER.glob("*.md")))
HEADINGS = ["Meaning", "Impact", "Diagnosis", "Mitigation"]
FENCE = re.compile(r"```sh\n(.*?)```", re.DOTALL)
INLINE = re.compile(r"`((?:longwave|kubectl) [^`]+)`")
# typer brings its own click; this is its UsageError.
USAGE_ERROR = cast("type[Exception]", typer.BadParameter.__mro__[1])
# What an operator of a cluster has at hand, beside longwave.
PROGRAMS = {"longwave", "kubectl", "curl", "mysql", "redis-cli", "df"}


def commands(text: str) -> list[list[str]]:
    """The commands of a page as words, those in a pod, too."""
    lines = [line for block in FENCE.findall(text) for line in block.splitlines() if line.strip()]
    found = []
    for line in [*lines, *INLINE.findall(text)]:
        words = [word for word in shlex.split(line) if word != "&"]
        found.append(words)
        if "--" in words:
            found.append(words[words.index("--") + 1 :])
    return found


@cache
def root_command() -> Any:
    """The command line."""
    return typer.main.get_command(app)


def complaint(words: list[str]) -> str | None:
    """What is wrong with a call of longwave, by the command line's own parser; None when nothing is."""
    command, rest = root_command(), words[1:]
    while hasattr(command, "commands"):
        if not rest or rest[0] not in command.commands:
            return f"no such command: {' '.join(words)}"
        command, rest = command.commands[rest[0]], rest[1:]
    try:
        command.make_context(command.name, list(rest))
    except USAGE_ERROR as error:
        return f"{' '.join(words)}: {error}"
    return None


def test_each_alert_has_its_runbook_and_no_other() -> None:
    assert [path.stem for path in RUNBOOKS] == sorted(promql.alerts())


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_a_runbook_has_the_four_parts(path: Any) -> None:
    text = path.read_text(encoding="utf-8")
    title, *parts = re.split(r"^#+ (.+)$", text, flags=re.MULTILINE)[1::2]
    assert title == path.stem
    assert parts == HEADINGS
    bodies = re.split(r"^#+ .+$", text, flags=re.MULTILINE)[2:]
    assert all(len(body.split()) >= 5 for body in bodies)


@pytest.mark.parametrize("path", RUNBOOKS, ids=lambda path: path.stem)
def test_its_commands_exist(path: Any) -> None:
    found = commands(path.read_text(encoding="utf-8"))
    assert {words[0] for words in found} <= PROGRAMS
    assert [said for words in found if words[0] == "longwave" and (said := complaint(words))] == []


@pytest.mark.parametrize(
    "wrong", ["longwave fly", "longwave tenant raise", "longwave doctor --deep", "longwave list --state asleep"]
)
def test_a_command_that_does_not_exist_is_noticed(wrong: str) -> None:
    assert complaint(shlex.split(wrong)) is not None


def test_commands_in_a_pod_and_in_a_line_are_read() -> None:
    text = "Do `longwave fly`.\n```sh\nkubectl exec pod -- longwave sink\nlongwave doctor &\n```\n"
    assert [words[:2] for words in commands(text) if words[0] == "longwave"] == [
        ["longwave", "sink"],
        ["longwave", "doctor"],
        ["longwave", "fly"],
    ]
