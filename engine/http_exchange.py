"""The vocabulary of the dispatch edge: how far an exchange came, its bounds, and where and how a request is addressed.

It opens no connection; `http_client.py` does, and `http_connection.py` carries one exchange at a time.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, NamedTuple
from urllib.parse import urlsplit

_FORBIDDEN: Final = re.compile(r"[\x00-\x20\x7f]")


class Phase(IntEnum):
    """How far one exchange came. The numbers are stored with attempts and never reused."""

    NOT_CONNECTED = 1
    """DNS, connect or TLS failed or took longer than `connect_s`; no byte was written."""
    NOT_FLUSHED = 2
    """The connection was found dead, or `may_send` said no, before any byte was handed to the kernel."""
    ANSWERED = 3
    """A complete response."""
    RESET = 4
    """End of stream or reset after the first byte may have left and before a complete response."""
    TIMEOUT = 5
    """No first byte within `first_byte_s`, or no complete response within `total_s`."""
    MALFORMED = 6
    """The response could not be parsed, was over-long, had no marked end, or was followed by bytes nobody asked for."""


class Exchange(NamedTuple):
    """What became of one request."""

    request: object
    """What the caller passed to `submit`, untouched."""
    phase: Phase
    status: int
    """HTTP status, 0 when none was read. Only with `ANSWERED` is the response complete."""
    retry_after_s: float | None
    """From Retry-After-Ms, Retry-After (seconds, or a date against the answer's own Date), X-RateLimit-Reset (429)."""
    body: bytes
    """The response body when `ANSWERED`, else empty."""
    elapsed_us: int
    """From submit to the end of the exchange."""
    detail: str
    """For logs: an error's class or a fixed phrase; never carrier data."""


class NoFreeSlotError(RuntimeError):
    """More was submitted than `slots_free` allowed, or the pool is closing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolLimits:
    """Every bound of one pool; times in seconds."""

    connections_max: int = 128
    connect_s: float = 3.0
    """DNS, TCP and TLS together, counted from submit."""
    first_byte_s: float = 10.0
    """From the write to the first byte of the response."""
    total_s: float = 15.0
    """From submit to the complete response; the guard against drip-feeding."""
    idle_s: float = 4.0
    """Shorter than the 5 s after which the most impatient servers close, so that they rarely close under a request."""
    head_bytes_max: int = 16 * 1024
    body_bytes_max: int = 64 * 1024
    backoff_first_s: float = 0.1
    backoff_max_s: float = 5.0
    tick_s: float = 0.05
    """One pass over the connections; a time-out is late by at most this."""

    def __post_init__(self) -> None:
        """Refuse bounds that contradict each other."""
        for name in self.__slots__:
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be above zero")
        if max(self.connect_s, self.first_byte_s) > self.total_s:
            raise ValueError("total_s must cover connect_s and first_byte_s")


class Origin(NamedTuple):
    """Where requests go: the parts of a base URL."""

    tls: bool
    host: str
    port: int
    authority: str
    """Value of the Host header."""
    path_prefix: str
    """Path of the base URL without its last slash, such as `/v2`, or empty."""


def parse_origin(base_url: str) -> Origin:
    """Split a base URL such as `https://api.telnyx.com/v2`. Raises ValueError when it is not http(s) with a host."""
    parts = urlsplit(base_url)
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or parts.query
        or parts.fragment
        or "@" in parts.netloc
    ):
        raise ValueError("base URL must be http://host[:port][/path] or https://host[:port][/path]")
    if _FORBIDDEN.search(base_url):
        raise ValueError("base URL must not contain spaces or control characters")
    tls = parts.scheme == "https"
    usual_port = 443 if tls else 80
    port = usual_port if parts.port is None else parts.port
    name = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    authority = name if port == usual_port else f"{name}:{port}"
    return Origin(tls, parts.hostname, port, authority, parts.path.rstrip("/"))


def render_request(origin: Origin, method: str, path: str, headers: Mapping[str, str], body: bytes = b"") -> bytes:
    """Render one request for the rare calls (look-ups, checks); dispatch gets its bytes from the core.

    `path` starts with a slash and follows the origin's prefix. HEAD is refused: its answers announce a body they lack.
    Raises ValueError on anything that could end a line early.
    """
    lines = [f"{method} {origin.path_prefix}{path} HTTP/1.1", f"Host: {origin.authority}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if body or method not in {"GET", "DELETE"}:
        lines.append(f"Content-Length: {len(body)}")
    head = "\r\n".join(lines)
    unsafe = method == "HEAD" or not path.startswith("/") or _FORBIDDEN.search(method + path)
    if unsafe or head.count("\r") != len(lines) - 1 or head.count("\n") != len(lines) - 1:
        raise ValueError("method, path or header cannot be sent as given")
    return head.encode("latin-1") + b"\r\n\r\n" + body


def verified_tls() -> ssl.SSLContext:
    """Make the TLS settings used when none are passed: system roots, names checked, TLS 1.2 or newer."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    return context
