"""Ports for servers that others start: free now, and taken by no connection until the server has them.

A port that the kernel hands out for port 0 is one of those that any connection of this machine may be given a moment
later, as its own end. These lie below that range, and each process goes through them from a place of its own.
"""

import random
import socket
from collections.abc import Iterator
from itertools import count
from typing import Final

HOST: Final = "127.0.0.1"
FIRST: Final = 10_000
COUNT: Final = 20_000
_start: Final = random.SystemRandom().randrange(COUNT)
_places: Iterator[int] = count()


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nothing listens on; none is given twice until all were."""
    found: list[int] = []
    while len(found) < count:
        port = FIRST + (_start + next(_places)) % COUNT
        try:
            socket.create_server((HOST, port)).close()
        except OSError:
            continue
        found.append(port)
    return found
