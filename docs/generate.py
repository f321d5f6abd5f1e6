"""Writes the reference pages that say what the code says: METRICS, CONFIGURATION, VERDICTS and the tables of STATES.

It judges nothing and invents nothing: every row comes from a declaration and its comment. Run it as
`python docs/generate.py`; with `--check` it writes nothing and fails when a page is stale.

Invariants: two runs give the same bytes; of STATES.md only what lies between its markers is written.
"""

# ruff: noqa: INP001 - a script beside the pages it writes, imported by nobody

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.config_listing import reference_markdown
from engine.metrics import Metrics

ROOT: Final = Path(__file__).resolve().parents[1]
DOCS: Final = ROOT / "docs"
PROTO: Final = ROOT / "proto" / "longwave" / "v1"
CORE: Final = ROOT / "rust_core" / "src"
HINT: Final = "<!-- Written by docs/generate.py. Change the declaration it comes from, then run it again. -->"
BEGIN: Final = "<!-- begin: written by docs/generate.py -->"
END: Final = "<!-- end -->"
# Verdicts from here on are worth another try; rust_core/src/verdict.rs says the same and tests it.
RETRYABLE_FROM: Final = 60


@dataclass(frozen=True, slots=True)
class Value:
    """One value of an enumeration of the contract."""

    name: str
    """Without the enumeration's prefix."""
    number: int
    comment: str
    """The lines above it as one."""
    section: str
    """The comment that stands alone above its group, or nothing."""


def enumeration(file: str, name: str) -> list[Value]:
    """The values of a top-level enum of a .proto file in order, without the unspecified one."""
    body = (PROTO / file).read_text(encoding="utf-8").split(f"enum {name} {{", 1)[1].split("\n}", 1)[0]
    prefix = re.sub(r"(?<!^)(?=[A-Z])", "_", name).upper() + "_"
    values: list[Value] = []
    comment: list[str] = []
    section = ""
    for line in map(str.strip, body.splitlines()):
        if line.startswith("//"):
            comment.append(line.removeprefix("//").strip())
        elif not line:
            # A comment with a blank line below it heads a group.
            section, comment = " ".join(comment) or section, []
        elif found := re.fullmatch(r"(\w+) = (\d+);", line):
            values.append(Value(found[1].removeprefix(prefix), int(found[2]), " ".join(comment), section))
            comment = []
    return [value for value in values if value.number]


def metrics_page() -> str:
    """What /metrics exposes."""
    return f"""{HINT}

# Metrics

`/metrics` on `LONGWAVE_HTTP_ADDRESS`. Names without the prefix `longwave_` are those that existing dashboards of the
operations guide expect. No number, message id or text is ever a label; a label whose values come from outside keeps a
bounded number of them, the rest counts as `other`.

{Metrics("", "").describe()}"""


def configuration_page() -> str:
    """Every setting."""
    return f"""{HINT}

# Configuration

{reference_markdown()}
`longwave config` prints what is in force and where each value came from, with secrets hidden. Values that are fine each
but not together are refused at the start, each with the sentence that says what to change
(`engine/config_checks.py`).
"""


def verdicts_page() -> str:
    """Every answer at the door."""
    rows = []
    answers = {name: (status, advice) for name, status, advice in _answers()}
    for value in enumeration("verdict.proto", "Verdict"):
        status, advice = answers[value.name]
        again = "yes" if value.number >= RETRYABLE_FROM else ""
        rows.append(f"| {value.number} | `{value.name}` | `{status}` | {again} | {value.comment} | {advice} |")
    return f"""{HINT}

# Verdicts

The closed list of answers at the door. A number is never reused. A refused call carries `google.rpc.ErrorInfo` with the
name as its reason and the number in its metadata; in a batch the verdict stands in each `SubmitResult`. *Again* says
whether the very same submission may succeed later, or may turn out to have succeeded: with the same `request_id` it is
then safe to hand it in again. All others are answers for good.

| number | verdict | gRPC status | again | meaning | what to do |
| --- | --- | --- | --- | --- | --- |
{chr(10).join(rows)}
"""


def _answers() -> Iterator[tuple[str, str, str]]:
    source = (CORE / "verdict.rs").read_text(encoding="utf-8").split("verdicts! {", 1)[1].split("\n}", 1)[0]
    for found in re.finditer(r'\w+ = \d+, "(\w+)", (\w+),\s+"((?:[^"\\]|\\.)*)";', source):
        yield found[1], re.sub(r"(?<!^)(?=[A-Z])", "_", found[2]).upper(), found[3]


def transitions() -> list[tuple[str, list[str]]]:
    """The list of rust_core/src/state.rs: each state with those it may become."""
    source = (CORE / "state.rs").read_text(encoding="utf-8")
    words = dict(re.findall(r'Self::(\w+) => "(\w+)"', source))
    table = source.split("pub const TRANSITIONS", 1)[1].split("\n];", 1)[0].split("= &[", 1)[1]
    rows = re.findall(r"\(\s*State::(\w+),\s*&\[(.*?)\]", table, re.DOTALL)
    return [(words[state], [words[target] for target in re.findall(r"State::(\w+)", rest)]) for state, rest in rows]


def states_tables() -> str:
    """The states, what each may become, and the reasons."""
    may_become = dict(transitions())
    states = [
        f"| {value.number} | `{value.name}` | {value.comment} | "
        f"{', '.join(f'`{target}`' for target in may_become.get(value.name, ())) or 'nothing'} |"
        for value in enumeration("messaging.proto", "MessageState")
    ]
    reasons = [
        f"| {value.number} | `{value.name}` | {value.comment} |" for value in enumeration("messaging.proto", "Reason")
    ]
    return f"""
| number | state | meaning | may become |
| --- | --- | --- | --- |
{chr(10).join(states)}

| number | reason | meaning |
| --- | --- | --- |
{chr(10).join(reasons)}
"""


def pages() -> dict[Path, str]:
    """Every page this script writes, as it should be."""
    states = DOCS / "STATES.md"
    before, rest = states.read_text(encoding="utf-8").split(BEGIN, 1)
    after = rest.split(END, 1)[1]
    return {
        DOCS / "METRICS.md": metrics_page(),
        DOCS / "CONFIGURATION.md": configuration_page(),
        DOCS / "VERDICTS.md": verdicts_page(),
        states: f"{before}{BEGIN}\n{states_tables()}\n{END}{after}",
    }


def main(arguments: list[str]) -> int:
    """Write the pages, or with `--check` compare them; 1 when one was stale, 2 for another argument."""
    if arguments not in ([], ["--check"]):
        sys.stderr.write("usage: generate.py [--check]\n")
        return 2
    stale = 0
    for path, text in pages().items():
        name = path.relative_to(ROOT).as_posix()
        if path.exists() and path.read_text(encoding="utf-8") == text:
            continue
        stale += 1
        if arguments:
            sys.stderr.write(f"{name} is stale: run python docs/generate.py\n")
        else:
            path.write_text(text, encoding="utf-8")
            sys.stdout.write(f"wrote {name}\n")
    return 1 if arguments and stale else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
