"""The leases of a process: bytes leave only while its shards are surely its own, new work only while its number is.

It elects nobody: the store does. A thread of its own renews all, so that a slow loop or a long transaction cannot
lose them; a renewal looks whether the store still has this process under its number and its shards under their epochs.

Invariant: a lease counts on the boot clock, which runs on through suspend and SIGSTOP; it extends from the moment
before the store was asked. Shards are a node's own as long as its number is.
"""

import threading
from collections.abc import Callable

import structlog

from engine.clock import Clock
from engine.stores.store import Heart, Pulse

_log = structlog.get_logger("longwave.lease")

_US = 1_000_000


class Lease:
    """Kept from `start` to `stop`, as long as renewals find what this process holds in the store."""

    def __init__(
        self,
        heart: Heart,
        clock: Clock,
        *,
        lease_s: float,
        heartbeat_s: float,
        send_s: float,
        margin_s: float,
        on_lost: Callable[[str], None],
    ) -> None:
        """Bounds as in the settings; `on_lost` is told why, once, on the heartbeat's thread, which owns `heart`."""
        self._heart = heart
        self._clock = clock
        self._lease_us = int(lease_s * _US)
        self._heartbeat_s = heartbeat_s
        # What must be left when the first byte leaves: the whole send and a margin.
        self._needed_us = int((send_s + margin_s) * _US)
        self._on_lost = on_lost
        self._epoch: int | None = None  # written by the loop, read by the heartbeat's thread
        # Written by the heartbeat's thread, and once by the loop before that runs; read by the loop's.
        self._until_us = 0
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)

    def start(self, asked_us: int) -> None:
        """Keep this process's number, which was asked for at this time of the boot clock."""
        self._until_us = asked_us + self._lease_us
        self._thread.start()

    def own(self, epoch: int) -> None:
        """Shards were taken under this epoch; they last as long as the number does."""
        self._epoch = epoch

    def stop(self) -> None:
        """Let go. Safe to call twice."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self._epoch = None
        self._until_us = 0

    def may_send(self, _request: object) -> bool:
        """Whether a send may begin now and surely end within the lease."""
        return self._until_us - self._clock.mono_us() > self._needed_us

    @property
    def lapsed(self) -> bool:
        """It is the owner's, and was not renewed for so long that nothing may leave."""
        return self._epoch is not None and not self.may_send(None)

    @property
    def may_accept(self) -> bool:
        """Whether the number is surely this process's own."""
        return self._until_us > self._clock.mono_us()

    def _beat(self) -> None:
        try:
            while not self._stopped.wait(self._heartbeat_s):
                asked_us, epoch = self._clock.mono_us(), self._epoch
                try:
                    pulse = self._heart.beat()
                except Exception as error:  # noqa: BLE001 - not renewed: the leases run out by themselves
                    _log.warning("lease not renewed", error=type(error).__name__)
                    continue
                if not self.renewed(pulse, asked_us, epoch):
                    return
        finally:
            self._heart.close()

    def renewed(self, pulse: Pulse, asked_us: int, epoch: int | None) -> bool:
        """Take note of what was found when the store was asked, at `asked_us`, as owner under `epoch`; False: lost."""
        if not pulse.held:
            self._lose(_why_lost(epoch or 0, pulse.epoch))
        elif not pulse.node:
            self._lose("another process has this node's number")
        else:
            self._until_us = asked_us + self._lease_us
        return pulse.held and pulse.node

    def _lose(self, why: str) -> None:
        self._until_us = 0
        _log.error("lease lost", why=why, epoch=self._epoch)
        self._on_lost(why)


def _why_lost(epoch: int, found: int | None) -> str:
    if found is None or found > epoch:
        return "the store has another owner of shards"
    return (
        f"the store lacks run {epoch}, which it had confirmed, and has run {found} as its last: a replica that lagged "
        "was promoted, or an older copy was put in its place; what was accepted lately may be missing"
    )
