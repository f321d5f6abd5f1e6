"""Where the store is and how it is reached: `mysql://user@host:port/database`, the password apart from it.

It opens nothing. Invariant: no repr and no error shows the password.
"""

import ssl
from dataclasses import dataclass, field
from typing import Final, Literal
from urllib.parse import unquote, urlsplit

from engine.errors import ConfigError
from engine.tls_files import TlsFiles

SCHEME: Final = "mysql"
PORT: Final = 3306

TLS_PREFIX: Final = "LONGWAVE_STORE_TLS"
NO_FILES: Final = TlsFiles(TLS_PREFIX)

TlsMode = Literal["off", "verify", "encrypt"]


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
        raise ConfigError([f"{variable} carries a password: put it into LONGWAVE_STORE_PASSWORD, or into a file"])
    database = unquote(parts.path.removeprefix("/"))
    plain = not (parts.query or parts.fragment) and "/" not in database
    if parts.scheme != SCHEME or not host or not parts.username or not database or not plain:
        raise ConfigError([problem])
    return Address(host, port, unquote(parts.username), database, password, tls)


@dataclass(frozen=True, slots=True)
class Tls:
    """How the way to the server is kept, for the driver and for the tools that dump and load."""

    mode: TlsMode = "off"
    files: TlsFiles = NO_FILES

    def context(self) -> ssl.SSLContext | None:
        """Checks the server's chain and name, unless it is only to encrypt; None for plain text. Raises ConfigError."""
        if self.mode == "off":
            return None
        context = self.files.context()
        if self.mode == "encrypt":
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        return context


PLAIN: Final = Tls()
