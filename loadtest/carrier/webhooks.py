"""Delivers signed webhooks: a small keep-alive HTTP client, a bounded pool per host, attempts with back-off.

It does not know what an event means and renders only its `meta` part.

Invariants: at most `webhook_connections_max` connections a host; the body is signed afresh for every attempt, since the
attempt's number stands in it; each URL gets at most `webhook_attempts_max` attempts, then the next URL; only a 2xx
within `webhook_answer_max_ms` counts. Source: telnyx notes, section 5, delivery rules.
"""

import asyncio
import ssl
import time
from collections import Counter, deque
from collections.abc import Callable
from typing import Final, Literal, cast

import httptools
import orjson

from loadtest.carrier.config import Config
from loadtest.carrier.signing import Signer
from loadtest.carrier.urls import Origin, split_webhook_url

# Answers to webhooks are empty or nearly so; more than this is garbage and ends the connection.
ANSWER_BYTES_MAX: Final = 65_536
# Hosts known at a time; a carrier under test talks to one or two.
HOSTS_MAX: Final = 1_000
# Deliveries in hand at a time (waiting for their moment, a connection or an answer), about 2 kB each.
DELIVERIES_MAX: Final = 1_000_000
# How often overdue answers are looked for; the limit is kept to within this.
SWEEP_S: Final = 0.05
# Telnyx's receivers accept 300 s of age at most: one minute more is safely stale.
STALE_S: Final = 360

SigningMode = Literal["right", "wrong", "stale"]


class Delivery:
    """One event on its way to its URLs."""

    __slots__ = ("attempts_of_url", "attempts_total", "data", "done", "event_type", "first_done", "mode", "urls")

    def __init__(
        self,
        event_type: str,
        data: bytes,
        urls: tuple[str, ...],
        *,
        mode: SigningMode = "right",
        done: Callable[[bool], None] | None = None,
        first_done: Callable[[], None] | None = None,
    ) -> None:
        """Hold an event.

        `data` is the JSON of its `data` member. `done` is told once whether a URL accepted it, `first_done` is called
        once when the first attempt has ended, whichever way.
        """
        self.event_type: Final = event_type
        self.data: Final = data
        self.urls = urls
        self.mode: Final = mode
        self.done: Final = done
        self.first_done = first_done
        self.attempts_total = 0
        self.attempts_of_url = 0


class _Target(asyncio.Protocol):
    """One connection to a receiver; at most one request at a time."""

    def __init__(self, pool: "_Pool") -> None:
        self._pool: Final = pool
        self._transport: asyncio.Transport | None = None
        self._answered: Callable[[int], None] | None = None
        self._answer_bytes = 0
        self._deadline_s = 0.0
        self._parser: httptools.HttpResponseParser = httptools.HttpResponseParser(self)

    def post(self, request: bytes, deadline_s: float, answered: Callable[[int], None]) -> None:
        """Send a request; `answered` gets the HTTP status, or 0 when none came."""
        self._answered = answered
        self._answer_bytes = 0
        self._deadline_s = deadline_s
        if self._transport is None or self._transport.is_closing():
            self._finish(0)
        else:
            self._transport.write(request)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - the protocol's signature
        self._transport = None
        self._pool.forget(self)
        self._finish(0)

    def data_received(self, data: bytes) -> None:
        self._answer_bytes += len(data)
        if self._answered is None or self._answer_bytes > ANSWER_BYTES_MAX:
            self.cut()  # Nothing was asked, or the answer does not end.
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            raise  # A defect of ours, not of the receiver.
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self.cut()

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        keep_alive = self._parser.should_keep_alive()
        if status < 200:  # noqa: PLR2004 - an interim answer; the real one follows
            return
        if not keep_alive:
            self._pool.forget(self)
            if self._transport is not None:
                self._transport.close()
                self._transport = None
        self._finish(status)

    def is_overdue(self, now_s: float) -> bool:
        """Say whether an answer is owed and late."""
        return self._answered is not None and now_s >= self._deadline_s

    def cut(self) -> None:
        """End the connection; the open request fails."""
        self._pool.forget(self)
        if self._transport is not None:
            self._transport.abort()
            self._transport = None
        self._finish(0)

    def _finish(self, status: int) -> None:
        answered, self._answered = self._answered, None
        if answered is not None:
            if self._transport is not None and not self._transport.is_closing():
                self._pool.give_back(self)
            answered(status)


class _Pool:
    """The connections to one origin, and the requests that wait for one."""

    def __init__(self, origin: Origin, connect: Callable[["_Pool"], None]) -> None:
        self.origin: Final = origin
        self._connect: Final = connect
        self.all: Final[set[_Target]] = set()
        self._idle: Final[list[_Target]] = []
        self._connecting = 0
        self._waiting: Final[deque[Callable[[_Target | None], None]]] = deque()

    def borrow(self, use: Callable[[_Target | None], None], connections_max: int) -> None:
        """Call `use` with a free connection, now or when there is one; with None when connecting failed."""
        if self._idle:
            use(self._idle.pop())
            return
        self._waiting.append(use)
        if self._connecting < len(self._waiting) and len(self.all) + self._connecting < connections_max:
            self._connecting += 1
            self._connect(self)

    def connected(self, target: _Target | None) -> None:
        """Take a new connection, or None when it could not be made."""
        self._connecting -= 1
        if target is not None:
            self.all.add(target)
            self.give_back(target)
        elif not self.all and not self._connecting:
            # Nobody is there: what waits now has had its attempt. With other connections alive it waits for them.
            failed = tuple(self._waiting)
            self._waiting.clear()
            for use in failed:
                use(None)

    def give_back(self, target: _Target) -> None:
        """Let the next request have this connection."""
        if self._waiting:
            self._waiting.popleft()(target)
        else:
            self._idle.append(target)

    def forget(self, target: _Target) -> None:
        """Drop a connection that ended; requests that still wait get a new one."""
        if target in self.all:
            self.all.discard(target)
            if target in self._idle:
                self._idle.remove(target)
            self._refill()

    def close(self) -> None:
        """Cut all connections; what waits is dropped."""
        self._waiting.clear()
        for target in tuple(self.all):
            target.cut()

    def _refill(self) -> None:
        # Without this, requests could wait for connections that no longer exist.
        if self._waiting and not self.all and not self._connecting:
            self._connecting += 1
            self._connect(self)


class WebhookSender:
    """Sends deliveries and counts what became of them."""

    def __init__(self, signer: Signer, counts: Counter[str], config: Callable[[], Config]) -> None:
        """Prepare; `counts` is shared with the statistics, `config` gives the settings in force."""
        self._signer: Final = signer
        self._counts: Final = counts
        self._config: Final = config
        self._loop: Final = asyncio.get_running_loop()
        self._pools: Final[dict[Origin, _Pool]] = {}
        self._tasks: Final[set[asyncio.Task[None]]] = set()
        self._tls: ssl.SSLContext | None = None
        self._sweeper: asyncio.TimerHandle | None = None
        self._closed = False
        self.in_hand = 0

    def send(self, delivery: Delivery) -> None:
        """Start delivering; without URL, or with too much in hand, it is counted as not sent."""
        if not delivery.urls or self.in_hand >= DELIVERIES_MAX:
            self._counts["webhooks_unsent"] += 1
            _tell(delivery, accepted=False)
            return
        self.in_hand += 1
        self._attempt(delivery)

    async def close(self) -> None:
        """Cut all connections; nothing is delivered any more."""
        self._closed = True
        if self._sweeper is not None:
            self._sweeper.cancel()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for pool in self._pools.values():
            pool.close()
        await asyncio.sleep(0)  # A transport cut now is released in the next turn of the loop.

    def _attempt(self, delivery: Delivery) -> None:
        if self._closed:
            return
        config = self._config()
        parts = split_webhook_url(delivery.urls[0])
        pool = None if parts is None else self._pool(parts[0])
        if parts is None or pool is None:
            self._answered(delivery, 0)
            return
        delivery.attempts_total += 1
        delivery.attempts_of_url += 1
        _, path, host = parts

        def use(target: _Target | None) -> None:
            if target is None:
                self._answered(delivery, 0)
                return
            deadline_s = self._loop.time() + config.webhook_answer_max_ms / 1000
            target.post(
                self._request(delivery, path, host), deadline_s, lambda status: self._answered(delivery, status)
            )

        pool.borrow(use, config.webhook_connections_max)
        if self._sweeper is None:
            self._sweeper = self._loop.call_later(SWEEP_S, self._sweep)

    def _request(self, delivery: Delivery, path: bytes, host: bytes) -> bytes:
        meta = orjson.dumps({"attempt": delivery.attempts_total, "delivered_to": delivery.urls[0]})
        body = b'{"data":%b,"meta":%b}' % (delivery.data, meta)
        timestamp = b"%d" % (time.time() - (STALE_S if delivery.mode == "stale" else 0))
        sign = self._signer.wrong_signature if delivery.mode == "wrong" else self._signer.signature
        self._counts["webhook_attempts"] += 1
        return (
            b"POST %b HTTP/1.1\r\nhost: %b\r\ncontent-type: application/json\r\nuser-agent: telnyx-webhooks\r\n"
            b"telnyx-timestamp: %b\r\ntelnyx-signature-ed25519: %b\r\ncontent-length: %d\r\n\r\n%b"
        ) % (path, host, timestamp, sign(timestamp, body), len(body), body)

    def _answered(self, delivery: Delivery, status: int) -> None:
        first_done, delivery.first_done = delivery.first_done, None
        if first_done is not None:
            first_done()
        config = self._config()
        if 200 <= status < 300:  # noqa: PLR2004 - any success
            self._end(delivery, accepted=True)
            return
        self._counts["webhook_attempts_failed"] += 1
        # What is wrong on purpose is not pressed on the receiver.
        if delivery.mode != "right" or delivery.attempts_of_url >= config.webhook_attempts_max:
            delivery.urls = delivery.urls[1:] if delivery.mode == "right" else ()
            delivery.attempts_of_url = 0
            if not delivery.urls:
                self._end(delivery, accepted=False)
                return
        doublings = max(delivery.attempts_of_url - 1, 0)
        self._loop.call_later(config.webhook_backoff_ms * 2**doublings / 1000, self._attempt, delivery)

    def _end(self, delivery: Delivery, *, accepted: bool) -> None:
        self.in_hand -= 1
        self._counts[f"webhooks_{'accepted' if accepted else 'given_up'}"] += 1
        _tell(delivery, accepted=accepted)

    def _pool(self, origin: Origin) -> _Pool | None:
        pool = self._pools.get(origin)
        if pool is None and len(self._pools) < HOSTS_MAX:
            pool = self._pools[origin] = _Pool(origin, self._connect)
        return pool

    def _connect(self, pool: _Pool) -> None:
        task = self._loop.create_task(self._open(pool))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _open(self, pool: _Pool) -> None:
        tls = None
        if pool.origin.tls:
            tls = self._tls = self._tls or ssl.create_default_context()
        target: _Target | None = _Target(pool)
        try:
            async with asyncio.timeout(self._config().webhook_answer_max_ms / 1000):
                await self._loop.create_connection(
                    lambda: cast("_Target", target), pool.origin.host, pool.origin.port, ssl=tls
                )
        except (OSError, TimeoutError):  # ssl.SSLError is an OSError.
            target = None
        pool.connected(target)

    def _sweep(self) -> None:
        now_s = self._loop.time()
        overdue = [target for pool in self._pools.values() for target in pool.all if target.is_overdue(now_s)]
        for target in overdue:
            target.cut()
        self._sweeper = self._loop.call_later(SWEEP_S, self._sweep) if self.in_hand else None


def _tell(delivery: Delivery, *, accepted: bool) -> None:
    if delivery.first_done is not None:
        delivery.first_done()
    if delivery.done is not None:
        delivery.done(accepted)
