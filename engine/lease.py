"""The owner's lease: bytes leave only while it surely holds, and a frozen process finds it expired when it wakes.

It elects nobody: on one machine the store's lock does. A thread of its own renews it, so that a slow loop or a long
transaction cannot lose it; a renewal looks whether the store still has this owner's epoch.

Invariant: the lease counts on the boot clock, which runs on through suspend and SIGSTOP; a renewal extends it from the
moment before it looked.
"""

import threading
from collections.abc import Callable

import structlog

from engine.clock import Clock
from engine.stores.store import EpochReader

_log = structlog.get_logger("longwave.lease")

_US = 1_000_000


class Lease:
    """Held from `start` to `stop`, as long as renewals find this owner's epoch in the store."""

    def __init__(
        self,
        reader: EpochReader,
        epoch: int,
        clock: Clock,
        *,
        lease_s: float,
        heartbeat_s: float,
        send_s: float,
        margin_s: float,
        on_lost: Callable[[int | None], None],
    ) -> None:
        """Bounds as in the settings.

        `on_lost` is called once with the epoch that was found, on the heartbeat's thread, which owns `reader`.
        """
        self._reader = reader
        self._epoch = epoch
        self._clock = clock
        self._lease_us = int(lease_s * _US)
        self._heartbeat_s = heartbeat_s
        # What must be left when the first byte leaves: the whole send and a margin.
        self._needed_us = int((send_s + margin_s) * _US)
        self._on_lost = on_lost
        self._until_us = 0  # written by the heartbeat's thread, read by the loop's
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease-heartbeat", daemon=True)

    def start(self) -> None:
        """Take the lease and keep it."""
        self._until_us = self._clock.mono_us() + self._lease_us
        self._thread.start()

    def stop(self) -> None:
        """Let it go. Safe to call twice."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()
        self._until_us = 0

    def may_send(self, _request: object) -> bool:
        """Whether a send may begin now and surely end within the lease."""
        return self._until_us - self._clock.mono_us() > self._needed_us

    @property
    def lapsed(self) -> bool:
        """Not renewed for so long that nothing may leave."""
        return not self.may_send(None)

    def _beat(self) -> None:
        try:
            while not self._stopped.wait(self._heartbeat_s):
                asked_us = self._clock.mono_us()
                try:
                    found = self._reader.read()
                except Exception as error:  # noqa: BLE001 - not renewed: the lease runs out by itself
                    _log.warning("lease not renewed", error=type(error).__name__)
                    continue
                if found != self._epoch:
                    self._until_us = 0
                    _log.error("lease lost: the store has another epoch", epoch=self._epoch, found=found)
                    self._on_lost(found)
                    return
                self._until_us = asked_us + self._lease_us
        finally:
            self._reader.close()
