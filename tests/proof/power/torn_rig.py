"""Records what the engine's append path writes, builds the disks that a power cut may leave, and looks into each.

A life of `append_worker` is recorded by `record_shim.c` and killed. At moments drawn from the seed `torn_disk.py` makes
images: lost, torn and reordered writes. Each is opened as a start of the engine does, and must hold whatever was
acknowledged before its moment, unaltered, and nothing that was never handed in. The next life begins on one of the
images, at one of its moments: so recovery, and what follows a torn end, are recorded and cut too.

Invariants: which images are made is drawn from the seed and the recording; nothing needs root or a mount; a folder in
which a promise broke keeps the image that shows it.
"""

import json
import os
import shutil
import signal
import time
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path
from random import Random
from typing import Any, Final

from engine.errors import StoreBroken
from engine.stores.wal import open_recovered
from longwave.v1 import messaging_pb2 as pb
from tests.corridor import crash_evidence
from tests.corridor.crash_checker import Promises, check
from tests.corridor.crash_harness import Options, make_store
from tests.proof.power.append_rig import CHECKPOINTS, STORE, WAIT_S, Workers, drop_half_line, opened
from tests.proof.power.append_worker import Life
from tests.proof.power.fault_shim import compile_shim
from tests.proof.power.torn_disk import SYNC, WRITE, Record, TornDisk, read_recording

SHIM: Final = Path(__file__).with_name("record_shim.c")
WAL: Final = f"{STORE}-wal"
EPOCH: Final = f"{STORE}.epoch"
FILES: Final = (STORE, WAL, EPOCH, f"{EPOCH}.part")
LIFE_BYTES: Final = (100_000, 4_000_000)
"""Of the recording, past which a life is killed."""
LOOK_S: Final = 0.005
IMAGES_AT_ONCE: Final = 3
"""Images of one moment."""


@dataclass(slots=True)
class TornCounts:
    """What the images so far came to."""

    lives: int = 0
    images: int = 0
    torn: int = 0
    """Images that differ from both what was sure and what was asked for: the others are easy."""
    acknowledged: int = 0
    """Messages, each counted once, in lives that were not undone by the image the next one began on."""
    demanded: int = 0
    """Messages that the images had to hold, all told."""
    lost: int = 0
    altered: int = 0
    refused: int = 0
    """Images that the engine would not start on."""
    damaged: int = 0
    """Images that failed the integrity check or could not be read."""
    violations: list[str] = field(default_factory=list)


@dataclass(slots=True)
class _Told:
    """What callers had handed in and been told, in the order of it."""

    at_ns: list[int] = field(default_factory=list)
    acked: list[tuple[str, int]] = field(default_factory=list)
    """(request id, message)."""
    texts: dict[str, str] = field(default_factory=dict)
    """request id → sha256 of what was handed in."""


class TornRig:
    """One store and its lives. The folder is the caller's."""

    def __init__(
        self,
        folder: Path,
        seed: int,
        *,
        plant: str = "",
        lies_about: str = "",
        checkpoints: Sequence[int] = CHECKPOINTS,
    ) -> None:
        """Make the store below `folder`. `lies_about`: a file whose syncs are taken for nothing, to be seen to lose."""
        self.folder = folder
        self.seed = seed
        self.counts = TornCounts()
        self._plant = plant
        self._lies_about = lies_about
        self._checkpoints = checkpoints
        self._draw = Random(f"torn {seed}")  # noqa: S311 - it must repeat
        self._root = folder / "disk"
        self._root.mkdir(parents=True)
        make_store(self._root, Options(seed=seed, messages=0))
        self._pid = 0
        self._log = folder / "client.jsonl"
        self._recording = folder / "recording"
        environment = {
            "LD_PRELOAD": str(compile_shim(folder, SHIM)),
            "RECORD_FILE": str(self._recording),
            "RECORD_FOLDER": str(self._root.resolve()),
        }
        with opened(self._root / STORE) as connection:
            [self._tenant] = connection.execute("SELECT key FROM tenants").fetchone()
        self._errors = (folder / "worker.log").open("ab")
        self._lives = Workers(self._errors, environment)

    def close(self) -> None:
        """End what runs, and the process of the lives."""
        if self._pid:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            self._lives.until_ended()
        self._lives.close()
        self._errors.close()

    def life(self, images: int) -> None:
        """One recorded life, so many images of it; the next life begins on the last one looked into."""
        base = self._files()
        records = self._record()
        if records is None:
            return
        self._replays(base, records)
        told = self._told()
        disk, chosen = TornDisk(base, lies_about=self._lies_about), (base, 0)
        moments = sorted(self._draw.choices(range(len(records) + 1), k=-(-images // IMAGES_AT_ONCE)))
        goes_on = self._draw.randrange(len(moments))
        taken = 0
        for place, moment in enumerate(moments):
            for record in records[taken:moment]:
                disk.take(record)
            taken = moment
            # What was told before the next call was made was told before the cut.
            cut_ns = records[moment].mono_ns if moment < len(records) else time.monotonic_ns()
            demanded = dict(told.acked[: bisect_left(told.at_ns, cut_ns)])
            settled, whole = disk.sure(), disk.whole()
            image = settled
            for _ in range(min(IMAGES_AT_ONCE, images - place * IMAGES_AT_ONCE)):
                image = disk.drawn(self._draw)
                self.counts.torn += image not in (settled, whole)
                self._look(image, demanded, told, f"life {self.counts.lives}, call {moment} of {len(records)}")
            if place == goes_on:
                chosen = image, cut_ns
        self._begin_anew(*chosen)

    def _record(self) -> list[Record] | None:
        self.counts.lives += 1
        # The same file: the process of the lives has it open, for appending.
        with self._recording.open("wb"):
            pass
        self._note("life", after="kill" if self.counts.lives > 1 else "new", failpoint="")
        draw = self._draw
        life = Life(
            store=str(self._root.resolve() / STORE), log=str(self._log), seed=self.seed, number=self.counts.lives,
            tenant=self._tenant, checkpoint_pages=draw.choice(self._checkpoints), plant=self._plant,
        )  # fmt: skip
        self._pid = self._lives.begin(life)
        code = self._lives.until_ready()
        if code is not None:
            self._pid = 0
            self.counts.violations.append(f"life {self.counts.lives} did not start: exit code {code}")
            return None
        self._until_recorded(draw.randint(*LIFE_BYTES))
        with suppress(ProcessLookupError):  # it ended by itself, which is told by its exit code
            os.kill(self._pid, signal.SIGKILL)
        code = self._lives.until_ended()
        self._pid = 0
        if code != -signal.SIGKILL:
            self.counts.violations.append(f"life {self.counts.lives} ended with {code}")
        drop_half_line(self._log)
        return [one for one in read_recording(self._recording, self._root) if one.name in FILES or not one.name]

    def _until_recorded(self, size: int) -> None:
        until_s = time.monotonic() + WAIT_S
        while self._recording.stat().st_size < size:
            assert time.monotonic() < until_s, "it works no more"
            time.sleep(LOOK_S)

    def _replays(self, base: dict[str, bytes], records: list[Record]) -> None:
        """Whether the recording is whole: played back it gives the files, byte by byte."""
        assert replays(base, records, self._files()), "what was recorded is not what was written"

    def _files(self) -> dict[str, bytes]:
        return {name: (self._root / name).read_bytes() for name in FILES if (self._root / name).exists()}

    def _told(self) -> _Told:
        told = _Told()
        for line in crash_evidence.read_lines(self._log):
            if line["kind"] == "handed_in":
                told.texts[line["request_id"]] = line["text_sha256"]
            elif line["kind"] == "acked":
                told.at_ns.append(line["mono_ns"])
                told.acked.append((line["request_id"], line["message"]))
        return told

    def _look(self, image: dict[str, bytes], demanded: dict[str, int], told: _Told, where: str) -> None:
        counts = self.counts
        counts.images += 1
        counts.demanded += len(demanded)
        folder = self.folder / "look"
        shutil.rmtree(folder, ignore_errors=True)
        _write(folder, image)
        lost = altered = 0
        broken = ""
        try:
            found = _recovered(folder / STORE)
        except StoreBroken as error:
            counts.refused += 1
            broken = f"refused: {error}"
        except Exception as error:  # noqa: BLE001 - whatever it is, the store cannot be read
            counts.damaged += 1
            broken = f"damaged: {type(error).__name__}: {error}"
        else:
            for request_id, message in demanded.items():
                lost += found.get(request_id, (0, b""))[0] != message
            for request_id, (_, record) in found.items():
                text = pb.Submission.FromString(record or b"").text
                altered += crash_evidence.sha256(text) != told.texts.get(request_id)
            counts.lost += lost
            counts.altered += altered
            if lost or altered:
                broken = f"{lost} of {len(demanded)} acknowledged messages lost, {altered} altered or made up"
        if broken:
            counts.violations.append(f"{where}: {broken}")
            kept = self.folder / f"broken-{len(counts.violations)}"
            if len(counts.violations) == 1:
                _write(kept, image)

    def _begin_anew(self, image: dict[str, bytes], cut_ns: int) -> None:
        """Let the cut have happened: files as in the image, nothing told after it."""
        for name in FILES:
            (self._root / name).unlink(missing_ok=True)
        (self._root / f"{STORE}-shm").unlink(missing_ok=True)
        _write(self._root, image)
        lines = crash_evidence.read_lines(self._log)
        late = next((place for place, line in enumerate(lines) if line.get("mono_ns", 0) >= cut_ns), len(lines))
        self._log.write_text("".join(json.dumps(line) + "\n" for line in lines[:late]))
        self._note("ended", exit_code=-signal.SIGKILL)

    def _note(self, kind: str, **fields: Any) -> None:
        with self._log.open("a") as file:
            file.write(json.dumps({"kind": kind, "at_us": time.time_ns() // 1000} | fields) + "\n")

    def finish(self) -> TornCounts:
        """Let the independent checker judge the history that is left; then end."""
        self.counts.acknowledged = len({request_id for request_id, _ in self._told().acked})
        nothing = self.folder / "nothing.jsonl"
        with opened(self._root / STORE):
            evidence = crash_evidence.read_evidence(
                client=self._log, store=self._root / STORE, carrier=nothing, history=nothing
            )
        found = check(evidence, Promises(all_final=False))
        self.counts.violations += [f"{one.invariant} {one.subject}: {one.what}" for one in found]
        return self.counts


def _write(folder: Path, files: dict[str, bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)


def _recovered(store: Path) -> dict[str, tuple[int, bytes | None]]:
    """Request id → (message, record), opened as at a start, all pages checked."""
    connection = open_recovered(store)
    try:
        [verdict] = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if verdict != "ok":
            raise ValueError(f"integrity_check: {verdict}")
        return {
            request_id: (identity, record)
            for request_id, identity, record in connection.execute(
                "SELECT r.request_id, r.id, b.record FROM request_ids AS r LEFT JOIN bodies AS b ON b.id = r.id"
            )
        }
    finally:
        connection.close()


def run_torn(folder: Path, seed: int, lives: int, images: int, **planted: Any) -> TornCounts:
    """One store, so many lives, so many images of each, one verdict. `planted`: as of `TornRig`."""
    folder.mkdir(parents=True, exist_ok=True)
    rig = TornRig(folder, seed, **planted)
    try:
        for _ in range(lives):
            rig.life(images)
            if rig.counts.violations:
                # The next life would begin on what is broken.
                return rig.counts
        return rig.finish()
    finally:
        rig.close()


def replays(base: dict[str, bytes], records: Sequence[Record], there: dict[str, bytes]) -> bool:
    """Whether these records, made on these files, give what is there.

    The last call was written down, and a kill may have come before it was made, or in the middle of a write.
    """
    changes = [number for number, record in enumerate(records) if record.kind != SYNC]
    last = changes[-1] if changes else len(records)
    disk = TornDisk(base)
    for record in records[:last]:
        disk.take(record)
    if disk.whole() == there:
        return True
    for record in records[last : last + 1]:
        disk.take(record if record.kind != WRITE else _begun(record, there.get(record.name, b"")))
    return disk.whole() == there


def _begun(record: Record, content: bytes) -> Record:
    """A write as far as it came."""
    pairs = zip(record.data, content[record.at : record.at + len(record.data)], strict=False)
    made = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    return replace(record, data=record.data[:made])
