"""Keeps a watch's place: which cursor to resume from, and which events were seen before.

It makes no call; the transports read `WatchEvents` responses and connect again when it says so.

Invariants:
- `cursor` never runs ahead: it names a response only after the caller asked for what follows its last event;
- an event of a message is given once per (message, seq), in rising order of seq, as far back as
  `seen_messages_max` messages; events without a message (consent) are at least once, as the server gives them.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Final

from longwave.retry import Failure, Reconnect, RetryPolicy
from longwave.v1 import messaging_pb2

SEEN_MESSAGES_MAX: Final = 100_000
"""What a server sends again reaches back to the last cursor; 100,000 names of some 30 bytes cost about 20 MB."""


class WatchCore:
    """The state of one watch across connections."""

    def __init__(
        self,
        request: messaging_pb2.WatchEventsRequest,
        policy: RetryPolicy,
        random: Callable[[], float],
        now: float,
        *,
        seen_messages_max: int = SEEN_MESSAGES_MAX,
    ) -> None:
        self._campaigns = tuple(request.campaigns)
        self._cursor = request.cursor
        self._read_cursor = request.cursor
        self._reconnect = Reconnect(policy, random, now)
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._seen_messages_max = seen_messages_max

    @property
    def cursor(self) -> str:
        """Resume here: all events before it were given and, but for the last one, dealt with."""
        return self._cursor

    def request(self) -> messaging_pb2.WatchEventsRequest:
        """Return the request of the next connection: it goes on after what was read."""
        return messaging_pb2.WatchEventsRequest(cursor=self._read_cursor, campaigns=self._campaigns)

    def received(self, now: float, response: messaging_pb2.WatchEventsResponse) -> Sequence[messaging_pb2.Event]:
        """Take a response and return its events that are new; call `finished` when the last of them was dealt with."""
        self._reconnect.progressed(now)
        if response.cursor:
            self._read_cursor = response.cursor
        return [event for event in response.events if self._is_new(event)]

    def finished(self) -> None:
        """Note that the events of the last response were dealt with."""
        self._cursor = self._read_cursor

    def disconnected(self, now: float, failure: Failure | None) -> float:
        """Note the end of a connection (None: in order) and return the wait before the next, in seconds.

        Raises:
            LongwaveError: the watch cannot go on.
        """
        return self._reconnect.failed(now, failure)

    def _is_new(self, event: messaging_pb2.Event) -> bool:
        if not event.message or not event.seq:
            return True
        if event.kind == messaging_pb2.Event.KIND_STATUS_CONFLICT:
            return True
        if event.seq <= self._seen.get(event.message, 0):
            return False
        self._seen[event.message] = event.seq
        self._seen.move_to_end(event.message)
        if len(self._seen) > self._seen_messages_max:
            self._seen.popitem(last=False)
        return True
