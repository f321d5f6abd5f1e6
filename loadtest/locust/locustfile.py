"""What Locust loads: `locust -f loadtest/locust/locustfile.py --world FILE --shape day …`, from a checkout's root.

The shape says how many users there are, each handing in as many messages a second as the others. At the end the
messages that were sampled are looked up, the verdict is printed and, with `--summary`, written, and is the exit code.
"""

import json
import math
import sys
import time
from argparse import Namespace
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import gevent
from locust import LoadTestShape, events
from locust.runners import MasterRunner, WorkerRunner

from loadtest.locust import interrupt, profiles, world
from loadtest.locust.calls import Calls
from loadtest.locust.tally import Tally, together
from loadtest.locust.users import EVENT, KIND, BatchUser, SdkUser, Shared, StreamUser, UnaryUser, WatchUser
from loadtest.locust.verdict import Measured, Thresholds, judge, table
from longwave.errors import LongwaveError
from longwave.sync import Client
from longwave.v1 import messaging_pb2 as pb

__all__ = ["BatchUser", "Profiled", "SdkUser", "StreamUser", "UnaryUser", "WatchUser"]

# Senders, each with a connection: a thousand of them would be Locust's work, not the engine's.
USERS_ENOUGH: Final = 80
PACE_MAX: Final = 20.0
SPAWNED_A_SECOND: Final = 100.0
# Workers tell of what they did within so long.
REPORTED_S: Final = 4.0
CATCH_UP_S: Final = 30.0
CATCH_UP_MOST: Final = 0.25
TERMINAL: Final = 16
LOOK_S: Final = 0.5
# A step of a ramp is judged by its own calls.
STEP_S: Final = 15.0
KNEE_PACE: Final = 0.9
UNARY: Final = frozenset({"SubmitMessage", "SubmitMessage (client)"})
SHOWN: Final = ("shape", "rate", "seconds", "factor", "first_hour", "hours", "step_seconds", "only", "processes")
_parts: dict[str, dict[str, Any]] = {}


@events.init_command_line_parser.add_listener
def _options(parser: Any) -> None:
    group = parser.add_argument_group("Longwave")
    group.add_argument("--world", required=True, help="file with the engine's address, keys and campaigns")
    group.add_argument("--shape", choices=["steady", "soak", "day", "spike", "ramp"], default="steady")
    group.add_argument("--rate", type=float, default=100.0, help="messages a second; of spike and ramp: the first")
    group.add_argument("--seconds", type=float, default=60.0, help="of the run (not of a day)")
    group.add_argument("--factor", type=float, default=60.0, help="of a day: times as fast as the clock")
    group.add_argument("--first-hour", type=float, default=0.0, help="of a day: the hour it begins at")
    group.add_argument("--hours", type=float, default=24.0, help="of a day: how many")
    group.add_argument("--step-seconds", type=float, default=STEP_S, help="of a ramp: of each step")
    group.add_argument("--only", choices=["unary", "batch", "stream"], help="users of one kind, and those that watch")
    group.add_argument("--p95-ms", type=float, default=200.0, help="bound of all calls; 0: none")
    group.add_argument("--unary-p99-ms", type=float, default=0.0, help="bound of unary submissions; 0: none")
    group.add_argument("--settle-seconds", type=float, default=60.0, help="until what was accepted must be final")
    group.add_argument("--no-watch", action="store_true", help="nobody watches events")
    group.add_argument("--summary", default="", help="write what was measured here, as JSON")


def profile_of(options: Namespace) -> profiles.Profile:
    """As the options say."""
    if options.shape == "day":
        return profiles.day(options.factor, options.first_hour, options.hours)
    if options.shape == "spike":
        return profiles.spike(options.rate, options.seconds)
    if options.shape == "ramp":
        return profiles.ramp(options.rate, options.seconds, options.step_seconds)
    return profiles.steady(options.rate, options.seconds, options.shape)


def pace_of(profile: profiles.Profile) -> float:
    """Messages a second of each sender: one, or as many as keep the users few and leave a call time for its answer."""
    return min(PACE_MAX, max(1.0, profile.peak / USERS_ENOUGH))


class Profiled(LoadTestShape):
    """So many users that the profile's rate is handed in; a ramp ends at the knee."""

    def __init__(self) -> None:
        super().__init__()
        self.knee = 0.0
        """Of a ramp: the highest rate, messages a second, that was handed in and answered in time."""
        self.aimed = 0.0
        """Messages that the profile was to hand in, until now."""
        self._profile: profiles.Profile | None = None
        self._step = 0
        self._before = (Calls(), 0)

    def tick(self) -> tuple[int, float, list[type]] | None:
        """Users, how fast they come, and of which kinds; None ends the run."""
        options = self.runner.environment.parsed_options
        if self._profile is None:
            self._profile = profile_of(options)
        at_s = self.get_run_time()
        self.aimed = self._profile.messages(at_s)
        if at_s >= self._profile.seconds or (options.shape == "ramp" and self._is_too_much(at_s, options)):
            return None
        watching = 0 if options.no_watch else WatchUser.fixed_count
        rate = self._profile.rate(at_s)
        if options.shape != "ramp":
            # What slow calls or late users left undone is made up for within the next half minute.
            undone = self._profile.messages(at_s - REPORTED_S) - tally_of(self.runner).handed_in
            rate += min(CATCH_UP_MOST * rate, max(0.0, undone / CATCH_UP_S))
        users = max(1, round(rate / pace_of(self._profile)))
        return users + watching, SPAWNED_A_SECOND, kinds_of(options, batches_only=self._profile.batches_only)

    def _is_too_much(self, at_s: float, options: Namespace) -> bool:
        """Whether the step that just ended was answered late, wrongly, or more slowly than it was to be handed in."""
        step = int(at_s / options.step_seconds)
        if step == self._step or self._profile is None:
            return False
        began_s, self._step = self._step * options.step_seconds, step
        (calls, handed_in), now = self._before, (api_calls(self.runner.stats), tally_of(self.runner).handed_in)
        self._before = now
        if step == 1:
            return False  # workers tell of what they did some seconds later: from here on as late as before
        lately = now[0].since(calls)
        aimed = self._profile.messages(step * options.step_seconds) - self._profile.messages(began_s)
        if (
            lately.errors
            or lately.percentile_ms(0.95) >= (options.p95_ms or math.inf)
            or now[1] - handed_in < KNEE_PACE * aimed
        ):
            return True
        self.knee = self._profile.rate(began_s)
        return False


def kinds_of(options: Namespace, *, batches_only: bool) -> list[type]:
    """Kinds of users."""
    senders: list[type] = [SdkUser, UnaryUser, BatchUser, StreamUser]
    if options.only:
        of_one: dict[str, list[type]] = {"unary": [SdkUser, UnaryUser], "batch": [BatchUser], "stream": [StreamUser]}
        senders = of_one[options.only]
    elif batches_only:
        senders = [BatchUser, StreamUser]
    return senders if options.no_watch else [*senders, WatchUser]


def api_calls(stats: Any, names: frozenset[str] | None = None, kind: str = KIND) -> Calls:
    """Of a kind, of all processes; only those of these names, if any are given."""
    found = Calls()
    for entry in stats.entries.values():
        if entry.method == kind and (names is None or entry.name in names):
            found.add(entry.response_times, entry.num_failures)
    return found


def tally_of(runner: Any) -> Tally:
    """Of all processes."""
    return together([*_parts.values()]) if isinstance(runner, MasterRunner) else Shared.tally


@events.report_to_master.add_listener
def _tell_master(client_id: str, data: dict[str, Any]) -> None:
    data["longwave"] = {"client": client_id, **Shared.tally.shown()}


@events.worker_report.add_listener
def _hear_worker(client_id: str, data: dict[str, Any]) -> None:
    _parts[client_id] = data["longwave"]


@events.init.add_listener
def _begin(environment: Any, **_: Any) -> None:
    options = environment.parsed_options
    try:
        Shared.world = world.read(Path(options.world))
        Shared.pace = pace_of(profile_of(options))
    except ValueError as error:
        sys.stderr.write(f"{error}\n")
        sys.exit(2)
    interrupt.reaches_main()


@events.quitting.add_listener
def _end(environment: Any, **_: Any) -> None:
    """Say how it went; a worker leaves that to its master."""
    runner = environment.runner
    if runner is None or isinstance(runner, WorkerRunner):
        return
    options = environment.parsed_options
    stats, tally = environment.stats, tally_of(runner)
    calls = api_calls(stats)
    calls.errors += sum(int(one["count"]) for one in runner.exceptions.values())
    measured = Measured(
        calls=calls.count, errors=calls.errors, aimed=environment.shape_class.aimed, handed_in=tally.handed_in,
        accepted=tally.accepted, refused_rightly=tally.refused_rightly, p50_ms=calls.percentile_ms(0.5),
        p95_ms=calls.percentile_ms(0.95), p99_ms=calls.percentile_ms(0.99),
        unary_p99_ms=api_calls(stats, UNARY).percentile_ms(0.99),
        event_p99_ms=api_calls(stats, kind=EVENT).percentile_ms(0.99),
        seconds=max(0.0, (stats.last_request_timestamp or stats.start_time) - stats.start_time),
    )  # fmt: skip
    look_up(tally.sample, options.settle_seconds, measured)
    ramp = options.shape == "ramp"
    asked = Thresholds(
        p95_ms=None if ramp else options.p95_ms or None, unary_p99_ms=options.unary_p99_ms or None, to_the_end=not ramp
    )
    lines = judge(measured, asked)
    sys.stdout.write(f"\n{table(measured, lines)}\n")
    if ramp:
        sys.stdout.write(f"knee: {environment.shape_class.knee:,.0f} messages/s\n")
    environment.process_exit_code = 0 if all(line.kept for line in lines) else 1
    if options.summary:
        shown = {
            "measured": asdict(measured), "promises": [asdict(line) for line in lines],
            "knee": environment.shape_class.knee if ramp else None,
            "options": {name: value for name, value in vars(options).items() if name in SHOWN},
        }  # fmt: skip
        Path(options.summary).write_text(json.dumps(shown, indent=1) + "\n", encoding="utf-8")


def look_up(sample: list[tuple[int, str]], settle_s: float, measured: Measured) -> None:
    """Wait until each sampled message is final; what is unknown, or not final in time, is lost."""
    measured.sampled = len(sample)
    until_s, states = time.monotonic() + settle_s, Counter[str]()
    clients = [Client(Shared.world.address, api_key=one.api_key) for one in Shared.world.senders]
    waiting = sample
    while waiting:
        still = []
        for place, name in waiting:
            try:
                state = clients[place].get(name).message.state
            except LongwaveError as error:
                states[error.reason] += 1
                continue
            if state >= TERMINAL:
                states[pb.MessageState.Name(state)] += 1
            else:
                still.append((place, name))
        waiting = still
        if time.monotonic() > until_s:
            states["NOT_FINAL"] = len(waiting)
            break
        gevent.sleep(LOOK_S if waiting else 0)
    for client in clients:
        client.close()
    measured.found = dict(states)
    measured.lost = sum(count for state, count in states.items() if not state.startswith("MESSAGE_STATE_"))
