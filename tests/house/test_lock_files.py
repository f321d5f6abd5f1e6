"""The three lock files are complete, hashed, and one resolution: run ⊂ dev ⊂ lint. Those apart are hashed, too.

It does not ask any registry whether newer versions exist.
"""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PIN = re.compile(
    r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>\S+)(?: ; [^\\]+)? \\\n"
    r"(?:    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+",
    re.MULTILINE,
)
UNPINNED = "grpcio>=1 \\\n    --hash=sha256:" + "0" * 64 + "\n"


def pins(text: str) -> dict[str, str]:
    """Name → version of a lock file; every line of it must belong to a hashed pin."""
    rest = PIN.sub("", text)
    assert rest.strip() == "", f"not a hashed pin: {rest.strip().splitlines()[0]}"
    return {canonicalize_name(match["name"]): match["version"] for match in PIN.finditer(text)}


@pytest.fixture(scope="module")
def locks(root: Path) -> dict[str, dict[str, str]]:
    return {name: pins((root / "requirements" / f"{name}.lock").read_text()) for name in ("run", "dev", "lint")}


@pytest.mark.parametrize("line", ["grpcio==1.0\n", "-e ./proto\n", UNPINNED])
def test_a_line_without_pin_and_hash_is_refused(line: str) -> None:
    with pytest.raises(AssertionError, match="not a hashed pin"):
        pins(line)


def test_the_locks_are_one_resolution(locks: dict[str, dict[str, str]]) -> None:
    assert locks["run"].items() <= locks["dev"].items() <= locks["lint"].items()


def declared(root: Path) -> dict[str, set[str]]:
    """Lock name → requirements that it must hold, as the two pyproject files declare them."""
    application = tomllib.loads((root / "pyproject.toml").read_text())
    client = tomllib.loads((root / "proto" / "pyproject.toml").read_text())
    extras = application["project"]["optional-dependencies"]
    groups = application["dependency-groups"]
    run = {*application["project"]["dependencies"], *client["project"]["dependencies"]}
    run |= {*extras["mysql"], *extras["redis"], *extras["traces"]}
    dev = {*run, *extras["load"], *groups["build"], *groups["generate"], *groups["test"]}
    return {"run": run - {"longwave"}, "dev": dev - {"longwave"}, "lint": {*dev, *groups["lint"]} - {"longwave"}}


@pytest.mark.parametrize("lock", ["run", "dev", "lint"])
def test_a_lock_satisfies_what_is_declared(lock: str, root: Path, locks: dict[str, dict[str, str]]) -> None:
    unmet = []
    for text in declared(root)[lock]:
        requirement = Requirement(text)
        version = locks[lock].get(canonicalize_name(requirement.name))
        if version is None or not requirement.specifier.contains(version):
            unmet.append(f"{text}: locked at {version}")
    assert unmet == []


@pytest.mark.parametrize(("lock", "at_least"), [("peers", 6), ("checkov", 1)])
def test_a_lock_of_its_own_has_what_its_environment_is_made_of(lock: str, at_least: int, root: Path) -> None:
    locked = pins((root / "requirements" / f"{lock}.lock").read_text())
    wanted = [line for line in (root / "requirements" / f"{lock}.in").read_text().splitlines() if line[:1].isalpha()]
    assert len(wanted) >= at_least
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(locked[canonicalize_name(requirement.name)])


def test_the_crate_lock_names_one_registry(root: Path) -> None:
    packages = tomllib.loads((root / "rust_core" / "Cargo.lock").read_text())["package"]
    sources = {package["source"] for package in packages if "source" in package}
    assert sources == {"registry+https://github.com/rust-lang/crates.io-index"}
