"""The secret file: named keys for API-key hashes and callback MACs, two live of each, newest first.

It hashes nothing itself and knows nothing of the store; who still depends on a key is told to `add_key`.

Layout (JSON): {"format": 1, "api_key": [KEY, ...], "callback": [KEY, ...]} with KEY = {"name": "k1", "secret": "64 hex
digits", "create_us": 0}. Invariants: the file is never group- or world-readable, but for the group of one that root
owns and we do not, which is how a container's platform mounts it; it is replaced as a whole, fsynced before its name
appears; a name is never given to a second secret; no error or repr shows a secret.
"""

import fcntl
import glob
import json
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from engine.errors import ConfigError

FORMAT: Final = 1
KEY_BYTES: Final = 32
LIVE_MAX: Final = 2
FILE_BYTES_MAX: Final = 64 * 1024
OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO
# Who owns what a platform mounts into a container; we read it through its group, and cannot change its mode.
PLATFORM_UID: Final = 0


class Purpose(StrEnum):
    """What a key is for; also its heading in the file."""

    API_KEY = "api_key"
    """Keyed hash of API keys."""
    CALLBACK = "callback"
    """MAC of callback URLs."""


@dataclass(frozen=True, slots=True)
class NamedKey:
    """One key."""

    name: str
    """Such as `k2`; rows that depend on the key hold it."""
    secret: bytes = field(repr=False)
    """32 random bytes."""
    create_us: int
    """Made when, wall clock."""


@dataclass(frozen=True, slots=True)
class Secrets:
    """The whole file, frozen. New work uses the first key of a purpose; what exists may depend on the second."""

    api_key: tuple[NamedKey, ...]
    """The one in use first, then the one beside it: the last one, or the next."""
    callback: tuple[NamedKey, ...]
    """The same."""

    def of(self, purpose: Purpose) -> tuple[NamedKey, ...]:
        """The live keys of a purpose, the one in use first."""
        return self.api_key if purpose is Purpose.API_KEY else self.callback

    def find(self, purpose: Purpose, name: str) -> bytes | None:
        """The secret of this name; None when it is no longer live."""
        return next((key.secret for key in self.of(purpose) if key.name == name), None)


def read_secrets(path: Path) -> Secrets:
    """The secrets in the file. Raises ConfigError when it is absent, readable by others, or not ours."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise ConfigError([f"LONGWAVE_SECRET_FILE {path}: {error.strerror}"]) from None
    with os.fdopen(descriptor, "rb") as file:
        # The mode of what was opened, not of what the name meant a moment before.
        status = os.fstat(file.fileno())
        mode = stat.S_IMODE(status.st_mode)
        mounted = status.st_uid == PLATFORM_UID != os.geteuid()
        if mode & (OTHERS & ~stat.S_IRGRP if mounted else OTHERS):
            raise ConfigError([f"LONGWAVE_SECRET_FILE {path} has mode {mode:04o}: run chmod 600 on it"])
        content = file.read(FILE_BYTES_MAX + 1)
    try:
        document = json.loads(content)
        if document["format"] != FORMAT:
            raise ConfigError([f"LONGWAVE_SECRET_FILE {path} has a format of a newer longwave: run that one"])
        return Secrets(*(_keys(document[purpose.value]) for purpose in Purpose))
    except (ValueError, KeyError, TypeError):
        # The parser's own message could quote the content.
        raise ConfigError([f"LONGWAVE_SECRET_FILE {path} is not a secret file: restore it from its backup"]) from None


def open_secrets(path: Path, *, create: bool, now_us: int) -> Secrets:
    """The secrets in the file, which is made first when `create` and it is absent. Raises ConfigError.

    `create` must be false when the store holds rows that depend on a secret: a new file would shut everyone out.
    """
    if not path.exists():
        if not create:
            message = (
                f"LONGWAVE_SECRET_FILE {path} is missing, and what the store holds depends on it: restore it from its "
                "backup"
            )
            raise ConfigError([message])
        write_secrets(path, Secrets((_new_key((), now_us),), (_new_key((), now_us),)))
    return read_secrets(path)


def add_key(path: Path, purpose: Purpose, *, drop: str, in_use: frozenset[str], now_us: int) -> Secrets:
    """Make a second key of `purpose`, which is believed and not used yet; returns what is live now.

    Of several nodes all have to know a key before one of them uses it. `drop` names the second one that goes for it,
    empty where there is one key only. `in_use` names the keys that rows of the store depend on: none of them goes.
    Running processes take the new file up when they start. Raises ConfigError.
    """
    with _alone(path):
        return _added(path, purpose, drop, in_use, now_us)


def _added(path: Path, purpose: Purpose, drop: str, in_use: frozenset[str], now_us: int) -> Secrets:
    live = read_secrets(path)
    keys = live.of(purpose)
    second = keys[1].name if len(keys) == LIVE_MAX else ""
    if drop != second:
        if not second:
            message = f"{purpose.value} has one key, so none has to go: leave {drop} out"
        else:
            message = (
                f"{purpose.value} has {keys[0].name}, which is used, and {second}: name {second} as the one to drop"
            )
        raise ConfigError([message])
    if second in in_use:
        message = (
            f"key {second} of {purpose.value} is still in use and would be the third: wait until what depends on "
            "it has been used again or has expired, or revoke it, then add"
        )
        raise ConfigError([message])
    return _replaced(path, live, purpose, (keys[0], _new_key(keys, now_us)))


def use_second(path: Path, purpose: Purpose) -> Secrets:
    """Let new work use the second key of `purpose`; the first stays believed. Raises ConfigError when there is none."""
    with _alone(path):
        live = read_secrets(path)
        keys = live.of(purpose)
        if len(keys) < LIVE_MAX:
            raise ConfigError([f"{purpose.value} has one key: add a second one first"])
        return _replaced(path, live, purpose, (keys[1], keys[0]))


def write_secrets(path: Path, live: Secrets) -> None:
    """Replace the file as a whole, mode 0600, its owner kept, on disk when this returns. Raises OSError."""
    document = {"format": FORMAT} | {
        purpose.value: [
            {"name": key.name, "secret": key.secret.hex(), "create_us": key.create_us} for key in live.of(purpose)
        ]
        for purpose in Purpose
    }
    partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.part")
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as file:
            if os.geteuid() == 0 and path.exists():
                # Root rotates for the engine's user, who would be shut out at the next start.
                before = path.stat()
                os.fchown(descriptor, before.st_uid, before.st_gid)
            json.dump(document, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    folder = os.open(path.resolve().parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Keep out whoever else changes the file, or one of two keys would be lost; clear what a change that broke left."""
    folder = os.open(path.resolve().parent, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        for left in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
            left.unlink()
        yield
    finally:
        os.close(folder)


def _replaced(path: Path, live: Secrets, purpose: Purpose, keys: tuple[NamedKey, ...]) -> Secrets:
    made = Secrets(
        keys if purpose is Purpose.API_KEY else live.api_key, keys if purpose is Purpose.CALLBACK else live.callback
    )
    write_secrets(path, made)
    return made


def _new_key(live: tuple[NamedKey, ...], now_us: int) -> NamedKey:
    # The newest name plus one: older names were given out before and are never again.
    number = max((int(key.name.removeprefix("k")) for key in live), default=0) + 1
    return NamedKey(f"k{number}", secrets.token_bytes(KEY_BYTES), now_us)


def _keys(entries: Any) -> tuple[NamedKey, ...]:
    keys = tuple(
        NamedKey(str(entry["name"]), bytes.fromhex(entry["secret"]), int(entry["create_us"])) for entry in entries
    )
    numbered = all(key.name.startswith("k") and key.name[1:].isdecimal() for key in keys)
    if not 1 <= len(keys) <= LIVE_MAX or not numbered or any(len(key.secret) != KEY_BYTES for key in keys):
        raise ValueError
    return keys
