"""The systems that are compared, each with how much it is handed. It measures nothing."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from loadtest.peers.home_made import HomeMade
from loadtest.peers.kannel import Kannel
from loadtest.peers.longwave_engine import Longwave
from loadtest.peers.plan import Counts, Plan
from loadtest.peers.sink_process import SinkProcess
from loadtest.peers.system import System
from longwave.v1 import messaging_pb2 as pb

BATCHES: Final = "Longwave, batches"
SINGLES: Final = "Longwave, one a call"
NATIVE: Final = "Longwave, one a call, native edge"
URGENT: Final = "Longwave, one a call, CRITICAL"
KANNEL: Final = "Kannel, no store"
KANNEL_SPOOL: Final = "Kannel, spool store"
HOME_MADE: Final = "home-made"
NAMES: Final = (BATCHES, SINGLES, NATIVE, URGENT, KANNEL, KANNEL_SPOOL, HOME_MADE)


@dataclass(frozen=True, slots=True)
class Candidate:
    """One of them."""

    name: str
    counts: Counts
    make: Callable[[Path], System]
    """In a new folder."""
    quiet_s: float
    """After a restart: when nothing came for so long, nothing will."""
    is_killed_only: bool = False
    """It differs from another in what happens after a kill alone."""


def candidates(plan: Plan, sink: SinkProcess, made: Path) -> list[Candidate]:
    """All of them; `made` is a store of Longwave's with a registry and no message."""
    telnyx, kannel, plain = sink.url("/v2"), sink.url("/kannel"), sink.url("/plain")
    one = plan.in_flight
    longwave = partial(Longwave, made=made, sink_url=telnyx)
    single = partial(longwave, in_flight=one, batch_messages=1)
    batch = partial(longwave, in_flight=plan.batches_in_flight, batch_messages=plan.batch_messages)
    # Longer than the wait for evidence (15 s) of messages that are then sent again; than Celery's for what a killed
    # worker had (10 s, looked for every 5 s). The others have nothing that comes back later.
    return [
        Candidate(BATCHES, plan.batches, batch, quiet_s=5),
        Candidate(SINGLES, plan.singles, single, quiet_s=5),
        Candidate(NATIVE, plan.singles, partial(single, edge="native"), quiet_s=5),
        Candidate(
            URGENT, plan.singles, partial(single, message_class=pb.MESSAGE_CLASS_CRITICAL), quiet_s=25,
            is_killed_only=True,
        ),
        Candidate(
            KANNEL, plan.kannel, partial(Kannel, sink_url=kannel, in_flight=one, is_stored=False), quiet_s=5
        ),
        Candidate(
            KANNEL_SPOOL, plan.kannel, partial(Kannel, sink_url=kannel, in_flight=one, is_stored=True), quiet_s=5
        ),
        Candidate(HOME_MADE, plan.slow, partial(HomeMade, sink_url=plain, in_flight=one), quiet_s=20),
    ]  # fmt: skip
