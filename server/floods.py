"""Finds connections that cost much and call nothing, and has them ended: rapid reset (CVE-2023-44487) and its kin.

gRPC bounds the calls of a connection at any moment. It does not bound how many are opened and reset in a second, nor
frames that belong to no call; to read and refuse them takes its threads from everyone. So two things are counted by
connection: calls that came to nothing, and bytes beyond those of calls.

It decides nothing about a call and knows no method. gRPC hands a method its call only with the request, so while there
is reason to watch, methods are served as if they took a stream of requests: then a call is seen when it begins. Calls
pay for that at no other time.

A network that had a connection ended is suspect for a minute: its new ones are held back (`server/newcomers.py`).

Invariants: memory is bounded, whoever calls; a call is served alike, watched or not.
"""

from __future__ import annotations

import asyncio
import inspect
import ipaddress
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass
from functools import partial
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Final

import grpc
import grpc.aio
import structlog
from typing_extensions import override

from server.connections import Connections, Peer, peer_of
from server.newcomers import PIECE_BYTES, Newcomers

if TYPE_CHECKING:
    from collections.abc import Callable

    from server.gate import Context, Gate, Handler

_log = structlog.get_logger("longwave.floods")

TICK_S: Final = 0.25
# While there are suspects: what a new connection of theirs can cost, it costs within such a time.
SUSPECT_TICK_S: Final = 0.02
# Reasons to watch: a hundred calls a second that come to nothing, or more bytes a second than 5,000 single submissions
# have, while threads other than the loop's take a seventh of a processor.
GIVEN_UP_A_SECOND: Final = 100
# And one of so many: those looked up and not begun yet, in a burst of good ones, count too.
GIVEN_UP_SHARE: Final = 8
BUSY_SHARE: Final = 0.15
BUSY_BYTES_A_SECOND: Final = 2 * 1024 * 1024
# How long a reason is good for. What began unwatched is over soon after, or what follows it begins in sight.
WATCH_S: Final = 5.0
BEGUN_S: Final = 0.5
# What a call brings beside its request: headers, settings, acknowledgements, pings.
CALL_BYTES: Final = 4096
# Bytes of no call, beyond one largest request that was on its way unseen: more than any keep-alive.
IDLE_BYTES_A_SECOND: Final = 256 * 1024
# Bytes are dear when other threads spend more on them: a second for 20 MiB. Pings and settings took 5.5 s for as many,
# for gRPC answers them long after it said that they are too many.
DEAR_S_A_BYTE: Final = 1 / (20 * 1024 * 1024)
DEAR_BYTES: Final = 256 * 1024
# The same, and calls given up, where the address had a connection ended lately.
SUSPECT_BYTES: Final = 256 * 1024
SUSPECT_GIVEN_UP_A_SECOND: Final = 16
SUSPECT_S: Final = 60.0
# A new connection of there is ended for more than so many calls given up, and waits while it is remembered for fewer.
NEWCOMER_GIVEN_UP: Final = 2
FORGOTTEN: Final = 1 / 16
# One that says nothing, in this time: gRPC's clients do, at once.
MUTE_S: Final = 3.0
# What has been connected is accepted within this time.
ACCEPTED_S: Final = 1.0
# About 200 bytes each; the longest unheard of is forgotten first. Connections are as many as descriptors at the most.
SUSPECTS_MAX: Final = 10_000
# Half of what is told of lately.
LATELY_S: Final = 1.0
LOG_S: Final = 10.0
# Where gRPC names no peer of TCP.
NOBODY: Final[Peer] = ("", 0)


@dataclass(slots=True)
class _Account:
    """Of one connection, while there is reason to look."""

    given_up: float = 0.0
    """Calls that came to nothing; goes down with time."""
    given_up_lately: float = 0.0
    """The same, halved each `LATELY_S`."""
    served_lately: float = 0.0
    """Calls that came to something; halved each `LATELY_S`."""
    idle_bytes: float = 0.0
    """Bytes of no call; goes down with time."""
    received: int = 0
    """Bytes ever, at the last look."""
    explained: int = 0
    """Bytes of calls since then."""
    begun: int = 0
    """Calls whose request is on its way."""
    held_s: float = 0.0
    """When it was first looked at and held back."""
    let_on: bool = False
    """Nothing is held back of what it sends."""
    ended: bool = False
    """Its end has begun; calls that wait to be taken up are let go."""


class _Counting:
    """The context of a stream, which tells the bytes of each request that is read."""

    def __init__(self, context: Context, tell: Callable[[int], None]) -> None:
        self._context = context
        self._tell = tell

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def read(self) -> Any:
        request: Any = await self._context.read()
        if isinstance(request, bytes):
            self._tell(len(request))
        return request


class Floods(grpc.GenericRpcHandler):
    """Stands before the gate; used by the loop's thread only."""

    def __init__(self, gate: Gate, *, given_up_a_second: int, request_bytes_max: int) -> None:
        """Look at nothing before `start`."""
        self._gate = gate
        self._given_up_a_second = given_up_a_second
        self._request_bytes_max = request_bytes_max
        self._connections = Connections()
        self._accounts: dict[Peer, _Account] = {}  # while looking
        self._streams: Counter[Peer] = Counter()  # open ones, at any time: they outlive many a reason to look
        self._suspects: OrderedDict[str, float] = OrderedDict()  # address: until
        self._newcomers = Newcomers()
        self._holding = False
        self._can_hold = True
        self._ending: set[Peer] = set()
        self._let_all_on_s = 0.0
        self._watched: dict[Handler, Handler] = {}
        self._looked_up = 0
        self._watching_since_s = 0.0
        self._watch_until_s = 0.0
        self._looking = False
        # At the last tick of full length: seconds, calls, of them that came to nothing, seconds that other threads ran.
        self._seen = (0.0, 0, 0, 0.0)
        self._others_a_second = 0.0
        self._came_a_second = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._weighed_s = 0.0
        self._logs_at_s = 0.0
        self.ended = 0
        """Connections that were ended."""

    @property
    def watching(self) -> bool:
        """Whether calls are watched."""
        return self._watch_until_s > 0

    @property
    def holding(self) -> bool:
        """Whether anything is held back."""
        return self._holding or self._let_all_on_s > 0

    def holds(self, address: str) -> bool:
        """Whether new connections from this address are held back."""
        return self._holding and self._is_suspect((address, 0), time.perf_counter())

    def start(self, port: int) -> None:
        """Look after the connections of this listener."""
        self._connections.port = port
        self._seen = (time.perf_counter(), 0, 0, _others_s())
        self._set_timer(TICK_S)

    def stop(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        # Calls that are cut off now may give reason to look, and nobody would let go.
        self._can_hold = self._holding = False
        self._connections.stop()

    @override
    def service(self, handler_call_details: Any) -> Handler:
        """The gate's handler of the method; while calls are watched, one that does the same and sees them begin."""
        handler = self._gate.service(handler_call_details)
        self._looked_up += 1
        if not self._watch_until_s and not handler.request_streaming:
            return handler
        watched = self._watched.get(handler)
        if watched is None:
            watched = self._watched[handler] = self._watch(handler)
        return watched

    def _watch(self, handler: Handler) -> Handler:
        behaviour: Any = handler.stream_stream or handler.stream_unary or handler.unary_stream or handler.unary_unary
        if not inspect.iscoroutinefunction(behaviour):
            return handler  # reflection's, in threads: few of them, and their bytes count as no call's

        async def watched(_requests: Any, context: Context) -> Any:
            peer = peer_of(context.peer()) or NOBODY
            account = self._accounts.setdefault(peer, _Account())
            if account.ended:
                raise asyncio.CancelledError  # nobody is there
            account.begun += 1
            begun = True
            try:
                request: Any = await context.read()
                if request is grpc.aio.EOF:
                    raise asyncio.CancelledError  # noqa: TRY301 - as gRPC itself, which answers nothing then
                begun = False
                account.begun -= 1
                account.explained += CALL_BYTES + (len(request) if isinstance(request, bytes) else 0)
                response = await behaviour(request, context)
            except asyncio.CancelledError:
                self._given_up(peer)
                raise
            else:
                account.served_lately += 1
                return response
            finally:
                account.begun -= begun
                # A refused call holds its error, that this frame, and this frame would hold the call: only the
                # collector would let go of it, of hundreds at once.
                del _requests, context

        async def streamed(requests: Any, context: Context) -> Any:
            peer = peer_of(context.peer()) or NOBODY
            self._streams[peer] += 1
            try:
                return await behaviour(requests, _Counting(context, partial(self._explain, peer)))
            except asyncio.CancelledError:
                self._given_up(peer)
                raise
            finally:
                self._streams[peer] -= 1
                if not self._streams[peer]:
                    del self._streams[peer]
                del requests, context

        make = (
            grpc.stream_stream_rpc_method_handler
            if handler.response_streaming
            else grpc.stream_unary_rpc_method_handler
        )
        return make(
            streamed if handler.request_streaming else watched,
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _explain(self, peer: Peer, request_bytes: int) -> None:
        account = self._accounts.get(peer)
        if account is not None:
            account.explained += CALL_BYTES + request_bytes

    def _given_up(self, peer: Peer) -> None:
        account = self._accounts.get(peer)
        if account is None:
            return
        account.given_up += 1
        account.given_up_lately += 1
        if account.given_up > self._given_up_a_second:
            self._end(peer, account)
        elif (
            account.given_up_lately > min(SUSPECT_GIVEN_UP_A_SECOND, self._given_up_a_second)
            and account.given_up_lately * GIVEN_UP_SHARE > account.served_lately
            and self._is_suspect(peer, time.perf_counter())
        ):
            # Others may share the address: those whose calls come to something are left alone, and only a breach of the
            # bound for everyone makes suspicion last longer.
            self._end(peer, account, suspect=False)

    def _is_suspect(self, peer: Peer, now_s: float) -> bool:
        return self._suspects.get(network_of(peer[0]), 0.0) > now_s

    def _end(self, peer: Peer, account: _Account, *, suspect: bool = True) -> None:
        """End its connection at the next look, which is soon, and suspect its address from now on."""
        if not account.ended:
            account.ended = True
            self._ending.add(peer)
            if suspect:
                network = network_of(peer[0])
                self._suspects[network] = time.perf_counter() + SUSPECT_S
                self._suspects.move_to_end(network)
                if len(self._suspects) > SUSPECTS_MAX:
                    self._suspects.popitem(last=False)
            self._set_timer(self._connections.rest_s)

    def _set_timer(self, wait_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(wait_s, self._tick)

    def _tick(self) -> None:
        now_s = time.perf_counter()
        busy = self._judge(now_s)
        if self._looking or busy:
            self._weigh(now_s)
        if self._ending:
            ending, self._ending = self._ending, set()
            self.ended += self._connections.end(ending)
            if now_s >= self._logs_at_s:
                self._logs_at_s = now_s + LOG_S
                addresses = sorted({address for address, _ in ending})[:5]
                _log.warning(
                    "connections ended that cost much and call nothing", addresses=addresses, so_far=self.ended
                )
        self._hold(now_s)
        self._looking = busy or self.watching
        if not self._looking:
            self._accounts.clear()
        self._set_timer(max(SUSPECT_TICK_S if self._is_anyone_suspect(now_s) else TICK_S, self._connections.rest_s))

    def _judge(self, now_s: float) -> bool:
        """Watch, or cease to, by the calls; returns whether bytes are to be looked at."""
        at_s, calls, nothing, others_s = self._seen
        passed_s = now_s - at_s
        if passed_s < TICK_S:
            return False
        self._seen = (now_s, self._looked_up, self._looked_up - self._gate.served, _others_s())
        calls, nothing = self._seen[1] - calls, self._seen[2] - nothing
        if nothing > GIVEN_UP_A_SECOND * passed_s and nothing * GIVEN_UP_SHARE > calls:
            self._begin(now_s)
        elif now_s > self._watch_until_s and not self._is_anyone_suspect(now_s):
            self._watch_until_s = 0.0
            self._connections.hurry(hurried=False)
        self._others_a_second = (self._seen[3] - others_s) / passed_s
        return self._others_a_second > BUSY_SHARE

    def _begin(self, now_s: float) -> None:
        if not self.watching:
            self._watching_since_s = now_s
            self._connections.hurry(hurried=True)
        self._watch_until_s = now_s + WATCH_S

    def _weigh(self, now_s: float) -> None:
        """Look at what came in on each connection, and end those that sent too much of no call."""
        passed_s, self._weighed_s = now_s - self._weighed_s, now_s
        came = 0
        judged = self.watching and now_s - self._watching_since_s > BEGUN_S
        dear = 0 < DEAR_S_A_BYTE * self._came_a_second < self._others_a_second
        # One largest request may have been on its way unseen, when the watching began.
        unseen = DEAR_BYTES if dear else self._request_bytes_max
        accounts = {}
        for peer, received in self._connections.received().items():
            account = accounts[peer] = self._accounts.get(peer) or _Account()
            # At a first look nobody knows when the bytes came.
            more = received - account.received if self._looking else 0
            came += more
            if judged:
                idle = max(0.0, account.idle_bytes - IDLE_BYTES_A_SECOND * passed_s) + more - account.explained
                account.idle_bytes = max(0.0, idle)
                of_calls = (account.begun + self._streams[peer]) * self._request_bytes_max
                if account.idle_bytes > unseen + of_calls:
                    self._end(peer, account)
                elif account.idle_bytes > SUSPECT_BYTES + of_calls and self._is_suspect(peer, now_s):
                    self._end(peer, account, suspect=False)
            if not account.let_on and not account.ended:
                self._examine(peer, account, received, now_s)
            account.given_up = max(0.0, account.given_up - self._given_up_a_second * passed_s)
            halved = 0.5 ** (passed_s / LATELY_S)
            account.given_up_lately *= halved
            account.served_lately *= halved
            account.received, account.explained = received, 0
        self._accounts = accounts
        self._came_a_second = came / passed_s
        if came > BUSY_BYTES_A_SECOND * passed_s:
            self._begin(now_s)

    def _examine(self, peer: Peer, account: _Account, received: int, now_s: float) -> None:
        """Let a connection on, once it is seen what it brings; or end it."""
        if not self._holding or not self._is_suspect(peer, now_s):
            account.let_on = True
        elif not account.held_s:
            account.held_s = now_s
            self._newcomers.came()
        elif account.given_up_lately > max(NEWCOMER_GIVEN_UP, account.served_lately / GIVEN_UP_SHARE):
            self._end(peer, account, suspect=False)
        elif not received and now_s - account.held_s > MUTE_S:
            # It took so long to open that nothing of it is in the range.
            self._end(peer, account, suspect=False)
        elif account.given_up_lately < FORGOTTEN:
            calls = account.served_lately > 0 or peer in self._streams
            # Also what is no call yet: a long request, or keys being agreed on.
            account.let_on = calls or received == account.received >= PIECE_BYTES
        if account.let_on and self._holding:
            self._connections.let_on({peer})

    def _hold(self, now_s: float) -> None:
        """Hold back what suspect networks open and send, while there are any."""
        if self._can_hold and self._is_anyone_suspect(now_s):
            suspects = takewhile(lambda network: self._suspects[network] > now_s, reversed(self._suspects))
            program = self._newcomers.renewed(now_s, suspects)
            if program is not None:
                self._holding = self._can_hold = self._connections.hold(program)
        elif self._holding:
            self._holding = False
            self._connections.let_go()
            self._let_all_on_s = now_s + ACCEPTED_S
        elif 0 < self._let_all_on_s < now_s:
            self._let_all_on_s = 0.0
            self._connections.let_all_on()

    def _is_anyone_suspect(self, now_s: float) -> bool:
        """Whether the address that was suspected last still is."""
        return bool(self._suspects) and self._suspects[next(reversed(self._suspects))] > now_s


def network_of(address: str) -> str:
    """What is suspected with an address: an IPv6 host has a whole /64 to draw addresses from."""
    if ":" not in address:
        return address
    try:
        return str(ipaddress.ip_network((address, 64), strict=False).network_address)
    except ValueError:
        return address


def _others_s() -> float:
    """Seconds of processor that the threads of this process but this one have had."""
    return time.process_time() - time.thread_time()
