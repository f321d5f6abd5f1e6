"""Measures GetMessage of messages that never change again: answered by the store, by Redis, and from memory.

Each message is DELIVERED, made so by SQL. MariaDB, Redis, engine and load generator share the machine; the engine is
another for each level, and its metrics must say that this level answered.
"""

import re
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

from loadtest.benchmarks.accept_batches import check as check_accepted
from loadtest.benchmarks.callers import call_all, run_loop
from loadtest.benchmarks.children import BenchmarkError, get
from loadtest.benchmarks.engine_process import OPEN, EngineProcess, over_mysql
from loadtest.benchmarks.figures import Sheet
from loadtest.benchmarks.plan import Plan
from loadtest.benchmarks.submissions import batches
from longwave import contract
from longwave.v1 import messaging_pb2 as pb
from tests.servers.mariadb import PASSWORD, MariaDB
from tests.servers.redis_server import RedisServer

METHOD: Final = (
    "GetMessage of each of so many delivered messages, once, with 1 and with 16 callers, over a MariaDB and a Redis of "
    "its own on this machine: by the store (nothing kept), by the store while Redis is empty and is filled, by Redis "
    "(nothing in memory), from memory (asked for once before)."
)
DATABASE: Final = "bench"
CALLERS: Final = (1, 16)
DELIVERED: Final = 16
NOTHING: Final = {"LONGWAVE_CACHE_BYTES": "0"}
LEVEL: Final = re.compile(r'^longwave_cache_lookups_total\{level="(\w+)"\} (\S+)$', re.MULTILINE)


def measure(plan: Plan, folder: Path, sheet: Sheet) -> None:
    """One run."""
    with ExitStack() as ending:
        own = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="look-ups-", dir=folder))).resolve()
        server = MariaDB(own / "server")
        ending.callback(server.remove)
        server.start()
        (own / "redis").mkdir()
        redis = RedisServer(own / "redis")
        ending.callback(redis.kill)
        redis.start()
        settings = over_mysql(server.create_database(DATABASE), PASSWORD, own)
        requests = _delivered(plan, own, settings, server)
        shared = settings | {"LONGWAVE_REDIS_URL": redis.url, "LONGWAVE_REDIS_CACHE": "true"}
        for callers in CALLERS:
            redis.said("FLUSHALL")
            _measure(sheet, own, settings | NOTHING, requests, callers, ("store", "the store"))
            _measure(
                sheet, own, shared | NOTHING, requests, callers, ("store", "the store, filling Redis"),
                ("redis", "Redis"),
            )  # fmt: skip
            _measure(sheet, own, settings, requests, callers, ("store", ""), ("local", "memory"))


def _delivered(plan: Plan, folder: Path, settings: dict[str, str], server: MariaDB) -> list[bytes]:
    """A request for each of the messages that it stores."""
    names: list[str] = []

    def take(answer: bytes) -> None:
        check_accepted(answer)
        names.extend(result.message for result in pb.SubmitMessagesResponse.FromString(answer).results)

    running = EngineProcess(folder, settings)
    running.make_store()
    running.start()
    try:
        requests = batches(OPEN, "looked-up", plan.lookups, plan.batch_messages)
        path = contract.SUBMIT_MESSAGES.path
        run_loop(call_all(running.address, path, requests, callers=1, metadata=running.metadata(), check=take))
    finally:
        running.stop()
    with closing(server.connect(DATABASE)) as connection, connection.cursor() as cursor:
        cursor.execute("UPDATE messages SET state = %s, due_us = 0", (DELIVERED,))
        connection.commit()
    return [pb.GetMessageRequest(name=name).SerializeToString() for name in names]


def _measure(
    sheet: Sheet,
    folder: Path,
    settings: dict[str, str],
    requests: Sequence[bytes],
    callers: int,
    *rounds: tuple[str, str],
) -> None:
    """In rounds of (the level that answers, its name in the sheet: none is not written down)."""
    running = EngineProcess(folder, settings)
    running.start()
    try:
        for level, title in rounds:
            before = _answered(running).get(level, 0)
            work = call_all(
                running.address, contract.GET_MESSAGE.path, requests, callers=callers, metadata=running.metadata(),
                check=_check,
            )  # fmt: skip
            run = run_loop(work)
            answered = _answered(running).get(level, 0) - before
            if answered < 0.99 * len(requests):
                raise BenchmarkError(f"{level} answered {answered:.0f} of {len(requests)} look-ups")
            if title:
                sheet.add_latencies(f"GetMessage, {callers} at a time, by {title}", run.latencies_s)
    finally:
        running.stop()


def _check(answer: bytes) -> None:
    if pb.GetMessageResponse.FromString(answer).message.state != pb.MESSAGE_STATE_DELIVERED:
        raise BenchmarkError("a message is not DELIVERED")


def _answered(running: EngineProcess) -> dict[str, float]:
    """Look-ups so far, by what answered."""
    _, metrics = get(running.http_port, "/metrics")
    return {level: float(count) for level, count in LEVEL.findall(metrics.decode())}
