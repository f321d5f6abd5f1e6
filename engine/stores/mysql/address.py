"""Where the store is and how it is reached: `mysql://user@host:port/database`, the password apart from it.

It opens nothing. Invariant: no repr and no error shows the password.
"""

import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from engine.errors import ConfigError

SCHEME: Final = "mysql"
PORT: Final = 3306


@dataclass(frozen=True, slots=True)
class Address:
    """One server and database."""

    host: str
    port: int
    user: str
    database: str
    password: str = field(repr=False)
    tls: ssl.SSLContext | None = field(default=None, repr=False)

    @property
    def shown(self) -> str:
        """For people and logs."""
        return f"{SCHEME}://{self.user}@{self.host}:{self.port}/{self.database}"


def parse(url: str, password: str, tls: ssl.SSLContext | None, *, variable: str = "LONGWAVE_STORE_URL") -> Address:
    """The address in a URL. Raises ConfigError, which shows no password."""
    problem = f"{variable}: write mysql://user@host:port/database"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or PORT
    except ValueError:
        raise ConfigError([problem]) from None
    if parts.password is not None:
        raise ConfigError([f"{variable} carries a password: put it into LONGWAVE_STORE_PASSWORD"])
    database = unquote(parts.path.removeprefix("/"))
    plain = not (parts.query or parts.fragment) and "/" not in database
    if parts.scheme != SCHEME or not host or not parts.username or not database or not plain:
        raise ConfigError([problem])
    return Address(host, port, unquote(parts.username), database, password, tls)


def tls_context(ca_file: Path | None, *, verify: bool) -> ssl.SSLContext:
    """TLS towards the server: its name and chain are checked unless `verify` is off. Raises ConfigError."""
    try:
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise ConfigError(
            [f"LONGWAVE_STORE_TLS_CA_FILE {ca_file}: {error.strerror or 'no certificate in it'}"]
        ) from None
    if not verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context
