"""How a flooder's network is let in: the packet filter of a listener, which what it accepts inherits.

Whoever is thrown out comes back with a new connection, and each costs what it brings before it is looked at. So the
kernel does two things for networks that are suspect, before any thread of this process runs. Of the packets that open a
connection it drops those whose sequence number is not in a range: its peer's kernel sends them again, after a second
and later, when the range is another. And of what a connection sends it keeps a few hundred bytes to a few thousand; the
peer's kernel keeps the rest until the filter is taken off the connection.

That range is how a filter, which remembers nothing, tells the beginning of a connection: first sequence numbers are
random (RFC 6528), and what follows counts up from there.

It decides nothing about who is suspect, and refuses nobody for good.

Invariants: packets of other networks pass whole; a filter is bounded, whatever the number of networks; what it keeps of
a connection is bounded, whatever was sent.
"""

from __future__ import annotations

import ipaddress
import random
import struct
from itertools import islice
from typing import TYPE_CHECKING, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

# Of sequence numbers: they are counted modulo this.
MODULUS: Final = 4096
WIDTH_MAX: Final = MODULUS // 2
WIDTH_MIN: Final = MODULUS // 256
# Of a packet, and of what is kept beyond the range.
PIECE_BYTES: Final = 256
# The range goes on by this and up to half as much more. A packet dropped at the widest range is mostly in it a second
# later. The range and the one before, what is kept beyond, and a piece must not cover all numbers: then all would be
# kept of a connection. 1,536 + 2,048 + 2 x 256 = 4,096 is just not reached.
STEP: Final = MODULUS // 4
# A handshake across the world takes less; the range before counts until then.
RENEW_S: Final = 0.5
# New connections of suspect networks in that time: beyond, the range is halved; else it is doubled.
NEWCOMERS_MAX: Final = 4
# The newest are held, at up to 5 of the 4,096 steps that a filter may have.
NETWORKS_MAX: Final = 64

# linux/bpf_common.h
_LOAD_WORD, _LOAD_BYTE, _LOAD_LENGTH, _TO_INDEX, _FROM_INDEX = 0x20, 0x30, 0x80, 0x07, 0x87
_ADD, _SUBTRACT, _AND, _LEFT, _RIGHT = 0x04, 0x14, 0x54, 0x64, 0x74
_JUMP, _IF_EQUAL, _IF_AT_LEAST, _IF_ANY, _IF_ABOVE_INDEX = 0x05, 0x15, 0x35, 0x45, 0x2D
_KEEP, _KEEP_SO_MUCH = 0x06, 0x16
# Where the network's header begins (SKF_NET_OFF of linux/filter.h); places without it are in TCP's.
_NETWORK: Final = 0xFFF00000
_IPV4_SOURCE, _IPV6_SOURCE = _NETWORK + 12, _NETWORK + 8
_SEQUENCE, _HEADER_WORDS, _FLAGS = 4, 12, 13
_FIN, _SYN = 0x01, 0x02
_ALL: Final = 0xFFFFFFFF

Range: TypeAlias = tuple[int, int]
"""Its start and how wide it is."""
# Code, operand, where to go if so, where else; "" is the next one. A name alone is the place of what follows.
_Step: TypeAlias = tuple[int, int, str, str] | str


class Newcomers:
    """The filter, by time."""

    def __init__(self) -> None:
        """As wide as it gets."""
        self._now: Range = (random.randrange(MODULUS), WIDTH_MAX)  # noqa: S311 - guessing it gains what trying does
        self._before = self._now
        self._due_s = 0.0
        self._networks: list[str] = []
        self._came = 0

    def came(self) -> None:
        """A suspect network has one more connection."""
        self._came += 1

    def renewed(self, now_s: float, networks: Iterable[str]) -> bytes | None:
        """The filter from now on for these networks, the newest first; None while the last one holds."""
        wanted = list(islice(networks, NETWORKS_MAX))
        if now_s >= self._due_s:
            start, width = self._before = self._now
            width = max(WIDTH_MIN, width // 2) if self._came > NEWCOMERS_MAX else min(WIDTH_MAX, width * 2)
            self._now = ((start + STEP + random.randrange(STEP // 2)) % MODULUS, width)  # noqa: S311 - as above
            self._came, self._due_s = 0, now_s + RENEW_S
        elif wanted == self._networks:
            return None
        self._networks = wanted
        return program(wanted, self._now, self._before)


def program(networks: Iterable[str], now: Range, before: Range) -> bytes:
    """Classic BPF, as `SO_ATTACH_FILTER` takes it: connections open in the range now, and are kept in both.

    A network is an IPv4 address or the first of an IPv6 /64; what is neither is left out.
    """
    ipv4: list[_Step] = []
    ipv6: list[_Step] = []
    for place, network in enumerate(networks):
        try:
            address = ipaddress.ip_address(network)
        except ValueError:
            continue
        if isinstance(address, ipaddress.IPv4Address):
            ipv4 += [(_IF_EQUAL, int(address), "", f"{place}"), (_JUMP, 0, "suspect", ""), f"{place}"]
        else:
            high, low = struct.unpack_from("!II", address.packed)
            ipv6 += [
                (_LOAD_WORD, _IPV6_SOURCE, "", ""), (_IF_EQUAL, high, "", f"{place}"),
                (_LOAD_WORD, _IPV6_SOURCE + 4, "", ""), (_IF_EQUAL, low, "", f"{place}"),
                (_JUMP, 0, "suspect", ""), f"{place}",
            ]  # fmt: skip
    return _assembled(
        [
            (_LOAD_BYTE, _NETWORK, "", ""), (_RIGHT, 4, "", ""), (_IF_EQUAL, 4, "", "ipv6"), (_JUMP, 0, "ipv4", ""),
            "ipv6", *ipv6, (_KEEP, _ALL, "", ""),
            "ipv4", (_LOAD_WORD, _IPV4_SOURCE, "", ""), *ipv4, (_KEEP, _ALL, "", ""),
            "suspect", (_LOAD_BYTE, _FLAGS, "", ""), (_IF_ANY, _SYN, "", "says"),
            *_within(now), (_IF_AT_LEAST, now[1], "drop", "keep"),
            # What says nothing, acknowledgements and ends, passes. X becomes the length of TCP's header.
            "says", (_LOAD_BYTE, _HEADER_WORDS, "", ""), (_RIGHT, 4, "", ""), (_LEFT, 2, "", ""),
            (_TO_INDEX, 0, "", ""), (_LOAD_LENGTH, 0, "", ""), (_IF_ABOVE_INDEX, 0, "", "keep"),
            # An end would follow what is left of the packet.
            (_LOAD_BYTE, _FLAGS, "", ""), (_IF_ANY, _FIN, "drop", ""),
            *_within(now), (_IF_AT_LEAST, now[1] + PIECE_BYTES, "", "piece"),
            *_within(before), (_IF_AT_LEAST, before[1] + PIECE_BYTES, "drop", "piece"),
            "piece", (_FROM_INDEX, 0, "", ""), (_ADD, PIECE_BYTES, "", ""), (_KEEP_SO_MUCH, 0, "", ""),
            "keep", (_KEEP, _ALL, "", ""),
            "drop", (_KEEP, 0, "", ""),
        ]
    )  # fmt: skip


def _within(of: Range) -> list[_Step]:
    """How far into a range the packet begins."""
    return [(_LOAD_WORD, _SEQUENCE, "", ""), (_SUBTRACT, of[0], "", ""), (_AND, MODULUS - 1, "", "")]


def _assembled(steps: list[_Step]) -> bytes:
    places: dict[str, int] = {}
    lines: list[tuple[int, int, str, str]] = []
    for step in steps:
        if isinstance(step, str):
            places[step] = len(lines)
        else:
            lines.append(step)

    def away(name: str, here: int) -> int:
        return places[name] - here - 1 if name else 0

    return b"".join(
        struct.pack("HBBI", code, 0, 0, away(so, here))
        if code == _JUMP
        else struct.pack("HBBI", code, away(so, here), away(otherwise, here), operand)
        for here, (code, operand, so, otherwise) in enumerate(lines)
    )
