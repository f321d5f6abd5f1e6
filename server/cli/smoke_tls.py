"""The first check of `longwave smoke`: is the way to the engine protected as the options before the command ask for.

It speaks no gRPC: a handshake of its own shows the certificate that gRPC's would hide.
"""

import socket
import ssl
import time
from typing import Final

from server.cli.connect import Target, address_of
from server.cli.failure import CliFailure

HANDSHAKE_S: Final = 10.0
DAY_S: Final = 86_400


def link(target: Target) -> str:
    """How the engine is reached: in the clear, or by TLS with a certificate of so many days. Raises CliFailure."""
    address = address_of(target)
    host, port = _host_port(address)
    if not target.has_tls:
        return f"{address} in the clear"
    try:
        context = ssl.create_default_context(cafile=target.ca_file)
        if target.cert_file is not None:
            context.load_cert_chain(target.cert_file, target.key_file)
        context.set_alpn_protocols(["h2"])
        with (
            socket.create_connection((host, port), timeout=HANDSHAKE_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as wrapped,
        ):
            certificate = wrapped.getpeercert() or {}
            version, protocol = wrapped.version(), wrapped.selected_alpn_protocol()
    except ssl.SSLCertVerificationError as error:
        raise CliFailure(
            f"{address}: {error.verify_message}\ngive --ca-file FILE with the authority of its certificate"
        ) from None
    except ssl.SSLError as error:
        words = (error.reason or str(error)).lower().replace("_", " ")
        raise CliFailure(f"{address} does not take TLS: {words}\nis LONGWAVE_GRPC_TLS_CERT_FILE set there?") from None
    except OSError as error:
        raise CliFailure(f"{address}: {error.strerror or error}\nis the engine running there?") from None
    if protocol != "h2":
        raise CliFailure(f"{address} takes TLS, but does not offer HTTP/2\nit is not an engine's gRPC address")
    days = (ssl.cert_time_to_seconds(str(certificate["notAfter"])) - time.time()) / DAY_S
    return f"{address} by {version}, certificate good for {days:.0f} days"


def _host_port(address: str) -> tuple[str, int]:
    """Host and port of a gRPC target that is one host; Raises CliFailure."""
    host, _, port = address.removeprefix("dns:").rpartition("/")[2].rpartition(":")
    if not port.isdecimal() or not host:
        raise CliFailure(f"{address} is no host:port\ngive --address HOST:PORT")
    return host.strip("[]"), int(port)
