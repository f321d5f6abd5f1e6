"""Accepts messages in a process that is made to be killed: the engine's own corridor, without edges and carrier.

    python -m tests.proof.power.append_worker

A JSON line on standard input (`Life`) begins a life: a fork, so that a start costs no imports. Lines on standard
output: {"born": pid}, {"ready": pid}, {"ended": pid, "code": n} (negative for a signal). It ends with standard input.

A life first hands in again what the log says was not answered, and some of what was; then fresh messages, in small
batches side by side, until it is killed or its store breaks (exit code 70). Its log is that of `crash_client.py`,
with `mono_ns` (CLOCK_MONOTONIC) in the lines `acked` and `opt_out_acked`.
"""

import asyncio
import json
import os
import random
import signal
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from engine.append import BATCH
from engine.config import Settings
from engine.corridor import Corridor
from engine.errors import LongwaveError, Refused, StoreBroken, Verdict
from engine.metrics import Metrics
from engine.secrets import open_secrets
from engine.stores.connection import Connection, Fault, classify
from engine.stores.embedded import EmbeddedStore
from engine.stores.migrate import known_revisions
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import verdict_pb2
from server import logs
from tests.corridor.crash_client import RESEND, fictitious, now_us
from tests.corridor.crash_evidence import id_of, read_lines, sha256

EXIT_STORE_BROKEN: Final = 70
EXIT_SURPRISED: Final = 71
CALL_US: Final = 60_000_000
CALLERS: Final = 6
BATCH_MAX: Final = 12
# Recipients of opt-outs come after those of messages: no message may be refused for one.
OPT_OUTS_FROM: Final = 5000
OPT_OUT_SHARE: Final = 0.03
AGAIN_MAX: Final = 40
PLANT_NORMAL: Final = "synchronous=NORMAL"


@dataclass(frozen=True, slots=True)
class Life:
    """What one life is told."""

    store: str
    log: str
    seed: int
    number: int
    tenant: int
    checkpoint_pages: int = 0
    """0: as the engine sets it."""
    plant: str = ""
    """`PLANT_NORMAL`, or nothing: a bug that must be found."""


def text_of(request_id: str) -> str:
    """Every text can be told from its request id: 20 to 320 characters."""
    draw = random.Random(request_id)  # noqa: S311 - it must repeat
    return f"{request_id} " + "power " * draw.randrange(1, 50)


def submission_of(request_id: str) -> pb.Submission:
    """The message of a request id."""
    draw = random.Random(request_id + " to")  # noqa: S311 - it must repeat
    return pb.Submission(
        campaign=f"campaigns/{RESEND}",
        recipient=fictitious(draw.randrange(OPT_OUTS_FROM)),
        text=text_of(request_id),
        request_id=request_id,
        message_class=pb.MESSAGE_CLASS_BULK,
    )


class Sender:
    """The callers of one life."""

    def __init__(self, corridor: Corridor, life: Life, log: int, again: list[str]) -> None:
        """Write to the open file `log`; hand in `again` first."""
        self._corridor = corridor
        self._life = life
        self._log = log
        self._again = again
        self._draw = random.Random(f"{life.seed} {life.number}")  # noqa: S311 - it must repeat
        self._next = 0

    def _note(self, lines: list[dict[str, Any]]) -> None:
        # In the kernel before the next step: kill -9 loses none, and no power cut reaches this file.
        os.write(self._log, b"".join(json.dumps(line).encode() + b"\n" for line in lines))

    def _ids(self) -> list[str]:
        count = self._draw.randint(1, BATCH_MAX)
        ids, self._again = self._again[:count], self._again[count:]
        if not ids:
            ids = [f"p{self._life.seed}-{self._life.number}-{self._next + index}" for index in range(count)]
            self._next += count
        return ids

    async def call(self) -> None:
        """One batch, noted before and after."""
        ids = self._ids()
        items = [submission_of(request_id) for request_id in ids]
        at_us = now_us()
        heads = [
            {"request_id": item.request_id, "text_sha256": sha256(item.text), "recipient": item.recipient}
            for item in items
        ]
        self._note([{"kind": "handed_in", "at_us": at_us} | head for head in heads])
        request = pb.SubmitMessagesRequest(submissions=items).SerializeToString()
        deadline_us = self._corridor.clock.mono_us() + CALL_US
        reply = await self._corridor.submit(BATCH, self._life.tenant, request, deadline_us)
        mono_ns, at_us = time.monotonic_ns(), now_us()
        if reply.verdict != Verdict.ACCEPTED:
            raise SurprisedError(f"the whole call was refused: {reply}")
        results = pb.SubmitMessagesResponse.FromString(reply.response).results
        lines = []
        for head, result in zip(heads, results, strict=True):
            if result.verdict in {verdict_pb2.VERDICT_NOT_READY, verdict_pb2.VERDICT_STORE_UNAVAILABLE}:
                raise StoreBroken(result.detail)
            if result.verdict != verdict_pb2.VERDICT_ACCEPTED:
                raise SurprisedError(f"refused: {result}")
            message = id_of(result.message.removeprefix("messages/"))
            lines.append({"kind": "acked", "at_us": at_us, "mono_ns": mono_ns, "message": message} | head)
        self._note(lines)

    async def opt_out(self) -> None:
        """Forbid a recipient of its own."""
        recipient = fictitious(OPT_OUTS_FROM + self._draw.randrange(OPT_OUTS_FROM))
        await self._corridor.add_opt_out(self._life.tenant, int(recipient[1:]))
        line = {"kind": "opt_out_acked", "at_us": now_us(), "mono_ns": time.monotonic_ns()}
        self._note([line | {"recipient": recipient, "by": "api"}])

    async def run(self) -> None:
        """Call after call, until the store breaks."""
        while True:
            if self._draw.random() < OPT_OUT_SHARE:
                await self.opt_out()
            else:
                await self.call()


class SurprisedError(Exception):
    """The engine did what nothing in this run asks for."""


def again_of(path: Path, seed: int) -> list[str]:
    """Request ids of the log that were not answered, all of them, and some that were."""
    handed_in: dict[str, None] = {}
    answered: set[str] = set()
    for line in read_lines(path):
        if line["kind"] == "handed_in":
            handed_in[line["request_id"]] = None
        elif line["kind"] == "acked":
            answered.add(line["request_id"])
    last = [one for one in handed_in if one in answered][-4 * AGAIN_MAX :]
    draw = random.Random(seed)  # noqa: S311 - it must repeat
    return [one for one in handed_in if one not in answered] + draw.sample(last, min(AGAIN_MAX, len(last)))


def report(**fields: int) -> None:
    """One line on standard output, whole."""
    os.write(1, json.dumps(fields).encode() + b"\n")


async def live(life: Life) -> int:
    """One life; returns its exit code when the store broke."""
    path = Path(life.store)
    values: dict[str, Any] = {"reserve_file_mib": 0, "lease_s": 1e6, "group_linger_ms": 0, "log_level": "ERROR"}
    settings = Settings(**values | {"store_url": f"sqlite:///{path}"})
    corridor = Corridor(settings, open_secrets(settings.secrets_path, create=True, now_us=1), Metrics("0", "sqlite"))
    await corridor.start()

    def prepare(connection: Connection) -> None:
        if life.checkpoint_pages:
            connection.execute(f"PRAGMA wal_autocheckpoint={life.checkpoint_pages}").fetchall()
        if life.plant == PLANT_NORMAL:
            connection.execute("PRAGMA synchronous=NORMAL").fetchall()

    store = corridor.store
    assert isinstance(store, EmbeddedStore)
    await store.writer.submit("control", prepare, alone=True)
    log_path = Path(life.log)
    sender = Sender(
        corridor,
        life,
        os.open(log_path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600),
        again_of(log_path, life.seed + life.number),
    )
    report(ready=os.getpid())
    calls = [asyncio.ensure_future(sender.run()) for _ in range(CALLERS)]
    # A call ends by an error only, and when one does the store is broken: the others soon find out too.
    errors = await asyncio.gather(*calls, return_exceptions=True)
    surprises = [error for error in errors if not isinstance(error, LongwaveError)]
    if surprises:
        sys.stderr.write(f"append_worker: {surprises!r}\n")
        return EXIT_SURPRISED
    return EXIT_STORE_BROKEN


def begin(life: Life) -> int:
    """Fork a life; returns its pid. The child does not return."""
    pid = os.fork()
    if pid:
        return pid
    code = EXIT_SURPRISED
    try:
        os.close(0)
        code = asyncio.run(live(life))
    except BaseException as error:  # noqa: BLE001 - told by the exit code; the parent goes on
        sys.stderr.write(f"append_worker: {error!r}\n")
        if isinstance(error, StoreBroken | Refused) or classify(error) is Fault.FATAL:
            code = EXIT_STORE_BROKEN
    finally:
        os._exit(code)


def command_of(life: Life) -> bytes:
    """The line that begins it."""
    return json.dumps(asdict(life)).encode() + b"\n"


def main() -> None:
    """Read lives from standard input, one after the other."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for whoever started this
    logs.configure("ERROR", sys.stderr)  # standard output is the protocol's
    known_revisions()  # read from disk once, not in every life
    for line in sys.stdin.buffer:
        pid = begin(Life(**json.loads(line)))
        report(born=pid)
        _, status = os.waitpid(pid, 0)
        report(ended=pid, code=os.waitstatus_to_exitcode(status))


if __name__ == "__main__":
    main()
