"""No file of the house names one machine: no local path, no home folder, no package registry.

It does not look at addresses that a reader is meant to type (loopback, example hosts).
"""

import re

import pytest

MACHINE_PATH = re.compile(r"(?<![\w.~}\])-])/(?:work|tmp|home|root|farm|Users)/[\w.]|/opt/wheels")
REGISTRY_HOST = re.compile(
    r"pypi\.org|pythonhosted\.org|registry\.npmjs|index\.crates\.io|static\.crates\.io|proxy\.golang|"
    r"--(?:extra-)?index-url|--find-links|--trusted-host|\[source\.[\w-]+\]",
    re.IGNORECASE,
)


@pytest.mark.parametrize("folder", ["work", "tmp", "home", "root", "Users"])
def test_a_local_path_is_recognised(folder: str) -> None:
    assert MACHINE_PATH.search(f'open("/{folder}/somebody/file")')
    assert MACHINE_PATH.search(f"sqlite:////{folder}/store.db")


@pytest.mark.parametrize("harmless", ["./work/plan", "GET /v2/messages", "a/tmp/b", "rust_core/root/x", "/workshop/x"])
def test_a_relative_or_remote_path_is_not(harmless: str) -> None:
    assert not MACHINE_PATH.search(harmless)


@pytest.mark.parametrize("line", ["https://" + "pypi" + ".org/simple", "-" + "-index-url https://mirror.example"])
def test_a_registry_is_recognised(line: str) -> None:
    assert REGISTRY_HOST.search(line)


@pytest.mark.parametrize("pattern", [MACHINE_PATH, REGISTRY_HOST], ids=["path", "registry"])
def test_no_file_names_a_machine(pattern: re.Pattern[str], house_texts: dict[str, str]) -> None:
    this_file = "tests/house/test_no_machine_names.py"  # holds the patterns themselves
    found = [
        f"{path}:{number}: {line.strip()[:120]}"
        for path, text in house_texts.items()
        if path != this_file
        for number, line in enumerate(text.splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == []
