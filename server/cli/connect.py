"""Where the engine is, and the SDK's clients for it.

It makes no call. The API key comes from the environment alone: an argument would show in the list of processes.
"""

import os
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import typer

from longwave.channels import DEFAULT_ADDRESS
from longwave.client import AsyncClient, BatchLimits, Client, Deadlines, RetryPolicy, Tls
from server.cli.failure import usage

if TYPE_CHECKING:
    from collections.abc import Iterator

ADDRESS_VARIABLE: Final = "LONGWAVE_GRPC_ADDRESS"
API_KEY_VARIABLE: Final = "LONGWAVE_API_KEY"
# What a server listens on everywhere, a client on the same machine reaches here.
WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}  # noqa: S104 - translated away, never listened on
# Five tries within some two seconds: a person waits for the answer. Watches go on for the SDK's five minutes.
PATIENCE: Final = RetryPolicy(attempts_max=5, backoff_max_s=1.0)


@dataclass(frozen=True, slots=True)
class Target:
    """How to reach the engine, from the options before the command."""

    address: str | None = None
    """host:port; None: the environment's, else the default."""
    ca_file: Path | None = None
    """PEM roots; implies TLS."""
    tls: bool = False
    """TLS with the system's roots."""
    cert_file: Path | None = None
    """PEM certificate that this client shows; needs the key, implies TLS."""
    key_file: Path | None = None
    """PEM key of that certificate."""
    insecure: bool = False
    """Plain text beyond this machine."""

    @property
    def has_tls(self) -> bool:
        """Whether the engine is reached by TLS."""
        return self.tls or self.ca_file is not None or self.cert_file is not None


def target_of(context: typer.Context) -> Target:
    """The options before the command."""
    found = context.find_root().obj
    return found if isinstance(found, Target) else Target()


@contextmanager
def client(context: typer.Context, *, api_key: str | None = None) -> "Iterator[Client]":
    """A synchronous client for one command, with the environment's key unless another is given."""
    target = target_of(context)
    with Client(
        _address(target), api_key=api_key or _api_key(), tls=_tls(target), insecure=target.insecure, retry=PATIENCE
    ) as connected:
        yield connected


def async_client(
    target: Target, *, limits: BatchLimits | None = None, retry: RetryPolicy | None = None,
    deadlines: Deadlines | None = None,
) -> AsyncClient:  # fmt: skip
    """An asyncio client for the running loop; the caller closes it."""
    return AsyncClient(
        _address(target),
        api_key=_api_key(),
        tls=_tls(target),
        insecure=target.insecure,
        limits=limits,
        retry=retry,
        deadlines=deadlines,
    )


def address_of(target: Target) -> str:
    """host:port of the engine, as options, environment and the SDK's default say."""
    return _address(target) or DEFAULT_ADDRESS


def _address(target: Target) -> str | None:
    address = target.address or os.environ.get(ADDRESS_VARIABLE)
    if not address:
        return None
    host, mark, port = address.rpartition(":")
    return f"{WILDCARDS[host]}{mark}{port}" if host in WILDCARDS else address


def _api_key() -> str:
    key = os.environ.get(API_KEY_VARIABLE, "").strip()
    if not key:
        raise usage(
            f"no API key: set {API_KEY_VARIABLE}\n`longwave bootstrap` prints the first admin key, "
            "`longwave key create` makes more; after `longwave demo`: source var/demo.env"
        )
    if not key.isascii() or not key.isprintable() or " " in key:
        raise usage(f"{API_KEY_VARIABLE} holds characters that no API key has: copy the key again")
    return key


def _tls(target: Target) -> Tls | None:
    if not target.has_tls:
        return None
    if (target.cert_file is None) != (target.key_file is None):
        raise usage("--cert-file and --key-file go together")
    return Tls(
        root_certificates=_file("--ca-file", target.ca_file),
        certificate_chain=_file("--cert-file", target.cert_file),
        private_key=_file("--key-file", target.key_file),
    )


def _file(option: str, path: Path | None) -> bytes | None:
    if path is None:
        return None
    try:
        return path.read_bytes()
    except OSError as error:
        raise usage(f"{option} {path}: {error.strerror}") from None
