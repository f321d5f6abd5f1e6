"""Gives the house tests the checkout: its root and the files that belong to it.

It reads no file's content; each test says what it looks for.
"""

import subprocess
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def root() -> Path:
    """The top folder of the checkout."""
    return Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def house_files(root: Path) -> list[Path]:
    """Every file that is tracked or would be (not ignored), that exists and is a regular file, sorted."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=root,
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    paths = (root / name for name in sorted(set(listing.split("\0"))) if name)
    return [path for path in paths if path.is_file() and not path.is_symlink()]


@pytest.fixture(scope="session")
def house_texts(root: Path, house_files: list[Path]) -> dict[str, str]:
    """Path from the root → content, for every file that is UTF-8 text."""
    texts = {}
    for path in house_files:
        try:
            texts[path.relative_to(root).as_posix()] = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
    return texts
