"""Users that call a server which returns what it gets, as fast as it does or at a rate: what Locust itself can do."""

import random
import sys
import time
from typing import Any, Final

import gevent
import grpc
import grpc.experimental.gevent
from locust import User, events, task

from loadtest.benchmarks.echo_server import METHOD
from loadtest.locust.pace import Pace

grpc.experimental.gevent.init_gevent()

REQUEST: Final = b"x" * 200
CALL_S: Final = 10.0


@events.init_command_line_parser.add_listener
def _more_options(parser: Any) -> None:
    parser.add_argument("--ceiling-rate", type=float, default=0.0, help="calls a second of all users (0: no bound)")


class EchoUser(User):
    """One unary call after the other, or as many a second as are asked for."""

    def run(self) -> None:
        """Begin at a moment of its own, as users of the engine do."""
        options = self.environment.parsed_options
        self.pace = Pace(options.num_users / options.ceiling_rate, random.random()) if options.ceiling_rate else None
        gevent.sleep(self.wait_time())
        super().run()

    def wait_time(self) -> float:
        """Until the next call."""
        return self.pace.wait_s() if self.pace else 0.0

    def on_start(self) -> None:
        """Connect."""
        self.channel = grpc.insecure_channel(self.host, options=[("grpc.use_local_subchannel_pool", 1)])
        self.call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self.channel.unary_unary(METHOD)

    def on_stop(self) -> None:
        """Hang up."""
        self.channel.close()

    @task
    def echo(self) -> None:
        """One call."""
        began_s, error = time.perf_counter(), None
        try:
            self.call(REQUEST, timeout=CALL_S)
        except grpc.RpcError as raised:
            error = raised
        self.environment.events.request.fire(
            request_type="gRPC", name="Echo", response_time=(time.perf_counter() - began_s) * 1e3,
            response_length=len(REQUEST), exception=error, context={},
        )  # fmt: skip


@events.quitting.add_listener
def _end(environment: Any, **_: Any) -> None:
    total = environment.stats.total
    sys.stdout.write(
        f"Locust alone: {total.total_rps:,.0f} unary calls/s against an echo, "
        f"p50 {total.get_response_time_percentile(0.5)} ms, p99 {total.get_response_time_percentile(0.99)} ms, "
        f"{total.num_failures} failed\n"
    )
