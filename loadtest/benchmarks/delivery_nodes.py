"""Measures the whole way over MariaDB and Redis, with one node and with two: handed in at all until each is delivered.

As `delivery.py`, over a MariaDB of its own on the same disk with the settings of durability level D1, and a Redis for
hints and look-ups. Servers, nodes, simulated carrier and load generator share the machine; what each of them
used is told apart by process.
"""

import asyncio
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from loadtest.benchmarks.callers import run_loop
from loadtest.benchmarks.carrier_process import CarrierProcess, carrier
from loadtest.benchmarks.children import BenchmarkError
from loadtest.benchmarks.delivery import LOOK_S, WARM_MESSAGES, first_not_delivered, submit
from loadtest.benchmarks.engine_process import SPREAD, EngineProcess, over_mysql
from loadtest.benchmarks.figures import Sheet, per_second
from loadtest.benchmarks.plan import MEASUREMENT_S_MAX, Plan
from loadtest.benchmarks.process_costs import cpu_s
from loadtest.benchmarks.submissions import submission
from tests.servers.mariadb import PASSWORD, MariaDB
from tests.servers.redis_server import RedisServer

METHOD: Final = (
    "submit_many through the SDK, the same share at each node and of each of 16 campaigns, until the carrier had every "
    "receipt acknowledged by the node that sent; over a MariaDB server of its own on the same disk (flush at every "
    "commit, binary log synced) and a Redis of its own (hints and look-ups), with one node and with two, all on this "
    "machine. Else as delivery."
)
DATABASE: Final = "bench"
NODES: Final = (1, 2)
SHARDS: Final = 64
SPREAD_S_MAX: Final = 30.0


def measure(plan: Plan, folder: Path, sheet: Sheet) -> None:
    """One run."""
    rates = {count: _measure(plan, folder, sheet, count) for count in NODES}
    sheet.add("submitted to delivered on MariaDB and Redis: two nodes of one", "ratio", rates[2] / rates[1])


def _measure(plan: Plan, folder: Path, sheet: Sheet, count: int) -> float:
    """Messages a second with so many nodes."""
    messages = plan.delivery_messages
    with ExitStack() as ending:
        own = Path(ending.enter_context(tempfile.TemporaryDirectory(prefix="nodes-", dir=folder))).resolve()
        server = MariaDB(own / "server")
        ending.callback(server.remove)
        server.start()
        (own / "redis").mkdir()
        redis = RedisServer(own / "redis")
        ending.callback(redis.kill)
        redis.start()
        taking = ending.enter_context(carrier(own))
        nodes = _nodes(own, server, redis, taking, count)
        for node in nodes:
            ending.callback(node.stop)
            node.start()
        _wait_spread(nodes)
        _deliver(nodes, taking, "warm", WARM_MESSAGES, WARM_MESSAGES)
        pids = {
            "nodes": [node.pid for node in nodes],
            "MariaDB": [server.pid],
            "Redis": [redis.pid],
            "the carrier": [taking.pid],
        }
        before = {who: sum(map(cpu_s, of)) for who, of in pids.items()}
        own_before = time.process_time()
        elapsed_s = _deliver(nodes, taking, "all", messages, WARM_MESSAGES + messages)
        used = {who: sum(map(cpu_s, of)) - before[who] for who, of in pids.items()}
        used["the load generator"] = time.process_time() - own_before
    with_nodes = "one node" if count == 1 else f"{count} nodes"
    rate = per_second(messages, elapsed_s)
    sheet.add(f"submitted to delivered on MariaDB and Redis, {with_nodes}", "messages/s", rate)
    for who, seconds in used.items():
        sheet.add(f"processor time of {who}, {with_nodes}", "µs/message", seconds / messages * 1e6)
    return rate


def _wait_spread(nodes: list[EngineProcess]) -> None:
    """Until each owns its share. Raises BenchmarkError if that takes too long."""
    until_s = time.monotonic() + SPREAD_S_MAX
    while sorted(node.shards for node in nodes) != [SHARDS // len(nodes)] * len(nodes):
        if time.monotonic() > until_s:
            raise BenchmarkError("the nodes do not come to share their campaigns")
        time.sleep(LOOK_S)


def _nodes(
    folder: Path, server: MariaDB, redis: RedisServer, taking: CarrierProcess, count: int
) -> list[EngineProcess]:
    """Not started; the store is made."""
    settings = taking.settings() | over_mysql(server.create_database(DATABASE), PASSWORD, folder)
    settings |= {"LONGWAVE_REDIS_URL": redis.url, "LONGWAVE_REDIS_CACHE": "true"}
    nodes = [EngineProcess(folder, settings) for _ in range(count)]
    nodes[0].make_store()
    return nodes


def _deliver(nodes: list[EngineProcess], taking: CarrierProcess, prefix: str, messages: int, total: int) -> float:
    """Seconds from the first submission until all are delivered. Raises BenchmarkError if one is not in time."""
    submissions = [submission(SPREAD[place % len(SPREAD)], prefix, place) for place in range(messages)]
    # Neighbours of each campaign, so that each node has all campaigns.
    turns = [place // len(SPREAD) % len(nodes) for place in range(messages)]
    shares = [[item for item, turn in zip(submissions, turns, strict=True) if turn == own] for own in range(len(nodes))]

    async def hand_in() -> None:
        async with asyncio.TaskGroup() as handing:
            for node, share in zip(nodes, shares, strict=True):
                handing.create_task(submit(node, share))

    began = time.monotonic()
    run_loop(hand_in())
    taking.wait_delivered(total, began + MEASUREMENT_S_MAX)
    while left := run_loop(first_not_delivered(nodes[0])):
        if time.monotonic() > began + MEASUREMENT_S_MAX:
            raise BenchmarkError(f"every receipt was acknowledged, but a message is {left}")
        time.sleep(LOOK_S)
    return time.monotonic() - began
