"""The doctor's look outwards: addresses, TLS files, what Redis is reached with, provider, webhook address, clock.

It listens on an address for an instant, and asks the provider for a message that does not exist: nothing is sent,
nothing costs, and the answer says whether the key works. Every wait is bounded.
"""

import http.client
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from engine.clock import Clock
from engine.config import Settings
from engine.config_checks import is_loopback, split_address
from engine.errors import ConfigError
from server.cli.finding import Finding, Level

ASK_S: Final = 5.0
# All steps together: an answer that comes byte by byte keeps each step short.
ASK_WHOLE_S: Final = 10.0
ANSWER_BYTES_MAX: Final = 64 * 1024
# The form of Telnyx's ids, and nobody's.
NO_MESSAGE: Final = "00000000-0000-0000-0000-000000000000"
# Webhook signatures hold five minutes (Telnyx); a Date header has whole seconds and travels.
SKEW_WARN_S: Final = 30
SKEW_FAIL_S: Final = 300
# The wall clock may be slewed by 500 ppm; a step within the doctor's own run is more.
STEP_WARN_MS: Final = 100
# Before the first commit of this project no clock was right.
EARLIEST_S: Final = 1_735_689_600  # 2025-01-01T00:00:00Z


@dataclass(frozen=True, slots=True)
class Answer:
    """What the provider said."""

    status: int
    date_s: float | None
    """Its Date header, seconds since 1970."""


def check_network(settings: Settings, *, engine_runs: bool) -> Iterator[Finding]:
    """All findings; with `engine_runs` the addresses may be taken."""
    clock = Clock()
    wall_us, boot_us = clock.now_us(), clock.mono_us()
    for name, what in (("grpc_address", "gRPC"), ("http_address", "operations"), ("webhook_address", "webhooks")):
        yield _address(name, what, getattr(settings, name), engine_runs=engine_runs)
    yield from _tls(settings)
    yield from _redis(settings)
    yield _webhook(settings)
    answer, finding = _provider(settings)
    yield finding
    yield _clock(clock, wall_us, boot_us, answer)


def _address(name: str, what: str, address: str, *, engine_runs: bool) -> Finding:
    host, port = split_address(address)
    check = f"{what} address"
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((host, port))
            probe.listen(1)
    except OSError as error:
        if engine_runs:
            return Finding(Level.OK, check, f"{address} is in use, and an engine runs on this store")
        variable = f"LONGWAVE_{name.upper()}"
        return Finding(Level.FAIL, check, f"{address}: {error.strerror}", f"stop what uses it, or set {variable}")
    if engine_runs:
        return Finding(Level.WARN, check, f"{address} is free, though an engine runs: it listens elsewhere")
    return Finding(Level.OK, check, f"{address} is free")


def _tls(settings: Settings) -> Iterator[Finding]:
    files = (settings.grpc_tls_cert_file, settings.grpc_tls_key_file, settings.grpc_tls_client_ca_file)
    for path in files:
        if path is not None:
            yield _readable(path)


def _readable(path: Path) -> Finding:
    try:
        with path.open("rb") as file:
            file.read(1)
    except OSError as error:
        return Finding(Level.FAIL, "gRPC TLS", f"{path}: {error.strerror}", "run it as a user who may read the file")
    return Finding(Level.OK, "gRPC TLS", f"{path} can be read")


def _redis(settings: Settings) -> Iterator[Finding]:
    """Only what lies on this machine: a Redis that is away is no reason not to run."""
    if not settings.redis_url:
        return
    # The client is an extra, loaded only where it is set.
    from engine.redis_access import access_of  # noqa: PLC0415

    try:
        access_of(settings)
    except ConfigError as error:
        for problem in error.problems:
            what, _, advice = problem.rpartition(": ")
            yield Finding(Level.FAIL, "Redis", what, advice)
    else:
        yield Finding(Level.OK, "Redis", "its password and TLS files are sound; it was not asked")


def _webhook(settings: Settings) -> Finding:
    url = settings.callback_base_url
    found = f"the provider calls {url}, served at {settings.webhook_address}"
    if is_loopback(urlsplit(url).hostname or ""):
        if is_loopback(urlsplit(settings.telnyx_base_url).hostname or ""):
            return Finding(Level.OK, "webhook address", found)
        return Finding(
            Level.WARN,
            "webhook address",
            f"{found}: only this machine reaches that",
            "set LONGWAVE_WEBHOOK_BASE_URL to the URL under which the internet reaches it",
        )
    return Finding(Level.OK, "webhook address", found)


def _provider(settings: Settings) -> tuple[Answer | None, Finding]:
    check = f"provider {settings.provider}"
    if settings.telnyx_api_key is None:
        advice = "set LONGWAVE_TELNYX_API_KEY and LONGWAVE_TELNYX_PUBLIC_KEY"
        return None, Finding(Level.WARN, check, "no API key: messages are held, not sent", advice)
    host = urlsplit(settings.telnyx_base_url).netloc
    try:
        answer = ask(settings.telnyx_base_url, settings.telnyx_api_key.get_secret_value())
    except (OSError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        advice = "check the way out of this machine, and LONGWAVE_TELNYX_BASE_URL"
        return None, Finding(Level.FAIL, check, f"{host} did not answer: {reason}", advice)
    return answer, _judged(check, host, answer.status)


def _judged(check: str, host: str, status: int) -> Finding:
    if status in {http.client.UNAUTHORIZED, http.client.FORBIDDEN}:
        return Finding(
            Level.FAIL,
            check,
            f"{host} refuses the API key (HTTP {status})",
            "set LONGWAVE_TELNYX_API_KEY to a live key",
        )
    if status in {http.client.OK, http.client.NOT_FOUND}:
        return Finding(Level.OK, check, f"{host} answers and takes the API key")
    return Finding(
        Level.WARN,
        check,
        f"{host} answers HTTP {status}, which says nothing of the API key",
        "check LONGWAVE_TELNYX_BASE_URL, and the provider's status page",
    )


def ask(base_url: str, api_key: str) -> Answer:
    """Ask for a message that does not exist; at most 10 s, no proxy, no redirect. Raises OSError, HTTPException."""
    parts = urlsplit(base_url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=ASK_S)

    def give_up() -> None:
        if connection.sock is not None:
            with suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(ASK_WHOLE_S, give_up)
    timer.start()
    try:
        path = f"{parts.path.rstrip('/')}/messages/{NO_MESSAGE}"
        headers = {"authorization": f"Bearer {api_key}", "accept": "application/json", "user-agent": "longwave-doctor"}
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        response.read(ANSWER_BYTES_MAX)
        return Answer(response.status, _date_s(response.headers.get("date", "")))
    finally:
        timer.cancel()
        connection.close()


def _date_s(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except (ValueError, TypeError):
        return None


def _clock(clock: Clock, wall_us: int, boot_us: int, answer: Answer | None) -> Finding:
    """The wall clock against the boot clock over the doctor's own run, and against the provider's."""
    step_ms = abs((clock.now_us() - wall_us) - (clock.mono_us() - boot_us)) / 1000
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(wall_us / 1_000_000))
    advice = "set the clock and run a time service (chrony, systemd-timesyncd)"
    if wall_us < EARLIEST_S * 1_000_000:
        return Finding(Level.FAIL, "clock", f"{shown} is long ago", advice)
    if step_ms > STEP_WARN_MS:
        return Finding(Level.WARN, "clock", f"the time was set by {step_ms:.0f} ms during this run", advice)
    if answer is None or answer.date_s is None:
        return Finding(Level.OK, "clock", f"{shown}, steady; not compared with the provider's")
    skew_s = abs(clock.now_us() / 1_000_000 - answer.date_s)
    if skew_s > SKEW_FAIL_S:
        return Finding(
            Level.FAIL, "clock", f"{shown}, {skew_s:.0f} s from the provider's: its webhooks look stale", advice
        )
    if skew_s > SKEW_WARN_S:
        return Finding(Level.WARN, "clock", f"{shown}, {skew_s:.0f} s from the provider's", advice)
    return Finding(Level.OK, "clock", f"{shown}, steady, {skew_s:.0f} s from the provider's")
