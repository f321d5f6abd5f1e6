"""What may not be combined in one set of settings, each with the sentence that says what to change.

It knows no bounds of single values (`engine/config.py` has them) and touches no file or socket.
"""

from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from engine import redis_place
from engine.errors import ConfigError
from engine.stores.connection import store_path
from engine.stores.mysql.address import parse

if TYPE_CHECKING:
    from engine.config import Settings

PORT_MAX: Final = 65535
ROLES: Final = 4


def contradictions(settings: "Settings") -> list[str]:
    """Every contradiction, empty when there is none."""
    parts = (_store, _redis, _limits, _times, _addresses, _provider, _traces)
    return [problem for part in parts for problem in part(settings)]


def is_loopback(host: str) -> bool:
    """Whether this host name or address never leaves the machine."""
    if host == "localhost":
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False


def split_address(address: str) -> tuple[str, int]:
    """Host (without brackets) and port of `host:port` or `[v6]:port`. Raises ValueError with a sentence."""
    host, mark, port = address.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    bare = host[1:-1] if bracketed else host
    if not mark or not bare or not port.isascii() or not port.isdigit() or int(port) > PORT_MAX:
        message = f"is {address!r}: write host:port, such as 127.0.0.1:50051"
        raise ValueError(message)
    if not bracketed and ":" in bare:
        message = f"is {address!r}: write an IPv6 address in brackets, such as [::1]:50051"
        raise ValueError(message)
    return bare, int(port)


def _store(settings: "Settings") -> Iterator[str]:
    if settings.store_is_embedded:
        try:
            store_path(settings.store_url)
        except ConfigError as error:
            yield from error.problems
        if settings.store_durability != "D1":
            yield "LONGWAVE_STORE_DURABILITY is D2: a file is on one machine, so write D1, or use a MySQL store"
        if len(settings.roles) < ROLES:
            yield (
                f"LONGWAVE_ROLES is {','.join(settings.roles)}: an embedded store has one process, which does all; "
                "leave it unset, or use a MySQL store"
            )
        return
    yield from _server_store(settings)


def _server_store(settings: "Settings") -> Iterator[str]:
    for variable, url in (
        ("LONGWAVE_STORE_URL", settings.store_url),
        ("LONGWAVE_STORE_REPLICA_URL", settings.store_replica_url),
    ):
        if not url and variable == "LONGWAVE_STORE_REPLICA_URL":
            continue
        try:
            address = parse(url, "", None, variable=variable)
        except ConfigError as error:
            yield from error.problems
            continue
        if settings.store_tls == "off" and not is_loopback(address.host) and not settings.insecure:
            yield (
                f"{variable} ({address.shown}) would carry texts in the clear beyond this machine: set "
                "LONGWAVE_STORE_TLS=verify, or LONGWAVE_INSECURE=true"
            )
    yield from _given_once(settings, "store_password")
    certificate = settings.store_tls_cert_file, settings.store_tls_key_file
    yield from _both_or_neither("LONGWAVE_STORE_TLS", *certificate)
    if settings.store_tls == "off" and certificate != (None, None):
        yield "LONGWAVE_STORE_TLS_CERT_FILE is shown over TLS alone: set LONGWAVE_STORE_TLS=verify, or unset it"
    if settings.migrate_backup_folder is not None and settings.migrate_backup_command:
        yield "LONGWAVE_MIGRATE_BACKUP_FOLDER and LONGWAVE_MIGRATE_BACKUP_COMMAND are both set: leave one out"
    if settings.secret_file is None:
        yield "LONGWAVE_SECRET_FILE is not set: a MySQL store has no folder to put it beside, so name it"
    if settings.store_connections_min > settings.store_connections_max:
        yield (
            f"LONGWAVE_STORE_CONNECTIONS_MIN ({settings.store_connections_min}) is above "
            f"LONGWAVE_STORE_CONNECTIONS_MAX ({settings.store_connections_max}): lower the one or raise the other"
        )


def _redis(settings: "Settings") -> Iterator[str]:
    if not settings.redis_url:
        if settings.redis_cache:
            yield "LONGWAVE_REDIS_CACHE is on without LONGWAVE_REDIS_URL: say where that Redis is, or leave it off"
        return
    user, at, _ = settings.redis_url.partition("//")[2].rpartition("@")
    if at and ":" in user:
        yield "LONGWAVE_REDIS_URL carries a password: put it into LONGWAVE_REDIS_PASSWORD, or into a file"
        return
    try:
        place = redis_place.read(settings.redis_url)
    except ValueError as error:
        yield f"LONGWAVE_REDIS_URL: {error}"
        return
    yield from _redis_credentials(settings, place)
    if settings.store_is_embedded:
        yield "LONGWAVE_REDIS_URL is set: an embedded store has one process, which nobody need tell; leave it unset"
    if not all(is_loopback(host) for host, _ in place.hosts) and not settings.insecure:
        if not place.tls:
            yield "LONGWAVE_REDIS_URL leaves this machine in the clear: write rediss, or set LONGWAVE_INSECURE=true"
        if not _is_given(settings, "redis_password"):
            yield (
                "LONGWAVE_REDIS_PASSWORD is not set, and Redis is elsewhere: set it, LONGWAVE_REDIS_PASSWORD_FILE or "
                "LONGWAVE_INSECURE=true"
            )


def _redis_credentials(settings: "Settings", place: redis_place.RedisPlace) -> Iterator[str]:
    for field in ("redis_password", "redis_sentinel_password"):
        yield from _given_once(settings, field)
    if place.user and not _is_given(settings, "redis_password"):
        yield "LONGWAVE_REDIS_URL names a user: set LONGWAVE_REDIS_PASSWORD or LONGWAVE_REDIS_PASSWORD_FILE, too"
    if _is_given(settings, "redis_sentinel_password") and place.kind is not redis_place.Kind.SENTINEL:
        yield "LONGWAVE_REDIS_SENTINEL_PASSWORD is set, and LONGWAVE_REDIS_URL names no Sentinels: unset it"
    certificate = settings.redis_tls_cert_file, settings.redis_tls_key_file
    yield from _both_or_neither("LONGWAVE_REDIS_TLS", *certificate)
    if not place.tls and certificate != (None, None):
        yield "LONGWAVE_REDIS_TLS_CERT_FILE is shown over TLS alone: write rediss in LONGWAVE_REDIS_URL, or unset it"


def _is_given(settings: "Settings", password: str) -> bool:
    return getattr(settings, password) is not None or getattr(settings, f"{password}_file") is not None


def _given_once(settings: "Settings", password: str) -> Iterator[str]:
    if getattr(settings, password) is not None and getattr(settings, f"{password}_file") is not None:
        variable = f"LONGWAVE_{password.upper()}"
        yield f"{variable} and {variable}_FILE are both set: leave one out"


def _both_or_neither(prefix: str, certificate: Path | None, key: Path | None) -> Iterator[str]:
    if (certificate is None) != (key is None):
        given, absent = ("CERT", "KEY") if key is None else ("KEY", "CERT")
        yield f"{prefix}_{given}_FILE is set without {prefix}_{absent}_FILE: set both or neither"


def _limits(settings: "Settings") -> Iterator[str]:
    if settings.batch_messages_max > settings.held_messages_max:
        yield (
            f"LONGWAVE_BATCH_MESSAGES_MAX ({settings.batch_messages_max}) is above LONGWAVE_HELD_MESSAGES_MAX "
            f"({settings.held_messages_max}): a full batch could never be accepted; lower the one or raise the other"
        )
    if settings.batch_messages_max > settings.group_messages_max:
        yield (
            f"LONGWAVE_BATCH_MESSAGES_MAX ({settings.batch_messages_max}) is above LONGWAVE_GROUP_MESSAGES_MAX "
            f"({settings.group_messages_max}): a batch is committed in one group; lower the one or raise the other"
        )
    if settings.stream_credit_messages < settings.batch_messages_max:
        yield (
            f"LONGWAVE_STREAM_CREDIT_MESSAGES ({settings.stream_credit_messages}) is below LONGWAVE_BATCH_MESSAGES_MAX "
            f"({settings.batch_messages_max}): no stream could carry a full batch; raise the one or lower the other"
        )
    if settings.in_flight_max > settings.connections_max:
        yield (
            f"LONGWAVE_IN_FLIGHT_MAX ({settings.in_flight_max}) is above LONGWAVE_CONNECTIONS_MAX "
            f"({settings.connections_max}): each attempt needs its own connection; lower the one or raise the other"
        )


def _times(settings: "Settings") -> Iterator[str]:
    spent_s = settings.heartbeat_s + settings.send_s + settings.margin_s
    if spent_s >= settings.lease_s:
        yield (
            f"LONGWAVE_HEARTBEAT_S + LONGWAVE_SEND_S + LONGWAVE_MARGIN_S ({spent_s:g} s) is not below LONGWAVE_LEASE_S "
            f"({settings.lease_s:g} s): an attempt could outlive its owner's lease; raise the lease or lower the rest"
        )
    if settings.connect_s >= settings.send_s:
        yield (
            f"LONGWAVE_CONNECT_S ({settings.connect_s:g} s) is not below LONGWAVE_SEND_S ({settings.send_s:g} s), "
            "which includes it: lower the one or raise the other"
        )
    if settings.reconcile_wait_s < settings.send_s:
        yield (
            f"LONGWAVE_RECONCILE_WAIT_S ({settings.reconcile_wait_s:g} s) is below LONGWAVE_SEND_S "
            f"({settings.send_s:g} s): policy would decide before the answer; raise the one or lower the other"
        )
    if settings.backoff_base_ms > settings.backoff_cap_s * 1000:
        yield (
            f"LONGWAVE_BACKOFF_BASE_MS ({settings.backoff_base_ms} ms) is above LONGWAVE_BACKOFF_CAP_S "
            f"({settings.backoff_cap_s:g} s): lower the one or raise the other"
        )
    if settings.lookup_after_min >= settings.no_receipt_after_h * 60:
        yield (
            f"LONGWAVE_LOOKUP_AFTER_MIN ({settings.lookup_after_min:g} min) is not below LONGWAVE_NO_RECEIPT_AFTER_H "
            f"({settings.no_receipt_after_h:g} h): nothing would ever be looked up; lower the one or raise the other"
        )
    if settings.early_receipt_retention_h < settings.no_receipt_after_h:
        yield (
            f"LONGWAVE_EARLY_RECEIPT_RETENTION_H ({settings.early_receipt_retention_h:g} h) is below "
            f"LONGWAVE_NO_RECEIPT_AFTER_H ({settings.no_receipt_after_h:g} h): a receipt could be dropped while its "
            "message still waits for it; raise the one or lower the other"
        )
    longest_h = max(
        settings.request_id_retention_h, settings.early_receipt_retention_h, settings.event_retention_days * 24
    )
    if settings.message_retention_days * 24 < longest_h + 24:
        yield (
            f"LONGWAVE_MESSAGE_RETENTION_DAYS ({settings.message_retention_days:g} d) is not a day above what else is "
            f"kept of a message ({longest_h / 24:g} d: request ids, early receipts, events): raise it or lower those"
        )
    if settings.drain_s < settings.send_s:
        yield (
            f"LONGWAVE_DRAIN_S ({settings.drain_s:g} s) is below LONGWAVE_SEND_S ({settings.send_s:g} s): a stop would "
            "cut attempts off and make them UNKNOWN; raise the one or lower the other"
        )


def _addresses(settings: "Settings") -> Iterator[str]:
    taken: dict[str, str] = {}
    hosts: dict[str, str] = {}
    for name in ("grpc_address", "http_address", "webhook_address"):
        variable = f"LONGWAVE_{name.upper()}"
        address: str = getattr(settings, name)
        try:
            hosts[name], port = split_address(address)
        except ValueError as error:
            yield f"{variable} {error}"
            continue
        if port and address in taken:
            yield f"{variable} and {taken[address]} are both {address}: give each a port of its own"
        taken[address] = variable
    cert, key = settings.grpc_tls_cert_file, settings.grpc_tls_key_file
    yield from _both_or_neither("LONGWAVE_GRPC_TLS", cert, key)
    if settings.grpc_tls_client_ca_file is not None and cert is None and key is None:
        yield (
            "LONGWAVE_GRPC_TLS_CLIENT_CA_FILE is set without a server certificate: set LONGWAVE_GRPC_TLS_CERT_FILE and "
            "LONGWAVE_GRPC_TLS_KEY_FILE too"
        )
    grpc_host = hosts.get("grpc_address", "localhost")
    if not is_loopback(grpc_host) and cert is None and key is None and not settings.insecure:
        yield (
            f"LONGWAVE_GRPC_ADDRESS ({settings.grpc_address}) is not loopback and has no TLS: set "
            "LONGWAVE_GRPC_TLS_CERT_FILE and LONGWAVE_GRPC_TLS_KEY_FILE, or LONGWAVE_INSECURE=true where something in "
            "front does TLS"
        )


def _provider(settings: "Settings") -> Iterator[str]:
    provider_host, problem = _web_host("LONGWAVE_TELNYX_BASE_URL", settings.telnyx_base_url, insecure=settings.insecure)
    if problem:
        yield problem
    if settings.telnyx_api_key is not None and not settings.telnyx_public_key:
        yield (
            "LONGWAVE_TELNYX_API_KEY is set without LONGWAVE_TELNYX_PUBLIC_KEY: receipts could not be verified; copy "
            "the public key from the provider's portal"
        )
    if settings.webhook_base_url is None:
        far = provider_host and not is_loopback(provider_host)
        try:
            near = is_loopback(split_address(settings.webhook_address)[0])
        except ValueError:
            return
        if not near or (far and settings.telnyx_api_key is not None):
            yield (
                "LONGWAVE_WEBHOOK_BASE_URL is not set, and the carrier cannot reach "
                f"http://{settings.webhook_address}: set it to the URL under which the internet reaches that address"
            )
        return
    _, problem = _web_host("LONGWAVE_WEBHOOK_BASE_URL", settings.webhook_base_url, insecure=settings.insecure)
    if problem:
        yield problem


def _traces(settings: "Settings") -> Iterator[str]:
    if settings.traces_endpoint:
        # In the clear, too: spans carry no text, number or key.
        _, problem = _web_host("LONGWAVE_TRACES_ENDPOINT", settings.traces_endpoint, insecure=True)
        if problem:
            yield problem


def _web_host(variable: str, url: str, *, insecure: bool) -> tuple[str, str]:
    """Host of an http(s) URL, and a problem or nothing. The URL is shown without user, query and fragment."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        return "", f"{variable} is not a URL: write https://host/path"
    shown = f"{parts.scheme}://{host}{parts.path}"
    if parts.scheme not in {"http", "https"} or not host:
        return "", f"{variable} is not an http(s) URL: write https://host/path"
    if parts.username or parts.password or parts.query or parts.fragment:
        return host, f"{variable} ({shown}) carries a user, query or fragment: write https://host/path only"
    if parts.scheme == "http" and not is_loopback(host) and not insecure:
        return host, f"{variable} ({shown}) is plain http beyond this machine: use https, or LONGWAVE_INSECURE=true"
    return host, ""
