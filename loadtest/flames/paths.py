"""The paths whose cost is looked into, each driven as its benchmark drives it: unary, batch, receipts, the whole way.

Each is given a folder, seconds and how to sample, and returns what was recorded of an engine of its own.
"""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from loadtest.benchmarks import accept_batches, accept_unary_native
from loadtest.benchmarks.callers import run_loop
from loadtest.benchmarks.carrier_process import carrier
from loadtest.benchmarks.delivery import submit
from loadtest.benchmarks.engine_process import OPEN, engine
from loadtest.benchmarks.plan import MEASUREMENT_S_MAX
from loadtest.benchmarks.submissions import batches, submission
from loadtest.flames.sampling import Sampler
from longwave import contract

CALLERS: Final = 256
# Of one round of h2load.
CALLS: Final = {"grpcio": 5_000, "native": 30_000}
BATCH_MESSAGES: Final = 500
BATCH_CALLERS: Final = 4
# Encoded beforehand; more than an engine stores in the time.
BATCHES_A_SECOND: Final = 400
DELIVERED_A_SECOND: Final = 3_000
# So late that all messages are with the carrier before the first receipt comes.
RECEIPTS_LATE_MS: Final = 15_000.0


def unary(folder: Path, seconds: float, sampled: Sampler) -> str:
    """SubmitMessage over grpcio's edge, 256 in flight by h2load."""
    return _unary("grpcio", folder, seconds, sampled)


def unary_native(folder: Path, seconds: float, sampled: Sampler) -> str:
    """SubmitMessage over the native edge, 256 in flight by h2load."""
    return _unary("native", folder, seconds, sampled)


def batch(folder: Path, seconds: float, sampled: Sampler) -> str:
    """SubmitMessages of 500, four on their way."""
    messages = int(seconds * BATCHES_A_SECOND) * BATCH_MESSAGES
    requests = batches(OPEN, "flames", messages, BATCH_MESSAGES)
    with engine(folder) as running, sampled(running.pid, folder) as recording:
        accept_batches.load(running, requests, BATCH_CALLERS)
    return recording.text


def receipts(folder: Path, seconds: float, sampled: Sampler) -> str:
    """Two signed receipts a message, with every message sent before."""
    delays = dict.fromkeys(("receipt_delay_min_ms", "receipt_delay_mean_ms", "receipt_delay_max_ms"), RECEIPTS_LATE_MS)
    messages = int(seconds * DELIVERED_A_SECOND)
    with carrier(folder, delays) as taking, engine(folder, taking.settings()) as running:
        run_loop(submit(running, [submission(OPEN, "flames", place) for place in range(messages)]))
        taking.wait_taken(messages, time.monotonic() + MEASUREMENT_S_MAX)
        with sampled(running.pid, folder) as recording:
            taking.wait_delivered(messages, time.monotonic() + MEASUREMENT_S_MAX)
    return recording.text


def whole(folder: Path, seconds: float, sampled: Sampler) -> str:
    """From submission to the last of two signed receipts."""
    messages = int(seconds * DELIVERED_A_SECOND)
    submissions = [submission(OPEN, "flames", place) for place in range(messages)]
    with (
        carrier(folder) as taking,
        engine(folder, taking.settings()) as running,
        sampled(running.pid, folder) as recording,
    ):
        run_loop(submit(running, submissions))
        taking.wait_delivered(messages, time.monotonic() + MEASUREMENT_S_MAX)
    return recording.text


PATHS: Final[dict[str, Callable[[Path, float, Sampler], str]]] = {
    "unary": unary,
    "unary-native": unary_native,
    "batch": batch,
    "receipts": receipts,
    "whole": whole,
}


def _unary(edge: str, folder: Path, seconds: float, sampled: Sampler) -> str:
    accept_unary_native.check_tools()
    body = folder / "frame"
    body.write_bytes(accept_unary_native.submission_frame())
    with engine(folder, {"LONGWAVE_EDGE": edge}) as running:
        url = f"http://{running.address}{contract.SUBMIT_MESSAGE.path}"
        headers = [f"{key}: {value}" for key, value in running.metadata()]
        load = accept_unary_native.load

        def round_of_calls() -> None:
            load(url, body, CALLS[edge], CALLERS, headers)

        round_of_calls()  # what is done once is not looked into
        with _driven(round_of_calls), sampled(running.pid, folder) as recording:
            time.sleep(seconds)
    return recording.text


@contextmanager
def _driven(work: Callable[[], None]) -> Iterator[None]:
    """Do it again and again while the block runs; what went wrong is raised at its end."""
    over, errors = threading.Event(), list[Exception]()

    def drive() -> None:
        while not over.is_set():
            try:
                work()
            except Exception as error:  # noqa: BLE001 - raised below, by the thread that waits
                errors.append(error)
                return

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
    if errors:
        raise errors[0]
