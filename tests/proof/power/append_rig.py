"""Cuts the power of a disk under the engine's append path, again and again, and looks for what was acknowledged.

Only acknowledgements stamped before a cut began count: one that comes during it can be false. Half of the cuts freeze
the process first, as a machine without power is; the other half let it run into the dead disk.

Invariants: everything is drawn from the seed but the moments at which processes get the CPU; whatever a cut leaves is
read from a copy, so that looking changes nothing; a disk that failed stays in `folder`.
"""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final

from longwave.v1 import messaging_pb2 as pb
from tests.corridor import crash_evidence
from tests.corridor.crash_checker import Promises, check
from tests.corridor.crash_harness import Options, make_store
from tests.proof.power.append_worker import EXIT_STORE_BROKEN, Life, command_of
from tests.proof.power.disk import LoopDisk

if TYPE_CHECKING:
    import sqlite3 as dbapi
else:
    from pysqlite3 import dbapi2 as dbapi

STORE: Final = "longwave.db"
# With 32 pages the WAL is copied back every few groups: cuts fall into checkpoints too.
CHECKPOINTS: Final = (0, 32, 200)
CUT_AFTER_S: Final = (0.02, 0.35)
# Some cuts fall into start and recovery.
START_SHARE: Final = 0.12
LINGER_S: Final = 0.004
WAIT_S: Final = 60.0


@dataclass(slots=True)
class CutCounts:
    """What the cuts so far came to."""

    cuts: int = 0
    kills: int = 0
    """Without a cut."""
    acknowledged: int = 0
    """Messages acknowledged before the cut that followed, counted once."""
    groups: int = 0
    """Calls answered, to be compared with transactions of others."""
    lost: int = 0
    altered: int = 0
    stored_unacknowledged: int = 0
    """Durable, though nobody was told."""
    late: int = 0
    """Acknowledgements that came after a cut began, and are not counted."""
    violations: list[str] = field(default_factory=list)
    cut_s: float = 0.0
    """Without the start of the engine: cut, kill, unmount, mount."""

    def add(self, other: "CutCounts") -> None:
        """Take over another's counts."""
        for name in (
            "cuts",
            "kills",
            "acknowledged",
            "groups",
            "lost",
            "altered",
            "stored_unacknowledged",
            "late",
            "cut_s",
        ):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.violations += other.violations


class Workers:
    """The process whose forks are the lives."""

    def __init__(self, errors: IO[bytes], environment: dict[str, str] | None = None) -> None:
        """Start it, with these variables too; a moment for its imports."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.proof.power.append_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | (environment or {}),
        )

    def begin(self, life: Life) -> int:
        """Begin a life; returns its pid."""
        assert self._process.stdin is not None
        self._process.stdin.write(command_of(life))
        self._process.stdin.flush()
        return int(self._line()["born"])

    def _line(self) -> dict[str, int]:
        assert self._process.stdout is not None
        line: dict[str, int] = json.loads(self._process.stdout.readline())
        return line

    def until_ready(self) -> int | None:
        """Wait; None when it is ready, else the exit code."""
        line = self._line()
        return line.get("code")

    def until_ended(self) -> int:
        """Wait for the end of the life; its exit code, negative for a signal."""
        while "ended" not in (line := self._line()):
            pass
        return line["code"]

    def close(self) -> None:
        """End it; lives must have ended."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()
        self._process.wait(WAIT_S)


@contextmanager
def workers(folder: Path) -> Iterator[Workers]:
    """Workers whose complaints go to a file in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "worker.log").open("ab") as errors:
        found = Workers(errors)
        try:
            yield found
        finally:
            found.close()


class AppendRig:
    """One disk with one store, cut as often as `cut` is called."""

    def __init__(self, folder: Path, lives: Workers, seed: int, *, plant: str = "", only_kills: bool = False) -> None:
        """Make disk and store below `folder`. Raises CannotMount. `only_kills`: the power stays, kill -9 alone."""
        self.folder = folder
        self.seed = seed
        self.counts = CutCounts()
        self._lives = lives
        self._plant = plant
        self._only_kills = only_kills
        self._draw = random.Random(f"cuts {seed}")  # noqa: S311 - it must repeat
        self._log = folder / "client.jsonl"
        self._log_read = 0
        self._life = 0
        self._pid = 0
        self._late: set[int] = set()
        """`mono_ns` of acknowledgements that do not count."""
        self._expected: dict[str, tuple[int, str]] = {}
        """request id → (message, sha256 of the text), acknowledged before a cut."""
        template = folder / "template"
        template.mkdir(parents=True)
        make_store(template, Options(seed=seed, messages=0))
        self._disk = LoopDisk(folder)
        for file in template.iterdir():
            shutil.copy(file, self._disk.root)
        os.sync()
        self._store = self._disk.root / STORE
        with opened(template / STORE) as connection:
            [self._tenant] = connection.execute("SELECT key FROM tenants").fetchone()

    def cut(self) -> None:
        """One life, one cut, one look."""
        self._life += 1
        self._note("life", after="kill" if self._life > 1 else "new", failpoint="")
        draw = self._draw
        early, freeze = draw.random() < START_SHARE, draw.random() < 0.5
        life = Life(
            store=str(self._store),
            log=str(self._log),
            seed=self.seed,
            number=self._life,
            tenant=self._tenant,
            checkpoint_pages=draw.choice(CHECKPOINTS),
            plant=self._plant,
        )
        pid = self._pid = self._lives.begin(life)
        if not early:
            code = self._lives.until_ready()
            if code is not None:
                self.counts.violations.append(f"life {self._life} did not start: exit code {code}")
                return
        time.sleep(draw.uniform(*CUT_AFTER_S))  # the moment of the fault, drawn from the seed
        self._look(self._kill(pid) if self._only_kills else self._cut_power(pid, freeze=freeze))

    def _kill(self, pid: int) -> int:
        """Kill -9, the disk stays; returns when it was."""
        killed_ns = time.monotonic_ns()
        with suppress(ProcessLookupError):  # it ended by itself, which is told by its exit code
            os.kill(pid, signal.SIGKILL)
        self._ended(-signal.SIGKILL)
        self.counts.kills += 1
        return killed_ns

    def _ended(self, *wanted: int) -> None:
        code = self._lives.until_ended()
        self._pid = 0
        if code not in wanted:
            self.counts.violations.append(f"life {self._life} ended with {code}")
        self._note("ended", exit_code=code)

    def _cut_power(self, pid: int, *, freeze: bool) -> int:
        """Cut, kill, mount again; returns when the cut began (CLOCK_MONOTONIC)."""
        began_s = time.monotonic()
        if freeze:
            os.kill(pid, signal.SIGSTOP)
        cut_ns = time.monotonic_ns()
        self._disk.cut()
        if not freeze:
            time.sleep(self._draw.uniform(0, LINGER_S))
        with suppress(ProcessLookupError):  # it noticed first, as it should, and ended by itself
            os.kill(pid, signal.SIGKILL)
        self._ended(-signal.SIGKILL, EXIT_STORE_BROKEN)
        self._disk.restore()
        self.counts.cuts += 1
        self.counts.cut_s += time.monotonic() - began_s
        return cut_ns

    def _look(self, cut_ns: int) -> None:
        """Whether everything that was ever acknowledged in time is on the disk, unaltered."""
        unanswered, fresh = set[str](), dict[str, tuple[int, str]]()
        calls = set[int]()
        for line in self._new_lines():
            if line["kind"] == "handed_in":
                unanswered.add(line["request_id"])
            elif line["kind"] == "acked" and line["mono_ns"] < cut_ns:
                fresh[line["request_id"]] = line["message"], line["text_sha256"]
                calls.add(line["mono_ns"])
            elif "mono_ns" in line and line["mono_ns"] >= cut_ns:
                self._late.add(line["mono_ns"])
                self.counts.late += 1
        self.counts.acknowledged += len(fresh.keys() - self._expected.keys())
        self.counts.groups += len(calls)
        self._expected |= fresh
        with self._copy() as store, opened(store) as connection:
            [verdict] = connection.execute("PRAGMA integrity_check").fetchone()
            if verdict != "ok":
                self.counts.violations.append(f"life {self._life}: integrity_check: {verdict}")
                return
            found = {
                request_id: (identity, record)
                for request_id, identity, record in connection.execute(
                    "SELECT r.request_id, r.id, b.record FROM request_ids AS r LEFT JOIN bodies AS b ON b.id = r.id"
                )
            }
        self.counts.stored_unacknowledged += len((unanswered - fresh.keys()) & found.keys())
        for request_id, (message, text_sha256) in self._expected.items():
            identity, record = found.get(request_id, (0, None))
            if identity != message:
                self.counts.lost += 1
            elif crash_evidence.sha256(pb.Submission.FromString(record or b"").text) != text_sha256:
                self.counts.altered += 1

    def finish(self) -> CutCounts:
        """Let the independent checker judge the whole history; then remove the disk."""
        lines = self._judged_lines()
        with self._copy() as store:
            log = store.with_name("judged.jsonl")
            log.write_text("".join(json.dumps(line) + "\n" for line in lines))
            nothing = store.with_name("nothing.jsonl")
            with opened(store):
                evidence = crash_evidence.read_evidence(client=log, store=store, carrier=nothing, history=nothing)
            found = check(evidence, Promises(all_final=False))
        self.counts.violations += [f"{v.invariant} {v.subject}: {v.what}" for v in found]
        self.close()
        return self.counts

    def close(self) -> None:
        """End what runs, unmount; a disk on which something was lost is kept. Safe to call twice."""
        if self._pid:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._lives.until_ended()
            self._pid = 0
        self._disk.close(keep=bool(self.counts.violations or self.counts.lost or self.counts.altered))

    def _judged_lines(self) -> list[dict[str, Any]]:
        """The log without what was acknowledged during a cut."""
        return [line for line in crash_evidence.read_lines(self._log) if line.get("mono_ns") not in self._late]

    @contextmanager
    def _copy(self) -> Iterator[Path]:
        """Store and WAL as the cut left them, elsewhere."""
        folder = self.folder / "look"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for name in (STORE, f"{STORE}-wal"):
            file = self._disk.root / name
            if file.exists():
                shutil.copy(file, folder)
        yield folder / STORE
        shutil.rmtree(folder)

    def _new_lines(self) -> list[dict[str, Any]]:
        if not self._log.exists():
            return []
        with self._log.open("rb") as file:
            file.seek(self._log_read)
            content = file.read()
        # What was not told whole, to the end of its line, was not told.
        content = content[: content.rfind(b"\n") + 1]
        self._log_read += len(content)
        return [json.loads(line) for line in content.splitlines()]

    def _note(self, kind: str, **fields: Any) -> None:
        line = {"kind": kind, "at_us": time.time_ns() // 1000} | fields
        if not self._pid:
            drop_half_line(self._log)
        with self._log.open("ab") as file:
            file.write(json.dumps(line).encode() + b"\n")


def drop_half_line(path: Path) -> None:
    """Of a process that was killed: what was not told whole, to the end of its line, was not told."""
    if path.exists():
        os.truncate(path, path.read_bytes().rfind(b"\n") + 1)


@contextmanager
def opened(path: Path) -> "Iterator[dbapi.Connection]":
    """A connection like any other, closed at the end."""
    connection = dbapi.connect(path)
    try:
        yield connection
    finally:
        connection.close()


def run_cuts(
    folder: Path, lives: Workers, seed: int, cuts: int, *, plant: str = "", only_kills: bool = False
) -> CutCounts:
    """One store, so many cuts, one verdict."""
    rig = AppendRig(folder, lives, seed, plant=plant, only_kills=only_kills)
    try:
        for _ in range(cuts):
            rig.cut()
        return rig.finish()
    except BaseException:
        rig.close()
        raise
