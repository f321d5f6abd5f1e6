"""The pages are true to the checkout: generated ones are fresh, and what they name exists.

It does not judge prose. A name counts when it stands in backticks, in a link or in a block of code.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from engine.config import FILE_VARIABLE, Settings, variable
from engine.errors import Verdict
from engine.metrics import Metrics

TOP_FOLDERS = r"(?:proto|engine|rust_core|server|loadtest|deploy|tests|docs|requirements|examples)"
LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
CODE = re.compile(r"```.*?```|`[^`\n]+`", re.DOTALL)
FENCE = re.compile(r"```.*?```", re.DOTALL)
PATH = re.compile(rf"(?<![\w/.-]){TOP_FOLDERS}/[\w./*-]*")
VARIABLE = re.compile(r"\bLONGWAVE_[A-Z0-9_]+")
METRIC = re.compile(r"\blongwave_[a-z0-9_]+")
MAKE = re.compile(r"(?:^|`)make ([a-z][a-z-]*)", re.MULTILINE)
COMMAND = re.compile(r"(?<![\w./-])(?:\.venv/bin/)?longwave ([a-z][a-z-]+)")
TRANSITION = re.compile(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \| (.*?) \|", re.MULTILINE)
# Written by what it documents, not by us: it may show things that are none of this checkout.
FOREIGN = ("requirements/",)


TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")


def pages(texts: dict[str, str]) -> dict[str, str]:
    """Path → text of every page."""
    return {path: text for path, text in texts.items() if path.endswith(".md") and not path.startswith(FOREIGN)}


def named(pattern: re.Pattern[str], text: str) -> set[str]:
    """What the pattern finds in the code of a page."""
    return {found for code in CODE.findall(text) for found in pattern.findall(code)}


def anchors(text: str) -> set[str]:
    """What a link may name after `#`: the headings as the usual renderers make them."""
    headings = re.findall(r"^#+ (.+)$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def exists(root: Path, name: str) -> bool:
    """Whether a path, or a pattern of paths, names something in the checkout."""
    name = name.rstrip(".")
    return any(root.glob(name)) if "*" in name else (root / name).exists()


def test_what_the_readers_find() -> None:
    page = "See [this](a.md#b) and `engine/no/such.py`.\n```sh\nmake nothing\n.venv/bin/longwave fly --now\n```\n"
    assert LINK.findall(page) == ["a.md#b"]
    assert named(PATH, page) == {"engine/no/such.py"}
    assert named(MAKE, page) == {"nothing"}
    assert named(COMMAND, page) == {"fly"}
    assert named(VARIABLE, "`LONGWAVE_X=1` LONGWAVE_Y") == {"LONGWAVE_X"}
    assert anchors("# Who, what & why\n```\n# no\n```\n") == {"who-what--why"}


def test_generated_pages_are_fresh(root: Path) -> None:
    check = subprocess.run(
        [sys.executable, "docs/generate.py", "--check"], cwd=root, capture_output=True, text=True, check=False
    )
    assert check.returncode == 0, check.stdout + check.stderr


def test_links_lead_somewhere(root: Path, house_texts: dict[str, str]) -> None:
    broken = []
    for path, text in pages(house_texts).items():
        for link in LINK.findall(FENCE.sub("", text)):
            if re.match(r"[a-z]+:", link):
                continue
            target, _, anchor = link.partition("#")
            to = ((root / path).parent / target).resolve() if target else root / path
            if not to.exists() or (anchor and anchor not in anchors(to.read_text(encoding="utf-8"))):
                broken.append(f"{path}: {link}")
    assert broken == []


def test_paths_exist(root: Path, house_texts: dict[str, str]) -> None:
    broken = [
        f"{path}: {name}"
        for path, text in pages(house_texts).items()
        for name in named(PATH, text)
        # A page of a folder may name what lies beside it.
        if not exists(root, name) and not exists((root / path).parent, name)
    ]
    assert broken == []


def test_settings_are_settings_and_all_are_documented(house_texts: dict[str, str]) -> None:
    known = {variable(field) for field in Settings.model_fields} | {FILE_VARIABLE}
    wrong = {path: unknown for path, text in pages(house_texts).items() if (unknown := named(VARIABLE, text) - known)}
    assert wrong == {}
    assert named(VARIABLE, house_texts["docs/CONFIGURATION.md"]) == known


def test_metrics_are_metrics_and_all_are_documented(house_texts: dict[str, str]) -> None:
    families = {family.name: family for family in Metrics("", "").registry.collect()}
    exposed = {f"{name}_total" if family.type == "counter" else name for name, family in families.items()}
    documented = named(re.compile(r"^`(\w+)`$"), house_texts["docs/METRICS.md"])
    ours = {name for name in exposed if not name.startswith(("process_", "python_gc_"))}
    assert ours <= documented
    wrong = {path: unknown for path, text in pages(house_texts).items() if (unknown := named(METRIC, text) - exposed)}
    assert wrong == {}


def test_every_verdict_is_documented(house_texts: dict[str, str]) -> None:
    rows = re.findall(r"^\| (\d+) \| `(\w+)` \|", house_texts["docs/VERDICTS.md"], re.MULTILINE)
    assert {name: int(number) for number, name in rows} == {
        verdict.name: int(verdict) for verdict in Verdict if verdict is not Verdict.UNSPECIFIED
    }


def test_every_transition_is_explained_and_no_other(house_texts: dict[str, str]) -> None:
    page = house_texts["docs/STATES.md"]
    listed = {
        (state, target)
        for state, targets in re.findall(r"^\| \d+ \| `([A-Z_]+)` \| [^|]* \| (.*) \|$", page, re.MULTILINE)
        for target in re.findall(r"`([A-Z_]+)`", targets)
    }
    explained = [(source, target) for source, target, _ in TRANSITION.findall(page)]
    assert len(listed) > 30, "the generated table was not read"
    assert sorted(explained) == sorted(listed)
    reasons = set(re.findall(r"^\| \d+ \| `([A-Z_]+)` \| [^|]* \|$", page, re.MULTILINE))
    used = {reason for *_, cell in TRANSITION.findall(page) for reason in re.findall(r"`([A-Z_]+)`", cell)}
    assert used <= reasons


@pytest.mark.parametrize("page", ["README.md", "CONTRIBUTING.md", "docs/ARCHITECTURE.md"])
def test_the_makefile_has_what_pages_call(page: str, root: Path, house_texts: dict[str, str]) -> None:
    targets = set(re.findall(r"^([a-z][a-z-]*):", (root / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    called = named(MAKE, house_texts[page])
    assert called
    assert called <= targets


def test_the_command_line_has_what_pages_call(root: Path, house_texts: dict[str, str]) -> None:
    script = """
import typer
from server.cli.app import app
command = typer.main.get_command(app)
print(*command.commands)
"""
    asked = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert asked.returncode == 0, asked.stderr
    known = set(asked.stdout.split())
    wrong = {path: unknown for path, text in pages(house_texts).items() if (unknown := named(COMMAND, text) - known)}
    assert wrong == {}


def test_decisions_are_numbered_and_listed(root: Path, house_texts: dict[str, str]) -> None:
    folder = root / "docs" / "decisions"
    numbered = sorted(path.name for path in folder.glob("*.md") if path.name != "README.md")
    assert [name[:4] for name in numbered] == [f"{number:04}" for number in range(1, len(numbered) + 1)]
    assert LINK.findall(house_texts["docs/decisions/README.md"]) == numbered
    headings = ("**Context.**", "**Decision.**", "**Why.**", "**Consequences.**")
    incomplete = [
        name for name in numbered if not all(heading in house_texts[f"docs/decisions/{name}"] for heading in headings)
    ]
    assert incomplete == []


def test_the_map_of_the_guide_names_a_milestone_or_a_place(house_texts: dict[str, str]) -> None:
    milestones = re.compile(r"many nodes|proof by load|in production|Terraform|with (the second provider|registration)")
    page = house_texts["docs/operations/GUIDE_MAP.md"]
    rows = re.findall(r"^\| (?!requirement|word|---)(.+?) \| (\w+) \| (.+) \|$", page, re.MULTILINE)
    assert len(rows) > 50
    assert {state for _, state, _ in rows} == {"met", "part", "later", "differs"}
    nowhere = [
        requirement
        for requirement, state, where in rows
        if (state in {"later", "part"} and not milestones.search(where))
        or (state == "met" and not CODE.search(where) and not LINK.search(where))
    ]
    assert nowhere == []


def test_tests_named_by_a_page_exist(house_texts: dict[str, str]) -> None:
    """The contract names the test behind each line: a line whose test was renamed promises nothing."""
    wanted = {found for text in pages(house_texts).values() for found in TEST.findall(text)}
    missing = {f"{file}::{name}" for file, name in wanted if f"def {name}(" not in house_texts.get(file, "")}
    assert missing == set()
    assert len(wanted) > 20
