"""The TCP connections of a listener whose library shows none of them: what came in on each, and the end of one.

gRPC tells a call's peer and has no word to end its connection. The sockets are this process's own, so they are looked
at and ended here, through a second descriptor of each; the library finds its own at its end, as if the peer had gone.

A connection is ended by silence first: the kernel drops what comes for it, and its peer, which cannot tell that from a
slow network, waits instead of coming back at once. Some seconds later it is shut down.

Invariants: a descriptor is judged and ended as a duplicate, which cannot come to mean another file in between; looking
takes no more than a fiftieth of the loop's time, a tenth while there is reason to hurry; what is silenced is bounded,
in number and in time.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
import stat
import struct
from time import perf_counter
from typing import TYPE_CHECKING, Final, TypeAlias
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Iterator

Peer: TypeAlias = tuple[str, int]

FOLDER: Final = "/proc/self/fd"
# Of the time that the last look took, before the next one: a busy engine is looked at all the time.
REST: Final = 49
REST_IN_A_HURRY: Final = 9
SILENT_S: Final = 3.0
SILENT_MAX: Final = 1024
# Of `struct tcp_info` in linux/tcp.h: a 64-bit count of the bytes that came in order.
BYTES_RECEIVED_AT: Final = 128
# From asm-generic/socket.h; Python has no names for them.
SO_ATTACH_FILTER: Final = 26
SO_DETACH_FILTER: Final = 27
SO_ACCEPTCONN: Final = 30
# A packet filter of one step: keep no byte of it (linux/filter.h).
DROP_ALL: Final = struct.pack("HBBI", 0x06, 0, 0, 0)
# Thrown away uncopied, in pieces; a receive buffer has some megabytes.
DISCARD_BYTES: Final = 1 << 20
DISCARDS_MAX: Final = 64


class Connections:
    """Those that one listener accepted, and itself; used by the loop's thread only."""

    def __init__(self) -> None:
        """Nothing is found before `port` is set."""
        self.port = 0
        """Of the listener; connections of others are left alone."""
        self._silent: dict[Peer, socket.socket] = {}
        self._held: list[socket.socket] = []  # listeners with a filter
        self._letting_on: set[Peer] = set()
        self._rested_s = 0.0
        self._rest = REST

    def hurry(self, *, hurried: bool) -> None:
        """Look more often, the next time at once; or as ever."""
        if hurried:
            self._rested_s = 0.0
        self._rest = REST_IN_A_HURRY if hurried else REST

    @property
    def silent(self) -> int:
        """Connections whose end has begun."""
        return len(self._silent)

    @property
    def rest_s(self) -> float:
        """How long until the next look is due."""
        return max(0.0, self._rested_s - perf_counter())

    def received(self) -> dict[Peer, int]:
        """Bytes that came in since the beginning, of each whose end has not begun."""
        return {
            peer: struct.unpack_from("Q", ours.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 192), BYTES_RECEIVED_AT)[
                0
            ]
            for peer, ours in self._look()
        }

    def end(self, peers: set[Peer]) -> int:
        """End the connections of these peers; returns how many there were."""
        ended = 0
        for peer, ours in self._look():
            if peer in peers:
                ended += 1
                self._end(peer, _duplicate(ours))
        return ended

    def hold(self, program: bytes) -> bool:
        """Put a packet filter on the listener, which new connections inherit; returns False where that cannot be."""
        accepts = (socket.SOL_SOCKET, SO_ACCEPTCONN)
        try:
            if not self._held:
                self._held = [_duplicate(ours) for ours in self._sockets() if ours.getsockopt(*accepts)]
            for ours in self._held:
                _attach(ours, program)
        except OSError:
            self.let_go()
            return False
        return bool(self._held)

    def let_go(self) -> None:
        """Take the filter off the listener."""
        for ours in self._held:
            with ours:
                _detach(ours)
        self._held = []

    def let_on(self, peers: set[Peer]) -> None:
        """Take the filter off the connections of these peers, at the next look."""
        self._letting_on |= peers

    def let_all_on(self) -> None:
        """Take the filter off every connection whose end has not begun."""
        for _, ours in self._look():
            _detach(ours)

    def stop(self) -> None:
        """Shut down what is silent; hold nobody."""
        self.let_go()
        for peer in tuple(self._silent):
            self._shut_down(peer)

    def _look(self) -> Iterator[tuple[Peer, socket.socket]]:
        """Each whose end has not begun, with its peer; the socket is closed when the next one is asked for."""
        began_s = perf_counter()
        for ours in self._sockets():
            with contextlib.suppress(OSError):  # no connection, or no more
                peer = _plain(*ours.getpeername()[:2])
                if peer not in self._silent:
                    if peer in self._letting_on:
                        _detach(ours)
                    yield peer, ours
        self._letting_on.clear()
        now_s = perf_counter()
        self._rested_s = now_s + self._rest * (now_s - began_s)

    def _sockets(self) -> Iterator[socket.socket]:
        """Duplicates of the listener's sockets and of what they accepted."""
        for name in os.listdir(FOLDER):  # noqa: PTH208 - names are all that is needed
            with contextlib.suppress(OSError):  # gone, or no socket of the internet
                if not stat.S_ISSOCK(os.fstat(int(name)).st_mode):
                    continue
                with socket.socket(socket.AF_INET6, socket.SOCK_STREAM, fileno=os.dup(int(name))) as ours:
                    here: object = ours.getsockname()
                    if isinstance(here, tuple) and here[1] == self.port:
                        yield ours

    def _end(self, peer: Peer, ours: socket.socket) -> None:
        self._silent[peer] = ours
        with contextlib.suppress(OSError):  # a kernel without filters: shut down at once
            if len(self._silent) <= SILENT_MAX:
                _silence(ours)
                asyncio.get_running_loop().call_later(SILENT_S, self._shut_down, peer)
                return
        self._shut_down(peer)

    def _shut_down(self, peer: Peer) -> None:
        ours = self._silent.pop(peer, None)
        if ours is not None:
            with ours, contextlib.suppress(OSError):  # the peer was faster
                # With the filter on, what the peer says to the end would be dropped too, and the end take its time.
                _detach(ours)
                ours.shutdown(socket.SHUT_RDWR)


def _silence(ours: socket.socket) -> None:
    """Drop what comes for it, and what has come and was not read."""
    _attach(ours, DROP_ALL)
    with contextlib.suppress(BlockingIOError):
        for _ in range(DISCARDS_MAX):
            ours.recv(DISCARD_BYTES, socket.MSG_TRUNC | socket.MSG_DONTWAIT)


def _attach(ours: socket.socket, program: bytes) -> None:
    """In the place of any other."""
    steps = ctypes.create_string_buffer(program, len(program))
    packed = struct.pack("HP", len(program) // len(DROP_ALL), ctypes.addressof(steps))
    ours.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, packed)


def _detach(ours: socket.socket) -> None:
    """Where there is one."""
    with contextlib.suppress(OSError):
        ours.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)


def _duplicate(ours: socket.socket) -> socket.socket:
    """Not `ours.dup()`: it would make the file blocking that gRPC's own descriptor shares."""
    return socket.socket(socket.AF_INET6, socket.SOCK_STREAM, fileno=os.dup(ours.fileno()))


def peer_of(peer: str) -> Peer | None:
    """From what gRPC writes (`ipv4:1.2.3.4:5`, `ipv6:%5B::1%5D:5`); None for what is no peer of TCP."""
    host, _, port = unquote(peer.partition(":")[2]).rpartition(":")
    return _plain(host.strip("[]"), int(port)) if port.isdecimal() else None


def _plain(host: str, port: int) -> Peer:
    """Without a zone; an IPv4 address as one, also where it came to a listener of IPv6."""
    return host.partition("%")[0].removeprefix("::ffff:"), port
