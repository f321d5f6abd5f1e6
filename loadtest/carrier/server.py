"""Listens, routes requests to their handlers, and stops.

It parses no command line (see `__main__.py`) and no HTTP (see `http1.py`).
"""

import asyncio
import re
from typing import Final

from loadtest.carrier.control import handle_control
from loadtest.carrier.http1 import Connection, Exchange, json_answer
from loadtest.carrier.ledger import RecordFile
from loadtest.carrier.messages import Refusal
from loadtest.carrier.payloads import current_answer
from loadtest.carrier.sends import authorization_refusal, handle_send, refuse
from loadtest.carrier.state import Carrier, StartUp

_MESSAGE: Final = re.compile(rb"/v2/messages/([0-9a-fA-F-]{36})")


class CarrierServer:
    """A carrier that listens on one TCP port."""

    def __init__(self, carrier: Carrier, server: asyncio.Server) -> None:
        """Hold what `start` made."""
        self.carrier: Final = carrier
        self._server: Final = server

    @classmethod
    async def start(cls, start_up: StartUp, host: str, port: int, record_file: RecordFile | None) -> "CarrierServer":
        """Listen on `host` and `port` (0: any free one); raises OSError when that is not possible."""
        carrier = Carrier(start_up, record_file)

        def connection() -> Connection:
            return Connection(
                lambda exchange: route(carrier, exchange), carrier.connections, carrier.config.body_bytes_max
            )

        server = await asyncio.get_running_loop().create_server(connection, host, port, backlog=1024)
        return cls(carrier, server)

    @property
    def port(self) -> int:
        """The port listened on."""
        return int(self._server.sockets[0].getsockname()[1])

    async def stop(self) -> None:
        """Stop listening, cut connections, write what is recorded."""
        self._server.close()
        await self.carrier.close()
        await self._server.wait_closed()


def route(carrier: Carrier, exchange: Exchange) -> None:
    """Give a request to its handler."""
    path = exchange.path.partition(b"?")[0]
    if path == b"/v2/messages":
        if exchange.method == b"POST":
            handle_send(carrier, exchange)
        else:
            refuse(exchange, Refusal(405, "10030", "Use POST."))
    elif path.startswith(b"/control/"):
        handle_control(carrier, exchange)
    elif exchange.method == b"GET" and (match := _MESSAGE.fullmatch(path)):
        _look_up(carrier, exchange, match[1].decode())
    else:
        refuse(exchange, Refusal(404, "10005", "The requested resource or URL could not be found."))


def _look_up(carrier: Carrier, exchange: Exchange, message_id: str) -> None:
    carrier.counts["look_ups"] += 1
    refusal = authorization_refusal(carrier, exchange)
    message = None if refusal else carrier.ledger.find_message(message_id.lower())
    if message is None:
        refuse(exchange, refusal or Refusal(404, "10005", "The message could not be found."))
    else:
        exchange.respond(json_answer(current_answer(message)))
