"""What a client of a store or a Redis believes, and shows of itself: PEM files that the settings name.

It opens no connection. Invariant: a key that is encrypted is refused, never asked for at a terminal.
"""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.errors import ConfigError


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Of one peer."""

    authorities: Path | None = None
    """Of its certificate; None: those of the system."""
    certificate: Path | None = None
    key: Path | None = None

    def context(self, prefix: str) -> ssl.SSLContext:
        """For connections to it; its name and chain are checked. Raises ConfigError in words of `prefix`'s settings."""
        try:
            context = ssl.create_default_context(cafile=self.authorities)
        except OSError as error:
            why = error.strerror or "no certificate in it"
            raise ConfigError([f"{prefix}_CA_FILE {self.authorities}: {why}"]) from None
        if self.certificate is not None:
            try:
                context.load_cert_chain(self.certificate, self.key, password="")
            except OSError as error:
                pair = f"{prefix}_CERT_FILE {self.certificate} and {prefix}_KEY_FILE {self.key}"
                raise ConfigError([f"{pair}: {_why(error)}"]) from None
        return context


NO_FILES: Final = TlsFiles()


def _why(error: OSError) -> str:
    if not isinstance(error, ssl.SSLError):
        return error.strerror or "cannot be read"
    if error.reason == "KEY_VALUES_MISMATCH":
        return "the key is not the certificate's"
    return "no certificate with its key, in PEM and without a password"
