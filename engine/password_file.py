"""A password that a setting holds, or a file that a setting names, as a container's platform mounts secrets.

The file is read once, at the start: whoever rotates a password restarts. Its mode is not looked at: a mounted secret
belongs to root and is read through its group. Invariant: no error shows anything of the password.
"""

from pathlib import Path
from typing import Final

from pydantic import SecretStr

from engine.errors import ConfigError

# Beyond what any server takes: another file was named.
BYTES_MAX: Final = 4096


def password(variable: str, given: SecretStr | None, file: Path | None) -> str | None:
    """What `variable` holds, or its file; None when there is neither. Raises ConfigError, which names the file."""
    if file is None:
        return None if given is None else given.get_secret_value()
    try:
        return _in(file)
    except OSError as error:
        advice = f"mount it there, or set {variable}_FILE to where it is"
        if isinstance(error, PermissionError):
            advice = "let the user that runs longwave read it"
        words = f"{error.strerror}: {advice}"
    except ValueError as error:
        words = str(error)
    raise ConfigError([f"{variable}_FILE {file}: {words}"])


def _in(file: Path) -> str:
    with file.open("rb") as opened:
        content = opened.read(BYTES_MAX + 1)
    if len(content) > BYTES_MAX:
        raise ValueError(f"it has more than {BYTES_MAX} bytes: name the file that holds the password alone")
    try:
        text = content.decode()
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8: write the password as text") from None
    # The one that an editor or `echo` leaves.
    text = text.removesuffix("\r\n") if text.endswith("\r\n") else text.removesuffix("\n")
    if not text:
        raise ValueError("it is empty: write the password into it")
    if "\0" in text:
        raise ValueError("it holds a NUL character: write the password as text")
    if "\n" in text:
        raise ValueError("it has more than one line: name the file that holds the password alone")
    return text
