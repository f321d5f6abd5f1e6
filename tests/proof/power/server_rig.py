"""`longwave serve` over a store in a folder that is given, and one caller that remembers what it was told.

No carrier: messages are held, so that what is stored can be compared at any time. Nothing is asserted here but that the
caller is never told two different things.

Invariants: every wait ends after `WAIT_S`; `stop` leaves no process behind.
"""

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

import grpc

from loadtest.ports import free_ports
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import messaging_pb2_grpc, verdict_pb2
from tests.corridor.crash_client import RESEND, fictitious
from tests.corridor.crash_harness import HOST, Options, make_store

if TYPE_CHECKING:
    import sqlite3 as dbapi
else:
    from pysqlite3 import dbapi2 as dbapi

WAIT_S: Final = 60.0
CALL_S: Final = 20.0
RETRY_BATCH: Final = 100
STORE: Final = "longwave.db"
READY: Final = b" is ready: "
LOG: Final = "server.log"
LOOK_S: Final = 0.02
ACCEPTED: Final = verdict_pb2.VERDICT_ACCEPTED


@dataclass
class Caller:
    """What one caller handed in and was told."""

    told: dict[str, str] = field(default_factory=dict)
    """request id → message name, for what was accepted."""
    unknown: list[str] = field(default_factory=list)
    """Request ids to be tried again."""
    texts: dict[str, str] = field(default_factory=dict)
    """request id → what it was first handed in with."""
    made: int = 0

    def fresh(self, count: int) -> list[str]:
        """Request ids never used before."""
        self.made += count
        return [f"f-{number}" for number in range(self.made - count, self.made)]


class Server:
    """One store, one process after the other."""

    def __init__(self, folder: Path, *, store_folder: Path | None = None, seed: int = 1) -> None:
        """Make the store; start nothing."""
        self.folder = folder
        self.store_folder = store_folder or folder / "store"
        self.store_folder.mkdir(exist_ok=True)
        self.store = self.store_folder / STORE
        self.caller = Caller()
        self._token = make_store(self.store_folder, Options(seed=seed, messages=0))
        self._ports = free_ports(3)
        self._log_from = 0
        self.process: subprocess.Popen[bytes] | None = None
        self._channel: grpc.Channel | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(
        self, environment: dict[str, str] | None = None, *, limits: Iterable[tuple[int, int]] = (), **settings: object
    ) -> bool:
        """Start; whether it became ready, else it has ended. `limits`: (resource, bound) pairs."""
        own = {
            "STORE_URL": f"sqlite:///{self.store}",
            "RESERVE_FILE_MIB": "1",
            "DURABILITY_CHECK_S": "0.5",
            "LOG_LEVEL": "INFO",
            **{
                f"{name}_ADDRESS": f"{HOST}:{port}"
                for name, port in zip(("GRPC", "HTTP", "WEBHOOK"), self._ports, strict=True)
            },
            **{name.upper(): str(value) for name, value in settings.items()},
        }
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LONGWAVE_")}
        whole = inherited | {f"LONGWAVE_{name}": value for name, value in own.items()} | (environment or {})
        with (self.folder / LOG).open("ab") as log:
            self._log_from = log.tell()
            self.process = subprocess.Popen(
                [sys.executable, "-m", "server", "serve"],
                env=whole,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        for which, bound in limits:
            resource.prlimit(self.process.pid, which, (bound, bound))
        if not self._until_ready():
            return False
        # The library's own retries would hide which answer came when.
        self._channel = grpc.insecure_channel(f"{HOST}:{self._ports[0]}", options=[("grpc.enable_retries", 0)])
        return True

    def _until_ready(self) -> bool:
        until_s = time.monotonic() + WAIT_S
        with (self.folder / LOG).open("rb") as log:
            log.seek(self._log_from)
            seen = b""
            while READY not in seen:
                assert time.monotonic() < until_s, f"neither ready nor ended: {self.log()}"
                if not self.runs:
                    self.until_ended()
                    return False
                time.sleep(LOOK_S)
                seen += log.read()
        return True

    def until_ended(self) -> int:
        """Wait for the end; the exit code."""
        assert self.process is not None
        self._disconnect()
        return self.process.wait(WAIT_S)

    @property
    def runs(self) -> bool:
        """Whether it runs."""
        return self.process is not None and self.process.poll() is None

    def stop(self, how: int = signal.SIGKILL) -> int:
        """End it. Safe to call at any time; the exit code."""
        if self.process is None:
            return 0
        if self.runs:
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(how)
        return self.until_ended()

    def _disconnect(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None

    def log(self) -> str:
        """The end of its log."""
        return (self.folder / LOG).read_text(errors="replace")[-2000:]

    def submit(self, ids: list[str], *, text: str = "power", call_s: float = CALL_S) -> list[int] | grpc.StatusCode:
        """Hand in; the verdict of each, or the status of the whole call. What is unknown is kept to be tried again."""
        assert self._channel is not None
        submissions = [
            pb.Submission(
                campaign=f"campaigns/{RESEND}", recipient=fictitious(int(one.partition("-")[2])),
                text=self.caller.texts.setdefault(one, f"{text} {one}"), request_id=one,
            )
            for one in ids
        ]  # fmt: skip
        stub = messaging_pb2_grpc.MessagingServiceStub(self._channel)
        try:
            response = stub.SubmitMessages(
                pb.SubmitMessagesRequest(submissions=submissions),
                timeout=call_s,
                metadata=(("authorization", f"Bearer {self._token}"),),
                wait_for_ready=False,
            )
        except grpc.RpcError as error:
            self.caller.unknown += [one for one in ids if one not in self.caller.told]
            code: grpc.StatusCode = error.code()
            return code
        for one, result in zip(ids, response.results, strict=True):
            if result.verdict == ACCEPTED:
                assert self.caller.told.setdefault(one, result.message) == result.message, f"{one}: two messages"
            elif one not in self.caller.told:
                self.caller.unknown.append(one)
        return [result.verdict for result in response.results]

    def retry_unknown(self) -> None:
        """Hand in again what was not answered for sure; it must be accepted now."""
        again, self.caller.unknown = list(dict.fromkeys(self.caller.unknown)), []
        for start in range(0, len(again), RETRY_BATCH):
            ids = again[start : start + RETRY_BATCH]
            answer = self.submit(ids)
            assert answer == [ACCEPTED] * len(ids), f"{answer} {self.log()}"

    def missing(self) -> list[str]:
        """Request ids that were accepted and are not in the store with their text; the process must have ended."""
        connection = dbapi.connect(self.store)
        try:
            assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            statement = "SELECT r.request_id, b.record FROM request_ids AS r JOIN bodies AS b ON b.id = r.id"
            stored = {one: pb.Submission.FromString(record).text for one, record in connection.execute(statement)}
            assert connection.execute("SELECT count(*) FROM messages").fetchone() == (len(stored),)
        finally:
            connection.close()
        return [one for one in self.caller.told if stored.get(one) != self.caller.texts[one]]
