"""Reads a Dockerfile into stages of instructions; carries none out.

It knows the instructions and forms that `deploy/docker/Dockerfile` uses. Invariant: whatever it does not know raises
`DockerfileError`, so that no instruction is passed over in silence.
"""

import json
import re
import shlex
from dataclasses import dataclass, field
from typing import Final

KNOWN: Final = frozenset(
    {
        "CMD",
        "COPY",
        "ENTRYPOINT",
        "ENV",
        "EXPOSE",
        "FROM",
        "HEALTHCHECK",
        "LABEL",
        "RUN",
        "STOPSIGNAL",
        "USER",
        "VOLUME",
        "WORKDIR",
    }
)
REFERENCE: Final = re.compile(r"\$(?:\{(\w+)\}|(\w+))")


class DockerfileError(ValueError):
    """Something that this reader does not know."""


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction, its lines joined."""

    line: int
    """Where it begins."""
    name: str
    text: str
    """What stands behind the name."""


@dataclass(slots=True)
class Stage:
    """A stage, and where it begins."""

    base: str
    """Name of another stage, or of an image."""
    name: str
    instructions: list[Instruction] = field(default_factory=list)


def parse(text: str) -> dict[str, Stage]:
    """Stages by name, in order. Raises DockerfileError."""
    stages: dict[str, Stage] = {}
    current: Stage | None = None
    for instruction in _instructions(text):
        if instruction.name == "FROM":
            words = instruction.text.split()
            if len(words) != 3 or words[1].upper() != "AS":
                raise DockerfileError(f"line {instruction.line}: write FROM base AS name")
            current = stages[words[2]] = Stage(words[0], words[2])
        elif current is None:
            raise DockerfileError(f"line {instruction.line}: {instruction.name} before the first FROM")
        else:
            current.instructions.append(instruction)
    return stages


def _instructions(text: str) -> list[Instruction]:
    found: list[Instruction] = []
    began, joined = 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if line.lstrip().startswith("#") or (not line.strip() and not joined):
            continue
        began = began or number
        joined += line.strip().removesuffix("\\")
        if line.rstrip().endswith("\\"):
            joined += " "
            continue
        name, _, rest = joined.strip().partition(" ")
        if name not in KNOWN or rest.lstrip().startswith("<<"):
            raise DockerfileError(f"line {began}: {name} in this form is not known here")
        found.append(Instruction(began, name, re.sub(r" {2,}", " ", rest.strip()) if name != "RUN" else rest.strip()))
        began, joined = 0, ""
    if joined:
        raise DockerfileError(f"line {began}: it does not end")
    return found


def assignments(instruction: Instruction, known: dict[str, str]) -> dict[str, str]:
    """The variables that an ENV sets; references take what is `known`."""
    made: dict[str, str] = {}
    for word in shlex.split(instruction.text):
        name, mark, value = word.partition("=")
        if not mark:
            raise DockerfileError(f"line {instruction.line}: write ENV name=value")
        made[name] = REFERENCE.sub(lambda match: known.get(match[1] or match[2], ""), value)
    return made


def words(instruction: Instruction) -> list[str]:
    """The list of an ENTRYPOINT, CMD, VOLUME or of a HEALTHCHECK's CMD: JSON, as the exec form is."""
    text = instruction.text.partition("CMD ")[2] if instruction.name == "HEALTHCHECK" else instruction.text
    try:
        found = json.loads(text)
    except ValueError:
        raise DockerfileError(f"line {instruction.line}: write the exec form, a JSON list") from None
    if not isinstance(found, list) or not all(isinstance(word, str) for word in found):
        raise DockerfileError(f"line {instruction.line}: write the exec form, a JSON list")
    return found
