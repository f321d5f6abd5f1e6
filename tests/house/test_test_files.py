"""Tests are plain folders of files that always run: no packages, no skips, no expected failures.

It does not judge what a test asserts.
"""

import ast
import re
from pathlib import Path

import pytest

SKIPPING_NAMES = {"skip", "skipif", "skipIf", "skipUnless", "xfail", "importorskip", "SkipTest", "skipTest"}
RUST_IGNORE = re.compile(r"^\s*#\[ignore\b", re.MULTILINE)


def skips(source: str) -> list[int]:
    """Line numbers where `source` asks a test runner to pass over a test or over its failure."""
    lines = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in SKIPPING_NAMES:
            holder = ast.unparse(node.value)
            if holder in {"pytest", "pytest.mark", "mark", "unittest", "self"}:
                lines.append(node.lineno)
        elif isinstance(node, ast.ImportFrom) and node.module in {"pytest", "unittest"}:
            lines.extend(node.lineno for alias in node.names if alias.name in SKIPPING_NAMES)
    return lines


@pytest.mark.parametrize(
    "source",
    [
        "@pytest.mark.skip\ndef test(): ...",
        "@pytest.mark.skipif(True, reason='x')\ndef test(): ...",
        "def test():\n    pytest.skip('x')",
        "redis = pytest.importorskip('redis')",
        "from pytest import skip",
        "@pytest.mark.xfail\ndef test(): ...",
    ],
)
def test_every_way_to_skip_is_recognised(source: str) -> None:
    assert skips(source)


def test_reading_past_a_row_is_not_a_skip() -> None:
    assert skips("rows.skip(3)\nskip = 4") == []


def test_no_python_test_is_skipped(house_texts: dict[str, str]) -> None:
    found = {
        path: lines
        for path, text in house_texts.items()
        if path.startswith("tests/") and path.endswith(".py") and (lines := skips(text))
    }
    assert found == {}


def test_no_rust_test_is_ignored(house_texts: dict[str, str]) -> None:
    assert RUST_IGNORE.search("    #[ignore]\n    fn t() {}")
    assert [path for path, text in house_texts.items() if path.endswith(".rs") and RUST_IGNORE.search(text)] == []


def test_test_folders_are_no_packages(root: Path) -> None:
    assert sorted(path.relative_to(root).as_posix() for path in (root / "tests").rglob("__init__.py")) == []


def test_the_contract_folder_is_no_package(root: Path) -> None:
    """One would shadow another well-known package called `proto`."""
    assert not (root / "proto" / "__init__.py").exists()
