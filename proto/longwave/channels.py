"""Where and how to connect: address, credentials, channel settings, deadlines, and the sources of time and chance.

It opens no channel; the transports do, each in its own kind.

Invariants:
- without TLS nothing leaves this machine unless `insecure=True` says so;
- the API key appears in call metadata only, never in a representation.
"""

import ipaddress
import os
import random
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final, TypeAlias

import grpc

from longwave.contract import AUTHORIZATION_KEY
from longwave.core import BatchLimits
from longwave.errors import InsecureAddressError
from longwave.retry import RetryPolicy

ADDRESS_VARIABLE: Final = "LONGWAVE_GRPC_ADDRESS"
API_KEY_VARIABLE: Final = "LONGWAVE_API_KEY"
DEFAULT_ADDRESS: Final = "127.0.0.1:50051"
_RECEIVE_BYTES_MAX: Final = 16 << 20
"""1,000 messages of 1.6 kB with their timelines at most; gRPC's own default is 4 MiB."""

Options: TypeAlias = list[tuple[str, int | str]]


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS: PEM bytes of the trusted roots (None: the system's) and of the client's own certificate and key for mTLS."""

    root_certificates: bytes | None = None
    certificate_chain: bytes | None = None
    private_key: bytes | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if (self.certificate_chain is None) != (self.private_key is None):
            raise ValueError("a client certificate needs both certificate_chain and private_key")

    def credentials(self) -> grpc.ChannelCredentials:
        """Return gRPC's credentials."""
        return grpc.ssl_channel_credentials(self.root_certificates, self.private_key, self.certificate_chain)


@dataclass(frozen=True, slots=True)
class Deadlines:
    """How long things may take, in seconds: one try, a submission or call with all its tries, a stream or watch.

    A long-lived call is renewed when its own deadline comes, so that a forgotten one ends some day.
    """

    attempt_s: float = 10.0
    total_s: float = 30.0
    connection_s: float = 3600.0

    def __post_init__(self) -> None:
        if min(self.attempt_s, self.total_s, self.connection_s) <= 0:
            raise ValueError("deadlines must be positive")


def _sleep(seconds: float) -> None:
    time.sleep(seconds)  # looked up when called: gevent replaces it, perhaps after this module was imported


@dataclass(frozen=True, slots=True)
class Seams:
    """Sources of time and chance, replaced by tests and simulations."""

    monotonic: Callable[[], float] = time.monotonic
    wall_ms: Callable[[], int] = lambda: time.time_ns() // 1_000_000
    sleep: Callable[[float], None] = _sleep
    random: Callable[[], float] = random.random
    random_bits: Callable[[int], int] = secrets.randbits


@dataclass(frozen=True, slots=True)
class Connection:
    """A checked address with its credentials and the settings both transports share."""

    address: str
    metadata: tuple[tuple[str, str], ...] = field(repr=False)
    tls: Tls | None
    limits: BatchLimits
    retry: RetryPolicy
    deadlines: Deadlines
    seams: Seams


def connection_of(
    address: str | None,
    api_key: str | None,
    *,
    tls: Tls | None,
    insecure: bool,
    limits: BatchLimits | None,
    retry: RetryPolicy | None,
    deadlines: Deadlines | None,
    seams: Seams | None,
) -> Connection:
    """Check and complete what a client was made with; address and key come from the environment where not given.

    Raises:
        ValueError: no API key, or one that cannot be sent as metadata.
        InsecureAddressError: the address leaves this machine without TLS.
    """
    target = address or os.environ.get(ADDRESS_VARIABLE) or DEFAULT_ADDRESS
    key = api_key or os.environ.get(API_KEY_VARIABLE) or ""
    if not key:
        raise ValueError(f"no API key: pass api_key or set {API_KEY_VARIABLE}")
    if not (key.isascii() and key.isprintable()) or " " in key:
        raise ValueError("the API key holds characters that no API key has")
    if tls is None and not insecure and not is_local(target):
        raise InsecureAddressError(
            f"{target} is not on this machine: pass tls=Tls() (or insecure=True to send the API key and texts readable)"
        )
    return Connection(
        target,
        ((AUTHORIZATION_KEY, f"Bearer {key}"),),
        tls,
        limits or BatchLimits(),
        retry or RetryPolicy(),
        deadlines or Deadlines(),
        seams or Seams(),
    )


def is_local(target: str) -> bool:
    """Whether a gRPC target surely stays on this machine: a Unix socket, `localhost`, or loopback addresses only."""
    scheme, separator, rest = target.partition(":")
    if separator and scheme in ("unix", "unix-abstract"):
        return True
    if separator and scheme in ("dns", "ipv4", "ipv6"):
        # dns:[//authority/]host[:port]; ipv4: and ipv6: may list several addresses
        target = rest.rpartition("/")[2]
    return all(_is_loopback(part) for part in target.split(","))


def _is_loopback(host_port: str) -> bool:
    if host_port.startswith("["):
        host = host_port[1:].partition("]")[0]
    elif host_port.count(":") > 1:
        host = host_port  # a bare IPv6 address
    else:
        host = host_port.partition(":")[0]
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def channel_options() -> Options:
    """Return the channel arguments: retries are the core's alone, and a silent connection is found out.

    Keepalive: a ping a minute, dead after 10 s without answer; the server allows pings every 30 s. All addresses of a
    name take turns. A proxy from the environment is never used: the engine is an internal service.
    """
    return [
        ("grpc.enable_retries", 0),
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.service_config", '{"loadBalancingConfig":[{"round_robin":{}}]}'),
        ("grpc.keepalive_time_ms", 60_000),
        ("grpc.keepalive_timeout_ms", 10_000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 5_000),
        ("grpc.max_reconnect_backoff_ms", 3_000),
        ("grpc.max_receive_message_length", _RECEIVE_BYTES_MAX),
        ("grpc.enable_http_proxy", 0),
    ]
