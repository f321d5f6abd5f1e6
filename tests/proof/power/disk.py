"""A disk whose power can be cut: ext4 in a loop file, mounted in a folder; root only.

It knows no store. `cut` is what the kernel offers for tests of file systems: from that moment nothing reaches the disk,
the journal included, and what was not on it by then is gone after `restore`.

Invariants: nothing outside of its folder is touched; `close` leaves no mount and no loop device behind.
"""

import fcntl
import os
import shutil
import struct
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Final

# include/uapi/linux/ext4.h
EXT4_IOC_SHUTDOWN: Final = 0x8004587D
EXT4_GOING_FLAGS_NOLOGFLUSH: Final = 2
DISK_MIB: Final = 256
TOOL_S: Final = 60
TOOLS: Final = ("mkfs.ext4", "mount", "umount")
# Debian keeps these out of an ordinary user's path, and some ways of becoming root keep that path.
_SEARCHED: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"


class CannotMount(Exception):  # noqa: N818 - it is what is the case
    """This machine cannot make such a disk; the message says why."""


class LoopDisk:
    """One disk; mounted at `root` from construction to `close`."""

    def __init__(self, folder: Path, mib: int = DISK_MIB, options: str = "") -> None:
        """Make and mount it below `folder`. Raises CannotMount."""
        self.image = folder / "disk.img"
        self.root = folder / "disk"
        self._options = ",".join(filter(None, ("loop", "noatime", "errors=remount-ro", options)))
        folder.mkdir(parents=True, exist_ok=True)
        self.root.mkdir(exist_ok=True)
        if os.geteuid() != 0:
            raise CannotMount("mounting needs root")
        with self.image.open("wb") as image:
            image.truncate(mib * 1024 * 1024)
        _run("mkfs.ext4", "-q", "-F", "-m", "0", str(self.image))
        self._mounted = False
        self.mount()

    def mount(self) -> None:
        """Mount; the journal is replayed as after a start of the machine."""
        _run("mount", "-t", "ext4", "-o", self._options, str(self.image), str(self.root))
        self._mounted = True

    def cut(self) -> None:
        """Cut the power: returns when nothing more can reach the disk."""
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, EXT4_IOC_SHUTDOWN, struct.pack("I", EXT4_GOING_FLAGS_NOLOGFLUSH))
        finally:
            os.close(descriptor)

    def restore(self) -> None:
        """Give the power back. Whoever had files open must have ended."""
        self.unmount()
        self.mount()

    def turn_read_only(self) -> None:
        """What the kernel does to a file system in which it finds an error, while files are open for writing."""
        [device] = [
            line.split()[0]
            for line in Path("/proc/mounts").read_text().splitlines()
            if line.split()[1] == str(self.root)
        ]
        trigger = Path("/sys/fs/ext4", Path(device).name, "trigger_fs_error")
        if not trigger.exists():
            raise CannotMount("the kernel offers no trigger_fs_error")
        trigger.write_text("made up")

    def unmount(self) -> None:
        """Unmount; a process that was only just killed may hold a file for a moment longer."""
        until_s = time.monotonic() + TOOL_S
        while True:
            try:
                _run("umount", str(self.root))
                break
            except CannotMount:
                if time.monotonic() > until_s:
                    raise
                time.sleep(0.02)
        self._mounted = False

    def fill(self, leave_bytes: int = 0) -> Path:
        """Take all space but this with a file; returns the file."""
        filler = self.root / "filler"
        block = 1024 * 1024
        with filler.open("ab") as file:
            while block >= 4096:
                room = os.statvfs(self.root)
                if room.f_bavail * room.f_frsize - leave_bytes < block:
                    block //= 2
                    continue
                try:
                    os.posix_fallocate(file.fileno(), file.tell(), block)
                    file.seek(block, os.SEEK_CUR)
                except OSError:
                    block //= 2
        return filler

    def close(self, *, keep: bool = False) -> None:
        """Unmount, and remove what was on it unless told to keep it. Safe to call twice."""
        if self._mounted:
            self.unmount()
        if not keep:
            self.image.unlink(missing_ok=True)


def release(folder: Path) -> None:
    """Unmount whatever a process that was killed left mounted below `folder`."""
    for line in Path("/proc/mounts").read_text().splitlines():
        if line.split()[1].startswith(f"{folder}/"):
            _run("umount", "-l", line.split()[1])


def why_not() -> str:
    """Why this machine cannot cut the power of a loop disk; empty when it can. It tries."""
    folder = Path(tempfile.mkdtemp(prefix="power-probe-"))
    try:
        disk = LoopDisk(folder, mib=16)
        try:
            (disk.root / "probe").write_bytes(b"never synced")
            disk.cut()
            disk.restore()
        finally:
            disk.close()
    except (CannotMount, OSError) as error:
        return f"no loop disk here: {error}"
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return ""


def _run(*command: str) -> None:
    tool = shutil.which(command[0], path=_SEARCHED)
    if tool is None:
        raise CannotMount(f"{command[0]} is missing")
    done = subprocess.run([tool, *command[1:]], capture_output=True, text=True, timeout=TOOL_S, check=False)
    if done.returncode != 0:
        raise CannotMount(f"{' '.join(command[:1])}: {done.stderr.strip() or done.returncode}")
