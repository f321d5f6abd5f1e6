"""What an exception of the driver or of the way to the server means for the transaction that met it.

It decides nothing: `transactions.py` does. Codes are those of MySQL 8, 9 and MariaDB 10.6 to 11.
"""

import asyncio
import ssl
from enum import Enum
from typing import Final

import sqlalchemy as sa
from asyncmy import errors


class Fault(Enum):
    """What to do about it."""

    AGAIN = "again"
    """A deadlock or a wait for a lock: the whole transaction was or is undone, and may be run again at once."""
    LOST = "lost"
    """The connection or the server is gone, or answers nobody: another connection, in a moment."""
    READ_ONLY = "read only"
    """This server is a replica or was made one: every connection goes, the name is looked up anew."""
    FULL = "full"
    """No space: refuse new work, go on with what is held."""
    DATA = "data"
    """A value or a constraint of one row: bisect."""
    REFUSED = "refused"
    """Who or where from: the settings are wrong, and waiting does not mend them."""
    PROGRAM = "program"
    """A bug of ours: wrong SQL, a missing table."""


_CODES: Final = {
    # 1020: the row changed since it was read (MariaDB's snapshots); 1412: the table was altered meanwhile.
    Fault.AGAIN: (1020, 1205, 1213, 1412, 1614, 3058, 3572),
    # 1040, 1203 and 1226 are too many connections: others end theirs. 1969 and 3024 are the server's own time limit.
    Fault.LOST: (
        1040, 1042, 1043, 1053, 1077, 1078, 1079, 1080, 1081, 1129, 1152, 1158, 1159, 1160, 1161, 1184, 1203, 1226,
        1317, 1927, 1969, 2002, 2003, 2005, 2006, 2013, 2014, 2055, 3024, 3032, 3168, 4031,
    ),
    Fault.READ_ONLY: (1209, 1223, 1290, 1792, 1836, 3100),
    Fault.FULL: (1021, 1114, 3019),
    Fault.DATA: (
        1048, 1062, 1169, 1264, 1265, 1292, 1300, 1364, 1366, 1367, 1369, 1406, 1416, 1425, 1439, 1451, 1452, 1557,
        1586, 1644, 1690, 3140, 3819, 4025,
    ),
    Fault.REFUSED: (1044, 1045, 1049, 1130, 1142, 1227, 1251, 1524, 1698, 2061, 3159),
}  # fmt: skip
_FAULTS: Final = {code: fault for fault, codes in _CODES.items() for code in codes}
# These carry the operating system's number in their words.
_WITH_ERRNO: Final = {1026, 1030, 1004, 1180, 3}
_NO_SPACE: Final = ("errno: 28", "error 28", "No space left", "errno: 122")
DUPLICATE: Final = 1062
# What a server says of our certificate, in the words of TLS 1.3 and of those before.
_CERTIFICATE_ALERTS: Final = {
    "TLSV1_ALERT_UNKNOWN_CA", "SSLV3_ALERT_BAD_CERTIFICATE", "SSLV3_ALERT_CERTIFICATE_EXPIRED",
    "SSLV3_ALERT_CERTIFICATE_REVOKED", "SSLV3_ALERT_CERTIFICATE_UNKNOWN", "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
    "TLSV13_ALERT_CERTIFICATE_REQUIRED",
}  # fmt: skip


def code_of(error: BaseException) -> int:
    """The server's or the driver's number; 0 without."""
    if isinstance(error, sa.exc.DBAPIError) and error.orig is not None:
        error = error.orig
    number = error.args[0] if isinstance(error, errors.MySQLError) and error.args else 0
    return number if isinstance(number, int) else 0


def _refused_tls(error: BaseException | None) -> ssl.SSLError | None:
    """That a certificate was not believed, or the server speaks no TLS; the driver wraps what TLS raises."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return error
        if isinstance(error, ssl.SSLError) and error.reason in {"WRONG_VERSION_NUMBER", *_CERTIFICATE_ALERTS}:
            return error
        error = error.__cause__ or error.__context__
    return None


def is_our_certificate(error: BaseException) -> bool:
    """Whether the server does not believe the certificate that it was shown, or was shown none and wants one."""
    refused = _refused_tls(error)
    return refused is not None and refused.reason in _CERTIFICATE_ALERTS


def classify(error: BaseException) -> Fault:
    """What an exception means; anything that is not known is a bug of ours."""
    if isinstance(error, sa.exc.DBAPIError) and error.orig is not None:
        error = error.orig
    if _refused_tls(error) is not None:
        return Fault.REFUSED
    # The driver closes a connection whose statement was cut short; EOFError is its word for a peer that left.
    if isinstance(error, asyncio.CancelledError | TimeoutError | OSError | EOFError):
        return Fault.LOST
    code = code_of(error)
    if code in _WITH_ERRNO and any(words in str(error) for words in _NO_SPACE):
        return Fault.FULL
    found = _FAULTS.get(code)
    if found is not None:
        return found
    if isinstance(error, errors.InterfaceError) or (isinstance(error, errors.OperationalError) and code == 0):
        return Fault.LOST
    return Fault.DATA if isinstance(error, errors.DataError | errors.IntegrityError) else Fault.PROGRAM
