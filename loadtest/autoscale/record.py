"""Records what a Prometheus would see of one engine under load, and keeps it as CSV.

The engine is a real one over a store of its own, the carrier a simulated one that takes its time, so that the link's
slots are the bound, as they are of a pod whose carrier is far away. It judges nothing.
"""

import csv
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Final

from loadtest.benchmarks.carrier_process import carrier
from loadtest.benchmarks.children import BenchmarkError, get
from loadtest.benchmarks.engine_process import LIMITED, OPEN, engine
from loadtest.locust.profiles import Profile
from loadtest.openloop.arrivals import BATCH, Flow, Phase
from loadtest.openloop.team import Whom, team

SAMPLE_S: Final = 5.0
# As long as a rate is the same; the engine counts its queue as often.
STEP_S: Final = 5.0
CALL_MESSAGES: Final = 10
# What is to wait is handed in at once, in large calls.
PACED_CALL_MESSAGES: Final = 500
HANDED_IN_S: Final = 10.0
# 200 ms are those of a request across the country to a provider that thinks; 64 slots pass some 320 messages a second.
CARRIER: Final = {"latency_min_ms": 100.0, "latency_mean_ms": 200.0, "latency_max_ms": 400.0}
SLOTS: Final = 64
OK: Final = 200
# What is read, by the name of its column.
METRICS: Final = {
    "queue_length": "custom_queue_length",
    "backlog": "message_queue_length",
    "in_flight": 'longwave_dispatch_in_flight{provider="telnyx"}',
    "accepted": "longwave_append_messages_total",
    "sent": "longwave_dispatch_messages_total",
    "cpu_s": "process_cpu_seconds_total",
    "memory_bytes": "process_resident_memory_bytes",
}


@dataclass(frozen=True, slots=True)
class Row:
    """One scrape."""

    at_s: float
    offered_per_s: float
    """Messages that were to be handed in at that time."""
    queue_length: float
    backlog: float
    in_flight: float
    accepted: float
    """Since the engine began, as `sent` and `cpu_s`."""
    sent: float
    cpu_s: float
    memory_bytes: float


def values_of(exposition: str) -> dict[str, float]:
    """The columns' values in a text of /metrics; 0 for a series that has not begun."""
    found = {}
    for line in exposition.splitlines():
        if not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            found[name] = float(value)
    return {column: found.get(name, 0.0) for column, name in METRICS.items()}


def record(folder: Path, profile: Profile) -> list[Row]:
    """Offer a profile and scrape meanwhile."""

    def offer(whom: Whom, tell: Callable[[float], None]) -> None:
        with team(whom, [Flow("load", BATCH, "TRANSACTIONAL", 1.0, CALL_MESSAGES)], 1) as ready:
            began_s = time.monotonic()
            while (at_s := time.monotonic() - began_s) < profile.seconds:
                rate = profile.rate(at_s)
                tell(rate)
                # The driver needs some tenths of a second to begin a phase, so one that is due at a time ends by it.
                ends_s = (at_s // STEP_S + 1) * STEP_S
                ready.run(Phase(profile.name, rate, max(0.5, ends_s - at_s - 0.25)))

    return _scraped(folder, OPEN, offer)


def record_paced(folder: Path, messages: int, seconds: float) -> list[Row]:
    """Hand in what one limit holds back for hours, and scrape while it waits."""

    def offer(whom: Whom, tell: Callable[[float], None]) -> None:
        with team(whom, [Flow("paced", BATCH, "BULK", 1.0, PACED_CALL_MESSAGES)], 1) as ready:
            rate = messages / HANDED_IN_S
            tell(rate)
            ready.run(Phase("paced", rate, HANDED_IN_S))
        tell(0.0)
        time.sleep(seconds - HANDED_IN_S)

    return _scraped(folder, LIMITED, offer)


def _scraped(folder: Path, campaign: str, offer: Callable[[Whom, Callable[[float], None]], None]) -> list[Row]:
    settings = {"LONGWAVE_IN_FLIGHT_MAX": str(SLOTS), "LONGWAVE_CONNECTIONS_MAX": str(SLOTS)}
    rows: list[Row] = []
    rate = 0.0
    done = threading.Event()

    def tell(per_s: float) -> None:
        nonlocal rate
        rate = per_s

    with carrier(folder, CARRIER) as sink, engine(folder, sink.settings() | settings) as running:
        began_s = time.monotonic()

        def scrape() -> None:
            while not done.wait(SAMPLE_S):
                status, body = get(running.http_port, "/metrics")
                if status == OK:
                    at_s = round(time.monotonic() - began_s, 1)
                    rows.append(Row(at_s, round(rate, 1), **values_of(body.decode())))

        scraper = threading.Thread(target=scrape)
        scraper.start()
        try:
            offer(Whom(running.address, running.api_key, campaign), tell)
        finally:
            done.set()
            scraper.join()
    if not rows:
        raise BenchmarkError("nothing was scraped")
    return rows


def write(rows: Sequence[Row], file: Path) -> None:
    """As CSV."""
    with file.open("w", encoding="ascii", newline="") as opened:
        writer = csv.DictWriter(opened, [column.name for column in fields(Row)], lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: f"{value:.10g}" for name, value in asdict(row).items()} for row in rows)


def read(file: Path) -> list[Row]:
    """From CSV."""
    with file.open(encoding="ascii", newline="") as opened:
        return [_row(line) for line in csv.DictReader(opened)]


def _row(line: Mapping[str, str]) -> Row:
    return Row(**{name: float(value) for name, value in line.items()})
