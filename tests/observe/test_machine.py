"""What a process may use, read from files as containers have them."""

import os
from pathlib import Path

import pytest

from server.machine import memory_limit_bytes, processor_limit_cores

MACHINE = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
MIB = 1024 * 1024


def files(folder: Path, **texts: str) -> Path:
    for name, text in texts.items():
        path = folder / name.replace("__", "/").replace("_DOT_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="ascii")
    return folder


def test_the_limit_of_a_container_is_the_limit(tmp_path: Path) -> None:
    limited = files(tmp_path, memory_DOT_max=f"{64 * MIB}\n", cpu_DOT_max="50000 100000\n")
    assert memory_limit_bytes(limited) == 64 * MIB
    assert processor_limit_cores(limited) == 0.5


def test_version_1_says_it_in_other_files(tmp_path: Path) -> None:
    limited = files(tmp_path, memory__memory_DOT_limit_in_bytes=f"{64 * MIB}\n", cpu__cpu_DOT_cfs_quota_us="25000\n")
    files(tmp_path, cpu__cpu_DOT_cfs_period_us="100000\n")
    assert memory_limit_bytes(limited) == 64 * MIB
    assert processor_limit_cores(limited) == 0.25


@pytest.mark.parametrize("memory", ["max\n", f"{MACHINE * 4}\n"])
def test_without_a_limit_it_is_the_machine(tmp_path: Path, memory: str) -> None:
    unlimited = files(tmp_path, memory_DOT_max=memory, cpu_DOT_max="max 100000\n")
    assert memory_limit_bytes(unlimited) == MACHINE
    assert processor_limit_cores(unlimited) == len(os.sched_getaffinity(0))


def test_version_1_without_a_limit_is_the_machine(tmp_path: Path) -> None:
    unlimited = files(tmp_path, memory__memory_DOT_limit_in_bytes="9223372036854771712\n")
    files(tmp_path, cpu__cpu_DOT_cfs_quota_us="-1\n", cpu__cpu_DOT_cfs_period_us="100000\n")
    assert memory_limit_bytes(unlimited) == MACHINE
    assert processor_limit_cores(unlimited) == len(os.sched_getaffinity(0))


def test_without_files_it_is_the_machine(tmp_path: Path) -> None:
    assert memory_limit_bytes(tmp_path) == MACHINE
    assert processor_limit_cores(tmp_path) == len(os.sched_getaffinity(0))
