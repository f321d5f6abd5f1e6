"""Torture: round after round of kills, power cuts, disk faults, starvation and simulation seeds, counted in a file.

    python -m tests.proof.torture --hours 8
    python -m tests.proof.torture --only engine-cuts --seed 17 --rounds 1     # a round again

After each round its line is appended to `rounds.jsonl` of the results folder, and the folder's README.md is written
anew from all lines: one running total, in the newest folder of its kind, named by its first day. A broken promise ends
the run (exit code 1) with the command that runs that round again, and so does a round that this rig did not finish,
counted apart; Ctrl-C ends it in order (130), with the round it was in not counted.

Invariants: a round depends on its kind and seed and on nothing before it; nothing of a round runs or is mounted after
it; what a failed round left stays on the disk.
"""

import argparse
import asyncio
import importlib.util
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Final

from engine import failpoints
from tests.corridor.crash_harness import ENGINE, CrashRun, Options, crash_run
from tests.proof.power import disk
from tests.proof.power.append_rig import run_cuts, workers
from tests.proof.power.cut_server import CutServer, cut_server
from tests.proof.power.engine_rig import power_run
from tests.proof.power.fault_shim import WRITE
from tests.proof.power.fault_shim import why_not as why_no_shim
from tests.proof.power.fault_sweep import sweep, sweep_full
from tests.proof.power.starve_rig import CRAWL_S, LEASE, TEXTS, at_a_crawl, lease_lines, out_of_memory
from tests.proof.power.torn_rig import run_torn
from tests.proof.torture_results import (
    KEPT_VIOLATIONS,
    NOT_FINISHED,
    SIMULATION_SEEDS,
    Round,
    line_of,
    newest,
    read_rounds,
    replay,
    write,
)
from tests.servers.mariadb import MariaDB, ServerMissing, program

RESULTS: Final = Path("loadtest/results")
EXIT_BROKEN: Final = 1
EXIT_INTERRUPTED: Final = 130
# One store of the append path: so many lives, then a fresh one, so that its start stays short.
APPEND_CUTS: Final = 20
APPEND_KILLS: Final = 40
TORN_LIVES: Final = 6
TORN_IMAGES: Final = 60
ENGINE_KILLS: Final = 12
ENGINE_POINTS: Final = 6
ENGINE_CUTS: Final = 8
STARVED_LIVES: Final = 4
SERVER_CUTS: Final = 8
SERVER_KILLS: Final = 6
WRITE_STEP: Final = 7
SIMULATION: Final = "tests.proof.simulation"
SIMULATION_S: Final = 1800
# Longer than any round takes on a slow machine: what hangs is found, and counted as broken.
ROUND_S: Final = 2400
# More than a run ever hands in.
ENDLESS: Final = 1_000_000


def _append_cuts(folder: Path, seed: int, found: Round) -> None:
    with workers(folder) as lives:
        found.count_cuts(run_cuts(folder / "store", lives, seed, APPEND_CUTS))


def _append_kills(folder: Path, seed: int, found: Round) -> None:
    with workers(folder) as lives:
        found.count_cuts(run_cuts(folder / "store", lives, seed, APPEND_KILLS, only_kills=True))


def _torn_writes(folder: Path, seed: int, found: Round) -> None:
    found.count_torn(run_torn(folder, seed, TORN_LIVES, TORN_IMAGES))


def _options(seed: int) -> Options:
    return Options(seed=seed, messages=ENDLESS, honours_keys=seed % 2 == 1, batch=20, recipients=600, metered_per_s=100)


def _engine_kills(folder: Path, seed: int, found: Round) -> None:
    asyncio.run(_run_engine_kills(folder, seed, found))


async def _run_engine_kills(folder: Path, seed: int, found: Round, database_url: str = "") -> None:
    async with crash_run(folder, replace(_options(seed), database_url=database_url)) as run:
        for point in _plan(run.draw, ENGINE_KILLS, ENGINE_POINTS):
            if point:
                await _die_at(run, point)
            else:
                assert await run.start(), "the engine did not start"
                await run.kill_while_working(len(run.sender.accepted) + run.draw.randint(1, 80))
        found.count(await run.finish(stop_feeding=True))


async def _die_at(run: CrashRun, point: str) -> None:
    if await run.start(f"{point}:kill@{run.draw.randint(1, 3)}"):
        await run.work()
    code = await run.until_dead()
    assert code == -signal.SIGKILL, f"{point} ended the engine with {code}"


def _plan(draw: Random, at_random: int, at_points: int) -> list[str]:
    """Failpoints, and an empty string for each moment at random, mixed."""
    plan = [""] * at_random + draw.sample(failpoints.POINTS, at_points)
    draw.shuffle(plan)
    return plan


def _engine_cuts(folder: Path, seed: int, found: Round) -> None:
    asyncio.run(_run_engine_cuts(folder, seed, found))


async def _run_engine_cuts(folder: Path, seed: int, found: Round) -> None:
    async with power_run(folder, _options(seed)) as run:
        for point in _plan(run.draw, ENGINE_CUTS, ENGINE_CUTS // 2):
            if point:
                await run.cut_at(point)
            else:
                assert await run.start(), "the engine did not start"
                await run.cut_while_working(len(run.sender.accepted) + run.draw.randint(1, 80))
        summary = await run.finish(stop_feeding=True)
        found.count(summary)
        # Every kill was followed by a cut: it is counted as that.
        found.cuts, found.kills = run.cuts, found.kills - run.cuts


def _engine_starved(folder: Path, seed: int, found: Round) -> None:
    asyncio.run(_run_engine_starved(folder, seed, found))


async def _run_engine_starved(folder: Path, seed: int, found: Round) -> None:
    """Killed for want of memory, and slow for want of a processor, in turn; by both means."""
    # A process of its own: what is set here stays here.
    ENGINE.update(LEASE)
    options = replace(_options(seed), batch=50, texts=TEXTS, metered_per_s=500)
    async with crash_run(folder, options) as run:
        for number in range(STARVED_LIVES):
            assert await run.start(), "the engine did not start"
            if number % 2:
                await at_a_crawl(run, CRAWL_S, outside=(seed + number // 2) % 2 == 0)
            await out_of_memory(run, outside=(seed + number) % 2 == 0)
        found.count(await run.finish(stop_feeding=True))
        found.violations += [f"a lease was not kept: {line}" for line in lease_lines(run)][:KEPT_VIOLATIONS]


def _disk_faults(folder: Path, seed: int, found: Round) -> None:
    """Every fsync of a short run fails once; writes fail, and find no room, in steps that the seed shifts."""
    library_folders = [folder / name for name in ("sync", "write", "full")]
    for one in library_folders:
        one.mkdir()
    syncs, writes, full = library_folders
    for come in (
        sweep(syncs),
        sweep(writes, WRITE, first=1 + seed % WRITE_STEP, step=WRITE_STEP),
        sweep_full(full, first=1 + seed % WRITE_STEP, step=WRITE_STEP),
    ):
        found.disk_faults += come.faults
        found.acknowledged += come.acknowledged
        found.lost += come.lost
        found.violations += come.violations[:KEPT_VIOLATIONS]


def _simulation(folder: Path, seed: int, found: Round) -> None:
    """Seeds of the simulation, in a process of its own."""
    first = seed * SIMULATION_SEEDS
    command = [sys.executable, "-m", SIMULATION, "--seeds", f"{first}-{first + SIMULATION_SEEDS - 1}", "--json"]
    out = folder / "simulation.json"
    with out.open("wb") as file:
        done = subprocess.run(command, stdout=file, stdin=subprocess.DEVNULL, timeout=SIMULATION_S, check=False)
    text = out.read_text(errors="replace")
    if done.returncode != 0:
        found.violations.append(f"simulation seeds {first} and on: exit code {done.returncode}: {text[-500:]}")
    # A simulation in which nothing is accepted finds nothing, and proves nothing.
    elif json.loads(text)["messages"] == 0:
        found.violations.append(f"{NOT_FINISHED}simulation seeds {first} and on: not one message")
    else:
        found.seeds = SIMULATION_SEEDS


@contextmanager
def _database(folder: Path) -> Iterator[tuple[MariaDB, str]]:
    """A server of the round's own, on its disk, and the URL of an empty database."""
    server = MariaDB(folder / "server")
    server.start()
    try:
        yield server, server.create_database("torture")
    finally:
        server.remove()


def _mariadb_engine_kills(folder: Path, seed: int, found: Round) -> None:
    with _database(folder) as (_, url):
        asyncio.run(_run_engine_kills(folder, seed, found, url))


def _mariadb_server_kills(folder: Path, seed: int, found: Round) -> None:
    with _database(folder) as (server, url):
        asyncio.run(_run_server_kills(folder, seed, found, server, url))


async def _run_server_kills(folder: Path, seed: int, found: Round, server: MariaDB, url: str) -> None:
    """The server dies, every second time with the engine."""
    async with crash_run(folder, replace(_options(seed), database_url=url)) as run:
        for number in range(SERVER_KILLS):
            if number % 2 == 0:
                assert await run.start(), "the engine did not start"
            at_accepted = len(run.sender.accepted) + run.draw.randint(1, 80)
            await run.kill_server_while_working(server, at_accepted, engine_too=number % 2 == 1)
            found.server_kills += 1
        found.count(await run.finish(stop_feeding=True))


def _mariadb_cuts(folder: Path, seed: int, found: Round) -> None:
    with cut_server(folder / "machine") as server:
        asyncio.run(_run_server_cuts(folder, seed, found, server, server.create_database("torture")))


async def _run_server_cuts(folder: Path, seed: int, found: Round, server: CutServer, url: str) -> None:
    """The server's machine loses its power, every fourth time with the engine's."""
    async with crash_run(folder, replace(_options(seed), database_url=url)) as run:
        server.settle()
        for number in range(SERVER_CUTS):
            if number % 4 == 0:
                assert await run.start(), "the engine did not start"
            at_accepted = len(run.sender.accepted) + run.draw.randint(1, 80)
            await run.kill_server_while_working(server, at_accepted, engine_too=number % 4 == 3)
            found.cuts += 1
        found.count(await run.finish(stop_feeding=True))


KINDS: Final[dict[str, Callable[[Path, int, Round], None]]] = {
    "append-cuts": _append_cuts,
    "engine-kills": _engine_kills,
    "mariadb-engine-kills": _mariadb_engine_kills,
    "mariadb-server-kills": _mariadb_server_kills,
    "mariadb-cuts": _mariadb_cuts,
    "append-kills": _append_kills,
    "engine-cuts": _engine_cuts,
    "disk-faults": _disk_faults,
    "torn-writes": _torn_writes,
    "engine-starved": _engine_starved,
    "simulation": _simulation,
}
ON_DISK: Final = {"append-cuts", "append-kills", "engine-cuts", "mariadb-cuts"}
ON_SERVER: Final = {"mariadb-engine-kills", "mariadb-server-kills", "mariadb-cuts"}
SHIMMED: Final = {"disk-faults", "torn-writes"}


def possible(kinds: list[str]) -> tuple[list[str], list[str]]:
    """(kinds that this machine and tree can run, a sentence for each that they cannot)."""
    why: dict[str, str] = {}
    without_disk = disk.why_not() if ON_DISK & set(kinds) else ""
    if without_disk:
        why |= dict.fromkeys(ON_DISK & set(kinds), without_disk)
    if SHIMMED & set(kinds) and (reason := why_no_shim()):
        why |= dict.fromkeys(SHIMMED & set(kinds), reason)
    if ON_SERVER & set(kinds):
        try:
            program("mariadbd")
        except ServerMissing as missing:
            why |= dict.fromkeys(ON_SERVER & set(kinds), str(missing))
    if "simulation" in kinds and not _has_simulation():
        why["simulation"] = f"{SIMULATION} is not there"
    return [kind for kind in kinds if kind not in why], [f"{kind} left out: {what}" for kind, what in why.items()]


def _has_simulation() -> bool:
    try:
        found = importlib.util.find_spec(SIMULATION)
        is_folder = found is not None and found.submodule_search_locations is not None
        return found is not None and (not is_folder or importlib.util.find_spec(f"{SIMULATION}.__main__") is not None)
    except ModuleNotFoundError:
        return False


def run_round(kind: str, seed: int, commit: str, scratch: Path) -> Round:
    """One round in a session of its own; its folder stays when it failed.

    A round that cannot be finished says so among its violations. An interrupt ends every process of the
    round and unmounts.
    """
    folder = Path(tempfile.mkdtemp(prefix=f"torture-{kind}-{seed}-", dir=scratch))
    at = datetime.now(UTC).isoformat(timespec="seconds")
    began_s = time.monotonic()
    command = [sys.executable, "-m", "tests.proof.torture", "--only", kind, "--seed", str(seed), "--in", str(folder)]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    out = ""
    found: Round | None = None
    try:
        out, _ = process.communicate(timeout=ROUND_S)
        found = Round(**json.loads(out.splitlines()[-1]))
    except (subprocess.TimeoutExpired, ValueError, IndexError) as error:
        found = Round(violations=[f"{NOT_FINISHED}{type(error).__name__} {out[-500:]}"])
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        disk.release(folder)
        if found is None:
            shutil.rmtree(folder, ignore_errors=True)
    found.kind, found.seed, found.at, found.commit = kind, seed, at, commit
    found.seconds = round(time.monotonic() - began_s, 1)
    if not found.violations:
        shutil.rmtree(folder, ignore_errors=True)
    return found


def run_here(kind: str, seed: int, folder: Path) -> int:
    """The round itself, in its own process; the last line of standard output is what it came to."""
    found = Round(kind=kind, seed=seed)
    try:
        KINDS[kind](folder, seed, found)
    except Exception as error:  # noqa: BLE001 - told by the result
        traceback.print_exc()
        found.violations.append(f"{NOT_FINISHED}{type(error).__name__}: {error}")
    sys.stdout.write(json.dumps(asdict(found)) + "\n")
    return 0


def _commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    changed = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=False).stdout
    return (done.stdout.strip() or "unknown") + ("+" if changed.strip() else "")


def torture(given: argparse.Namespace) -> int:
    """Rounds until the time is up; returns the exit code."""
    kinds, left_out = possible(given.only or list(KINDS))
    for sentence in left_out:
        sys.stderr.write(sentence + "\n")
    if not kinds:
        return EXIT_BROKEN
    results = given.results or newest(RESULTS)
    past = read_rounds(results)
    seed = given.seed if given.seed is not None else 1 + max((one.seed for one in past), default=0)
    until_s = time.monotonic() + given.hours * 3600
    scratch = given.folder or Path(tempfile.gettempdir())
    commit = given.commit or _commit()
    broken = done = 0
    while time.monotonic() < until_s and (given.rounds is None or done < given.rounds):
        kind = kinds[done % len(kinds)]
        found = run_round(kind, seed, commit, scratch)
        done += 1
        if done % len(kinds) == 0:
            seed += 1
        if given.rounds is None or given.results:
            write(results, found)
        sys.stdout.write(line_of(found) + "\n")
        sys.stdout.flush()
        if found.violations:
            broken += 1
            what = "\n  ".join(found.violations)
            word = "BROKEN" if found.broken else "NOT FINISHED"
            sys.stdout.write(f"{word} in {found.kind}, seed {found.seed}:\n  {what}\nagain: {replay(found)}\n")
            sys.stdout.flush()
            if not given.keep_going:
                break
    return EXIT_BROKEN if broken else 0


def main() -> int:
    """Read the command line, run."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.torture", description=__doc__.splitlines()[0])
    parser.add_argument("--hours", type=float, default=1.0, help="begin no round after so long (default: %(default)s)")
    parser.add_argument("--rounds", type=int, help="so many rounds at most; then results are kept only if told where")
    parser.add_argument("--only", action="append", choices=list(KINDS), help="this kind of round; may be repeated")
    parser.add_argument("--seed", type=int, help="first seed (default: after the last one of the results)")
    parser.add_argument("--results", type=Path, help="folder of the counts (default: the newest of loadtest/results)")
    parser.add_argument("--folder", type=Path, help="where rounds keep their files (default: the temporary folder)")
    parser.add_argument("--commit", help="what to write down as the commit (default: asked from git)")
    parser.add_argument("--keep-going", action="store_true", help="go on after a broken promise; still exit with 1")
    parser.add_argument("--in", type=Path, dest="inside", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside is not None:
        return run_here(given.only[0], given.seed, given.inside)
    signal.signal(signal.SIGTERM, lambda _number, _frame: os.kill(os.getpid(), signal.SIGINT))
    try:
        return torture(given)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted: the round it was in is not counted\n")
        return EXIT_INTERRUPTED


if __name__ == "__main__":
    sys.exit(main())
