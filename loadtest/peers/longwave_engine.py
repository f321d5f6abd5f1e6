"""Longwave over its embedded store, handed messages in batches or one a call. It measures nothing.

The engine is `longwave serve` with its default settings, but for the reserve file and how long it waits for evidence
about a message whose fate it does not know. Its campaign has no limit.
"""

import shutil
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Final

from loadtest.benchmarks.callers import run_loop
from loadtest.benchmarks.engine_process import OPEN, EngineProcess
from loadtest.benchmarks.submissions import submission
from loadtest.peers import batch_load, unary_load
from loadtest.peers.loaded import Loaded
from longwave import contract
from longwave.client import AsyncClient, ListMessagesRequest
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import verdict_pb2

# Of nobody: the sink sends no receipt, so there is none to verify.
PUBLIC_KEY: Final = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="
# A minute by default; not below LONGWAVE_SEND_S. The sink has no evidence to give that would be worth a longer wait.
RECONCILE_WAIT_S: Final = "15"
PREFIX: Final = "peers"
PAGE_MESSAGES: Final = 1_000
UNCERTAIN: Final = (pb.MESSAGE_STATE_UNKNOWN, pb.MESSAGE_STATE_UNRESOLVED)


def make_store(folder: Path) -> None:
    """Make a store with a registry and no message, which each engine begins with a copy of."""
    folder.mkdir()
    EngineProcess(folder, {}).make_store()


class Longwave:
    """An engine over a copy of a store; `batch_messages` of 1 hands in one message a call."""

    def __init__(
        self,
        folder: Path,
        made: Path,
        sink_url: str,
        *,
        in_flight: int,
        batch_messages: int,
        message_class: "pb.MessageClass.ValueType" = pb.MESSAGE_CLASS_TRANSACTIONAL,
        edge: str = "grpcio",
    ) -> None:
        """Take the store; nothing is started."""
        shutil.copytree(made, folder, dirs_exist_ok=True)
        settings = {
            "LONGWAVE_TELNYX_BASE_URL": sink_url,
            "LONGWAVE_TELNYX_API_KEY": "of-the-sink",
            "LONGWAVE_TELNYX_PUBLIC_KEY": PUBLIC_KEY,
            "LONGWAVE_RECONCILE_WAIT_S": RECONCILE_WAIT_S,
            "LONGWAVE_EDGE": edge,
        }
        self.engine = EngineProcess(folder, settings)
        self._in_flight = in_flight
        self._batch_messages = batch_messages
        self._class = message_class

    def start(self) -> None:
        """Until it says that it is ready."""
        self.engine.start()

    def kill(self) -> None:
        """It is one process."""
        self.engine.kill()

    def close(self) -> None:
        """End it in order."""
        self.engine.stop()

    @property
    def roots(self) -> list[int]:
        """The engine."""
        return [self.engine.pid]

    @property
    def queue_roots(self) -> list[int]:
        """The engine."""
        return self.roots

    def load(self, places: range) -> Coroutine[Any, Any, Loaded]:
        """SubmitMessages, or SubmitMessage for batches of one."""
        step, metadata = self._batch_messages, self.engine.metadata()
        if step == 1:
            singles = [(place, self._one(place)) for place in places]
            host, _, port = self.engine.address.rpartition(":")
            return unary_load.load(
                host, int(port), contract.SUBMIT_MESSAGE.path, singles, in_flight=self._in_flight, metadata=metadata,
                is_accepted=is_accepted,
            )  # fmt: skip
        batches = [places[first : first + step] for first in range(0, len(places), step)]
        return batch_load.load(
            self.engine.address, contract.SUBMIT_MESSAGES.path, [(batch, self._batch(batch)) for batch in batches],
            in_flight=self._in_flight, metadata=metadata, verdicts=verdicts,
        )  # fmt: skip

    def uncertain(self) -> set[int]:
        """Those in UNKNOWN or UNRESOLVED."""
        return run_loop(self._uncertain())

    async def _uncertain(self) -> set[int]:
        wanted = ListMessagesRequest(page_size=PAGE_MESSAGES, states=UNCERTAIN)
        async with AsyncClient(self.engine.address, api_key=self.engine.api_key) as client:
            return {int(message.request_id.removeprefix(f"{PREFIX}-")) async for message in client.list(wanted)}

    def _one(self, place: int) -> bytes:
        return pb.SubmitMessageRequest(submission=self._submission(place)).SerializeToString()

    def _batch(self, places: range) -> bytes:
        submissions = [self._submission(place) for place in places]
        return pb.SubmitMessagesRequest(submissions=submissions).SerializeToString()

    def _submission(self, place: int) -> pb.Submission:
        return submission(OPEN, PREFIX, place, self._class)


def is_accepted(answer: bytes) -> bool:
    """Whether the message of a SubmitMessage was accepted."""
    return bool(pb.SubmitMessageResponse.FromString(answer).result.verdict == verdict_pb2.VERDICT_ACCEPTED)


def verdicts(answer: bytes) -> list[bool]:
    """Whether each message of a SubmitMessages was accepted."""
    results = pb.SubmitMessagesResponse.FromString(answer).results
    return [result.verdict == verdict_pb2.VERDICT_ACCEPTED for result in results]
