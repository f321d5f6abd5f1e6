"""The carrier as a whole: its settings, its memory, its senders, and how they change together.

It speaks no HTTP to callers (see `http1.py`) and knows no route (see `server.py`).

Invariants: `config` and `dice` always belong together; a reset forgets messages, keys, counts and scheduled receipts
but keeps settings and key; a record is in memory and queued for the file before its request is answered.
"""

import asyncio
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from loadtest.carrier.caps import CapCounters
from loadtest.carrier.config import Config
from loadtest.carrier.fate import Dice
from loadtest.carrier.ledger import Ledger, RecordFile
from loadtest.carrier.receipts import Receipts, new_id_prefix
from loadtest.carrier.signing import Signer
from loadtest.carrier.webhooks import WebhookSender
from loadtest.carrier.wheel import Wheel

if TYPE_CHECKING:
    from loadtest.carrier.http1 import Connection


# How long a caller has, at the end, to read what it was answered.
FLUSH_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class StartUp:
    """What the command line gives; `config` is what PUT starts from and stays as it is."""

    config: Config
    api_key: str
    key_seed: bytes


class Carrier:
    """Everything that lives as long as the process."""

    def __init__(self, start_up: StartUp, record_file: RecordFile | None) -> None:
        """Set up within a running event loop; `record_file` gets every record, or is None."""
        self.start_up: Final = start_up
        self.config = start_up.config
        self.dice = Dice(start_up.config)
        self.authorization: Final = b"Bearer " + start_up.api_key.encode()
        self.signer: Final = Signer(start_up.key_seed)
        self.counts: Final[Counter[str]] = Counter()
        self.connections: Final[set[Connection]] = set()
        self.sender: Final = WebhookSender(self.signer, self.counts, lambda: self.config)
        self.wheel: Final = Wheel()
        self.receipts: Final = Receipts(self.sender, self.wheel, self.counts, lambda: self.config)
        self.caps = CapCounters()
        self.ledger = Ledger(self.config, new_id_prefix())
        # Idempotency keys whose first request is not answered yet.
        self.keys_in_flight: Final[set[str]] = set()
        self._record_file: Final = record_file
        self.loop: Final = asyncio.get_running_loop()

    def apply_config(self, config: Config) -> None:
        """Put new settings in force, for every request from now on."""
        self.config = config
        self.dice = Dice(config)

    def reset(self) -> None:
        """Forget everything but settings and key. Requests still open are answered as decided."""
        self.receipts.forget_scheduled()
        self.counts.clear()
        self.keys_in_flight.clear()
        self.caps = CapCounters()
        self.ledger = Ledger(self.config, new_id_prefix())

    def record(self, entry: dict[str, Any]) -> None:
        """Keep a record in memory, and in the file with the other records of this turn of the loop."""
        line = self.ledger.record(entry)
        if self._record_file is not None and self._record_file.add(line):
            self.loop.call_soon(self._record_file.flush)

    def is_idle(self) -> bool:
        """Say whether no receipt is scheduled or on its way."""
        return not self.receipts.scheduled and not self.sender.in_hand

    async def close(self) -> None:
        """End all connections, what was answered going out first, and close the file."""
        await self.sender.close()
        for connection in tuple(self.connections):
            connection.close()
        deadline_s = self.loop.time() + FLUSH_S
        while self.connections and self.loop.time() < deadline_s:  # noqa: ASYNC110 - once, at the end of the process
            await asyncio.sleep(0.001)
        for connection in tuple(self.connections):
            connection.abort()
        await asyncio.sleep(0)  # A transport cut now is released in the next turn of the loop.
        if self._record_file is not None:
            self._record_file.close()
