"""TLS towards a server, from PEM files that settings name: whom it believes, and what it shows of itself.

It connects to nothing, and follows no file that is replaced: whoever renews a certificate restarts. Invariants: an
error names the setting and the file, says what to do, and shows nothing of what is in the file; nobody is ever asked
for a passphrase.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.errors import ConfigError

_CERTIFICATE: Final = b"-----BEGIN CERTIFICATE-----"
_KEY: Final = b"PRIVATE KEY-----"
# OpenSSL's words for a key that belongs to another certificate: of the same kind, and of another.
_MISMATCHES: Final = {"KEY_VALUES_MISMATCH", "KEY_TYPE_MISMATCH", "NO_CERTIFICATE_ASSIGNED"}


class _Locked(Exception):  # noqa: N818 - it says what was found
    """The key wants a passphrase."""


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Files of one server's settings; a certificate comes with its key."""

    prefix: str
    """What the settings' names begin with, such as `LONGWAVE_STORE_TLS`."""
    authorities: Path | None = None
    """Unset: those of the system."""
    certificate: Path | None = None
    """With the chain behind it, where there is one."""
    key: Path | None = None

    def context(self) -> ssl.SSLContext:
        """Believes the authorities, checks the server's name, shows the certificate. Raises ConfigError."""
        self._read(self.authorities, "CA")
        try:
            context = ssl.create_default_context(cafile=self.authorities)
        except OSError:
            raise self._refused(self.authorities, "CA", "no certificate in it: name a file of PEM") from None
        if self.certificate is not None and self.key is not None:
            self._show(context, self.certificate, self.key)
        return context

    def _show(self, context: ssl.SSLContext, certificate: Path, key: Path) -> None:
        if _CERTIFICATE not in self._read(certificate, "CERT"):
            raise self._refused(certificate, "CERT", "no certificate in it: name a file of PEM")
        if _KEY not in self._read(key, "KEY"):
            raise self._refused(key, "KEY", "no private key in it: name a file of PEM")

        def locked() -> str:
            raise _Locked

        try:
            context.load_cert_chain(certificate, key, locked)
        except _Locked:
            raise self._refused(key, "KEY", "it wants a passphrase: store the key without one") from None
        except ssl.SSLError as error:
            if error.reason in _MISMATCHES:
                words = f"it is not the key of {certificate}: name the two that were issued together"
                raise self._refused(key, "KEY", words) from None
            words = f"it cannot be read together with {key}: issue the two anew"
            raise self._refused(certificate, "CERT", words) from None

    def _read(self, path: Path | None, kind: str) -> bytes:
        if path is None:
            return b""
        try:
            return path.read_bytes()
        except OSError as error:
            advice = "let the user that runs longwave read it"
            if not isinstance(error, PermissionError):
                advice = f"put it there, or set {self.prefix}_{kind}_FILE to where it is"
            raise self._refused(path, kind, f"{error.strerror}: {advice}") from None

    def _refused(self, path: Path | None, kind: str, words: str) -> ConfigError:
        return ConfigError([f"{self.prefix}_{kind}_FILE {path}: {words}"])
