"""Which store the settings name: the one place that knows every kind.

It opens nothing by itself.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from engine.clock import Clock
from engine.config import Settings
from engine.metrics import Metrics
from engine.password_file import password
from engine.stores.connection import StoreLock
from engine.stores.embedded import EmbeddedStore
from engine.stores.mysql.address import TLS_PREFIX, Tls, parse
from engine.stores.store import Store
from engine.tls_files import TlsFiles

if TYPE_CHECKING:
    from engine.stores.mysql.store import MySQLStore

MIB: Final = 1024 * 1024


def store_of(settings: Settings, clock: Clock, metrics: Metrics | None = None) -> Store:
    """The store that `LONGWAVE_STORE_URL` names, to be opened. Raises ConfigError for one that this version lacks.

    `metrics` are told of connections, where a store has a pool of them.
    """
    if not settings.store_is_embedded:
        return mysql_store(settings, clock, metrics)
    return EmbeddedStore(
        settings.store_file,
        clock,
        reserve_bytes=settings.reserve_file_mib * MIB,
        group_weight_max=settings.group_messages_max,
    )


def mysql_store(
    settings: Settings,
    clock: Clock,
    metrics: Metrics | None = None,
    *,
    progress: Callable[[str], None] | None = None,
) -> "MySQLStore":
    """The store on a server; `progress` is told what becomes of its schema, else the log. Raises ConfigError."""
    # The driver is an extra: whoever keeps a file needs none.
    from engine.stores.mysql.partitions import Days  # noqa: PLC0415
    from engine.stores.mysql.pool import Limits, Loan  # noqa: PLC0415
    from engine.stores.mysql.store import MySQLStore, Place  # noqa: PLC0415

    limits = Limits(
        settings.store_connections_min,
        settings.store_connections_max,
        settings.store_connect_s,
        settings.store_statement_s,
    )
    secret = password("LONGWAVE_STORE_PASSWORD", settings.store_password, settings.store_password_file) or ""
    tls = tls_of(settings).context()
    replica = settings.store_replica_url
    place = Place(
        parse(settings.store_url, secret, tls),
        parse(replica, secret, tls, variable="LONGWAVE_STORE_REPLICA_URL") if replica else None,
        limits,
        settings.store_durability,
        settings.node,
        settings.lease_s,
        ",".join(settings.roles),
        settings.store_replica_lag_s,
    )

    def lent(loan: Loan) -> None:
        if metrics is not None:
            metrics.store_acquire_seconds.observe(loan.waited_s)
            metrics.store_connections_in_use.set(loan.in_use)
            metrics.store_connections_waiting.set(loan.waiting)

    def changed(days: Days) -> None:
        if metrics is not None:
            metrics.store_partitions_dropped.inc(days.dropped)
            metrics.store_late_rows.inc(days.late_rows)

    more = {} if progress is None else {"progress": progress}
    return MySQLStore(place, clock, group_weight_max=settings.group_messages_max, on_lent=lent, on_days=changed, **more)


def tls_of(settings: Settings) -> Tls:
    """How the way to a store on a server is kept; its files are not read yet."""
    files = TlsFiles(TLS_PREFIX, settings.store_tls_ca_file, settings.store_tls_cert_file, settings.store_tls_key_file)
    return Tls(settings.store_tls, files)


def kind_of(settings: Settings) -> str:
    """The word for its kind in metrics."""
    return settings.store_url.partition(":")[0]


def is_new(settings: Settings) -> bool:
    """Whether there is surely no store yet; of one on a server nobody can be sure who does not ask it."""
    return settings.store_is_embedded and not settings.store_file.exists()


def refuse_if_served(settings: Settings) -> None:
    """Raises StoreLocked when a process serves this store already; asks no server, which `open` will."""
    if settings.store_is_embedded and settings.store_file.exists():
        StoreLock(settings.store_file).release()
