"""Dependencies point one way: loadtest → longwave; server → engine → engine._core; server → longwave.

Reads imports, direct (by syntax) and transitive (by loading the engine in a fresh interpreter). It says nothing
of third parties other than grpc.
"""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

# Source folder → modules (and all below them) that no file in it may import.
FORBIDDEN: dict[str, tuple[str, ...]] = {
    "engine": ("grpc", "grpc_health", "grpc_reflection", "grpc_status", "longwave", "server", "loadtest"),
    "server": ("engine._core", "loadtest"),
    "loadtest": ("engine", "server"),
    "proto/longwave": ("engine", "server", "loadtest"),
}

# What of `engine/stores` stages and transport may know: the verbs, and the one place that picks a store.
STORES: set[str] = {"engine.stores.store", "engine.stores.opened"}
# Reads the place out of the URL: a file, or a server and its database.
STORE_PLACES: dict[str, set[str]] = {
    "engine/config.py": {"engine.stores.connection"},
    "engine/config_checks.py": {"engine.stores.connection", "engine.stores.mysql"},
}


def imported_modules(source: str, package: str) -> set[str]:
    """Absolute names of everything `source`, a module directly inside `package`, imports at any depth of its code."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if node.level:
                parent = ".".join(package.split(".")[: len(package.split(".")) - node.level + 1])
                module = f"{parent}.{module}".rstrip(".")
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def breaches(source: str, package: str, forbidden: tuple[str, ...]) -> set[str]:
    """The forbidden modules that `source` imports."""
    return {
        name
        for name in forbidden
        if any(module == name or module.startswith(f"{name}.") for module in imported_modules(source, package))
    }


@pytest.mark.parametrize(
    ("source", "package", "expected"),
    [
        ("import grpc.aio", "engine", {"grpc"}),
        ("def late():\n    from grpc import aio", "engine.providers", {"grpc"}),
        ("from longwave.v1 import messaging_pb2", "engine", {"longwave"}),
        ("import engine, server.app", "engine", {"server"}),
        ("import grpcio_like, serverless", "engine", set()),
        ("from . import _core", "engine", set()),
        ("from .. import record", "engine.providers.telnyx", set()),
    ],
)
def test_the_reader_of_imports_sees_every_form(source: str, package: str, expected: set[str]) -> None:
    assert breaches(source, package, FORBIDDEN["engine"]) == expected


def test_a_relative_import_is_made_absolute() -> None:
    assert imported_modules("from .. import _core", "engine.stores") == {"engine", "engine._core"}
    assert imported_modules("from ._core import split", "engine") == {"engine._core", "engine._core.split"}


@pytest.mark.parametrize("folder", FORBIDDEN)
def test_imports_point_one_way(folder: str, root: Path, house_files: list[Path]) -> None:
    base = root / folder
    sources = [path for path in house_files if path.suffix in {".py", ".pyi"} and path.is_relative_to(base)]
    assert sources, f"{folder} holds no Python source: is the layout still the one of docs/ARCHITECTURE.md?"
    found = {}
    for path in sources:
        package = ".".join(path.parent.relative_to(base.parent).parts)
        if wrong := breaches(path.read_text(encoding="utf-8"), package, FORBIDDEN[folder]):
            found[path.relative_to(root).as_posix()] = sorted(wrong)
    assert not found


def rooms_of_stores(source: str, package: str) -> set[str]:
    """The modules of `engine/stores` that `source` imports, as far as two names below `engine` tell."""
    names = imported_modules(source, package)
    return {".".join(name.split(".")[:3]) for name in names if name.startswith("engine.stores.")}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from engine.stores import sqlite", {"engine.stores.sqlite"}),
        ("from engine.stores.writer import Writer", {"engine.stores.writer"}),
        ("def late():\n    import engine.stores.sql", {"engine.stores.sql"}),
        ("from .stores.store import Store", {"engine.stores.store"}),
        ("from engine import stores_of_old", set()),
    ],
)
def test_the_rooms_of_the_stores_are_told_apart(source: str, expected: set[str]) -> None:
    assert rooms_of_stores(source, "engine") == expected


def test_the_stages_know_the_store_by_its_verbs_alone(root: Path, house_files: list[Path]) -> None:
    """A second store stands beside the first without any stage knowing."""
    inside, outside = (root / "engine", root / "server"), (root / "engine" / "stores", root / "server" / "cli")
    sources = [
        path
        for path in house_files
        if path.suffix in {".py", ".pyi"}
        and any(path.is_relative_to(folder) for folder in inside)
        # The commands that look at a store's file, or mend it, know what it is made of.
        and not any(path.is_relative_to(folder) for folder in outside)
    ]
    found = {}
    for path in sources:
        name = path.relative_to(root).as_posix()
        package = ".".join(path.parent.relative_to(root).parts)
        rooms = rooms_of_stores(path.read_text(encoding="utf-8"), package)
        if wrong := rooms - STORES - STORE_PLACES.get(name, set()):
            found[name] = sorted(wrong)
    assert len(sources) > 50
    assert not found


def test_loading_the_whole_engine_loads_no_grpc(root: Path) -> None:
    script = """
import importlib, pkgutil, sys
import engine
for module in pkgutil.walk_packages(engine.__path__, "engine."):
    if ".migrations" not in module.name:  # Alembic's scripts run inside its own context only
        importlib.import_module(module.name)
print(*sorted(name for name in sys.modules if name.partition(".")[0] in {"grpc", "longwave", "server", "loadtest"}))
"""
    loaded = subprocess.run([sys.executable, "-c", script], cwd=root, capture_output=True, text=True, check=False)
    assert loaded.returncode == 0, loaded.stderr
    assert loaded.stdout.split() == []
