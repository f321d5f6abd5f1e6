"""The users: one call after another at a set pace, each kind by a transport of its own.

Senders hand in the same number of messages a second each, whatever their kind; a batch user makes fewer calls. A call
that is refused is a failure, unless what it handed in was wrong.
"""

import itertools
import random
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, Final

import gevent
import grpc
import grpc.experimental.gevent
from locust import User, task

from loadtest.locust import traffic
from loadtest.locust.pace import Pace
from loadtest.locust.tally import Tally
from loadtest.locust.world import Sender, World
from longwave import contract
from longwave.channels import channel_options
from longwave.errors import LongwaveError
from longwave.sync import Client
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import verdict_pb2

grpc.experimental.gevent.init_gevent()

BATCH_MESSAGES: Final = 100
CALL_S: Final = 10.0
KIND: Final = "gRPC"
EVENT: Final = "event"
# Nobody is told of an answer before this, so a stream's next submission is due then at the earliest.
STREAM_MESSAGES: Final = 200
# Events of which the latest is told of, if that many come within so many seconds.
EVENTS_TOGETHER: Final = 50
EVENTS_TOGETHER_S: Final = 1.0
US: Final = 1_000_000
_places: Iterator[int] = itertools.count()


class Failed(Exception):  # noqa: N818 - what Locust shows in its table of failures
    """A call that was not answered as it must be."""


def code_of(error: Exception) -> str:
    """Name of the status that a call ended with, or of the error."""
    return str(error.code().name) if hasattr(error, "code") else type(error).__name__


class Shared:
    """What the users of a process share."""

    world: ClassVar[World]
    tally: ClassVar[Tally] = Tally()
    pace: ClassVar[float] = 1.0
    """Messages a second that each sender hands in."""


class LoadUser(User):
    """A sender's user; subclasses say how it calls."""

    abstract = True
    messages_a_call = 1

    def __init__(self, environment: Any) -> None:
        super().__init__(environment)
        self.place = next(_places) % len(Shared.world.senders)
        self.sender: Sender = Shared.world.senders[self.place]
        self.draw = random.Random(self.place + next(_places))
        self.metadata = (("authorization", f"Bearer {self.sender.api_key}"),)

    def run(self) -> None:
        """Begin at a moment of its own: many users are made at a time, and would call in step for ever."""
        self.pace = Pace(self.messages_a_call / Shared.pace, self.draw.random())
        gevent.sleep(self.pace.wait_s())
        super().run()

    def wait_time(self) -> float:
        """Until the next call, so that the pace is kept however long calls take."""
        return self.pace.wait_s()

    def submission(self) -> tuple[pb.Submission, bool]:
        """The next one, and whether it is wrong."""
        made = traffic.submission(self.draw, self.sender.campaigns)
        return made, made.recipient == traffic.NOBODY

    def measured(self, name: str, messages: int, call: Callable[[], str]) -> None:
        """Make a call that says what was wrong with its answer, and tell Locust of it."""
        began_s, error = time.perf_counter(), None
        try:
            said = call()
            error = Failed(said) if said else None
        except (grpc.RpcError, LongwaveError) as raised:
            Shared.tally.failed(messages)
            error = Failed(code_of(raised))
        self.environment.events.request.fire(
            request_type=KIND, name=name, response_time=(time.perf_counter() - began_s) * 1e3, response_length=0,
            exception=error, context={},
        )  # fmt: skip

    def judged(self, results: "Iterator[pb.SubmitResult]", wrong: list[bool]) -> str:
        """What is wrong with the answers to submissions; empty when nothing is."""
        said = ""
        for result, is_wrong in zip(results, wrong, strict=True):
            accepted = result.verdict == verdict_pb2.VERDICT_ACCEPTED
            if not Shared.tally.answered(self.place, name=result.message if accepted else "", wrong=is_wrong):
                said = verdict_pb2.Verdict.Name(result.verdict)
        return said


class SdkUser(LoadUser):
    """Single messages through the client's synchronous transport, with its request ids and retries."""

    weight = 4

    def on_start(self) -> None:
        """Connect."""
        self.client = Client(Shared.world.address, api_key=self.sender.api_key)

    def on_stop(self) -> None:
        """Hang up."""
        self.client.close()

    @task
    def submit(self) -> None:
        """One message."""
        made, wrong = self.submission()

        def call() -> str:
            [result] = self.client.submit_many([made], deadline_s=CALL_S)
            right = Shared.tally.answered(self.place, name=result.message if result.accepted else "", wrong=wrong)
            return "" if right else result.reason

        self.measured("SubmitMessage (client)", 1, call)


class RawUser(LoadUser):
    """What has a channel of its own and makes calls as they are in the contract."""

    abstract = True

    def on_start(self) -> None:
        """Connect: users of one channel would share its streams."""
        options = (*channel_options(), ("grpc.use_local_subchannel_pool", 1))
        self.channel = grpc.insecure_channel(Shared.world.address, options=options)

    def on_stop(self) -> None:
        """Hang up."""
        self.channel.close()


class UnaryUser(RawUser):
    """Single messages by bare calls; now and then a look at one."""

    weight = 4

    def on_start(self) -> None:
        """Connect."""
        super().on_start()
        self.submit_call = self.channel.unary_unary(
            contract.SUBMIT_MESSAGE.path,
            pb.SubmitMessageRequest.SerializeToString,
            pb.SubmitMessageResponse.FromString,
        )
        self.get_call = self.channel.unary_unary(
            contract.GET_MESSAGE.path, pb.GetMessageRequest.SerializeToString, pb.GetMessageResponse.FromString
        )
        self.last = ""

    @task(19)
    def submit(self) -> None:
        """One message."""
        made, wrong = self.submission()
        request = pb.SubmitMessageRequest(submission=made)

        def call() -> str:
            try:
                result = self.submit_call(request, timeout=CALL_S, metadata=self.metadata).result
            except grpc.RpcError as error:
                # A single submission that is wrong is a call that is refused.
                if wrong and code_of(error) == "INVALID_ARGUMENT":
                    Shared.tally.answered(self.place, name="", wrong=True)
                    return ""
                raise
            self.last = result.message or self.last
            return self.judged(iter([result]), [wrong])

        self.measured("SubmitMessage", 1, call)

    @task(1)
    def get(self) -> None:
        """The last one."""
        if not self.last:
            return

        def call() -> str:
            request = pb.GetMessageRequest(name=self.last)
            found = self.get_call(request, timeout=CALL_S, metadata=self.metadata)
            return "" if found.message.name == self.last else "another message"

        self.measured("GetMessage", 0, call)


class BatchUser(RawUser):
    """A hundred messages a call."""

    weight = 1
    messages_a_call = BATCH_MESSAGES

    def on_start(self) -> None:
        """Connect."""
        super().on_start()
        self.submit_call = self.channel.unary_unary(
            contract.SUBMIT_MESSAGES.path,
            pb.SubmitMessagesRequest.SerializeToString,
            pb.SubmitMessagesResponse.FromString,
        )

    @task
    def submit(self) -> None:
        """One batch."""
        made = [self.submission() for _ in range(BATCH_MESSAGES)]
        request = pb.SubmitMessagesRequest(submissions=[one for one, _ in made])

        def call() -> str:
            found = self.submit_call(request, timeout=CALL_S, metadata=self.metadata)
            return self.judged(iter(found.results), [wrong for _, wrong in made])

        self.measured("SubmitMessages (100)", BATCH_MESSAGES, call)


class StreamUser(LoadUser):
    """Messages on a stream of the client, which keeps to the credit that the server gives; a call is one message."""

    weight = 1
    messages_a_call = STREAM_MESSAGES

    def on_start(self) -> None:
        """Connect."""
        self.client = Client(Shared.world.address, api_key=self.sender.api_key)

    def on_stop(self) -> None:
        """Hang up."""
        self.client.close()

    @task
    def stream(self) -> None:
        """So many messages, as fast as the server takes them."""
        made = [self.submission() for _ in range(STREAM_MESSAGES)]

        def call() -> str:
            said, answered = "", 0
            for result, (_, wrong) in zip(
                self.client.stream((one for one, _ in made), deadline_s=CALL_S), made, strict=True
            ):
                answered += 1
                name = result.message if result.accepted else ""
                if not Shared.tally.answered(self.place, name=name, wrong=wrong):
                    said = result.reason
            return said if answered == STREAM_MESSAGES else "results are missing"

        self.measured(f"StreamMessages ({STREAM_MESSAGES})", STREAM_MESSAGES, call)


class WatchUser(LoadUser):
    """Follows its tenant's events; an event's time is how long after it happened it was read.

    Locust is told of the latest of each fifty, and of a second: told of each it would spend more on them than on calls.
    """

    fixed_count = 2
    weight = 0

    @task
    def watch(self) -> None:
        """Until the run ends."""
        latest_ms, together, told_s = 0.0, 0, time.monotonic()
        with Client(Shared.world.address, api_key=self.sender.api_key) as client:
            for event in client.watch():
                took_ms = (time.time_ns() // 1000 - event.event_time.ToMicroseconds()) / 1e3
                latest_ms, together = max(latest_ms, took_ms), together + 1
                if together < EVENTS_TOGETHER and time.monotonic() - told_s < EVENTS_TOGETHER_S:
                    continue
                self.environment.events.request.fire(
                    request_type=EVENT, name=f"WatchEvents (latest of {EVENTS_TOGETHER})", response_time=latest_ms,
                    response_length=0, exception=None, context={},
                )  # fmt: skip
                latest_ms, together, told_s = 0.0, 0, time.monotonic()
