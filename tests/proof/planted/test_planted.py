"""Planted bugs are found by name, and nothing is found where none is planted (`bugs.py` has the table)."""

import shutil
from pathlib import Path

import pytest

from engine import failpoints
from engine.errors import ConfigError
from engine.stores import wal
from engine.stores.connection import Connection, open_writer
from tests.corridor.carrier_process import Carrier
from tests.corridor.crash_checker import RULES, check
from tests.corridor.crash_evidence import Evidence
from tests.proof.planted.bugs import BUGS
from tests.proof.planted.scene import Scene
from tests.proof.planted.scenes import PLOTS, Plot

# A good engine is waited for; a broken one may never come to what the scene waits for.
PATIENCE_S = 30.0
IMPATIENCE_S = 4.0


async def perform(plot: Plot, scene: Scene) -> Evidence:
    """Play a scene to its end; what it left behind."""
    try:
        await plot.play(scene)
        return await scene.close()
    finally:
        failpoints.arm("")
        await scene.engine.stop()


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    shutil.copy(empty_store, tmp_path / "longwave.db")
    return tmp_path


@pytest.mark.parametrize("name", PLOTS)
async def test_without_a_bug_nothing_is_found(name: str, folder: Path, carrier: Carrier) -> None:
    plot = PLOTS[name]
    assert check(await perform(plot, Scene(folder, carrier, PATIENCE_S)), plot.promises) == []


@pytest.mark.parametrize("name", BUGS)
async def test_a_planted_bug_is_found(
    name: str, folder: Path, carrier: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the rule that is to see it, under the name of the promise it breaks."""
    bug = BUGS[name]
    plot = PLOTS[bug.scene]
    scene = Scene(folder, carrier, IMPATIENCE_S)
    bug.plant(monkeypatch, scene)
    evidence = await perform(plot, scene)
    [rule] = [rule for rule in RULES if rule.__name__ == bug.rule]
    found = list(rule(evidence, plot.promises))
    seen = [violation for violation in found if violation.invariant == bug.invariant and bug.words in violation.what]
    assert seen, check(evidence, plot.promises)


def test_every_invariant_has_its_bug() -> None:
    """But I23, which takes two versions of the engine; and every scene is some bug's."""
    assert {bug.invariant for bug in BUGS.values()} == {f"I{number}" for number in range(1, 25)} - {"I23"}
    assert {bug.scene for bug in BUGS.values()} == set(PLOTS)


async def test_a_store_below_its_durability_is_not_opened(
    folder: Path, carrier: Carrier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """synchronous=NORMAL alone gets no engine to start: it takes a broken look at the settings as well."""

    def open_fast(path: Path) -> Connection:
        connection = open_writer(path)
        connection.execute("PRAGMA synchronous=NORMAL")
        return connection

    monkeypatch.setattr(wal, "open_writer", open_fast)
    scene = Scene(folder, carrier, PATIENCE_S)
    with pytest.raises(ConfigError) as refused:
        await scene.open()
    await scene.engine.stop()
    assert "synchronous is 1, needs 2 (FULL)" in str(refused.value)
