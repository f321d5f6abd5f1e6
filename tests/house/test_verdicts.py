"""Every verdict is provoked by a test: its name stands in one, outside of this file.

It does not see whether that test is a good one; reading does.
"""

import re
from pathlib import Path

from engine.errors import Verdict

# Nothing can provoke these: one means "not set".
UNPROVOKED = {Verdict.UNSPECIFIED}


def verdicts_in(text: str) -> set[str]:
    """Names of verdicts that stand in `text` as words, with or without the contract's prefix."""
    words = {word.removeprefix("VERDICT_") for word in re.findall(r"[A-Z][A-Z_]+", text)}
    # The tests of the core say it as Rust does.
    words |= {re.sub(r"(?<!^)(?=[A-Z])", "_", word).upper() for word in re.findall(r"Verdict::([A-Za-z]+)", text)}
    return words & set(Verdict.__members__)


def test_names_are_found_as_words() -> None:
    assert verdicts_in('"STORE_FULL" VERDICT_QUEUE_FULL Verdict::NoSender') == {"STORE_FULL", "QUEUE_FULL", "NO_SENDER"}
    assert verdicts_in("XSTORE_FULLX store_full ACCEPTEDX") == set()


def test_every_verdict_stands_in_a_test(house_texts: dict[str, str]) -> None:
    tests = {
        path: text
        for path, text in house_texts.items()
        if Path(path).name.startswith("test_") and path.startswith("tests/") and path != "tests/house/test_verdicts.py"
    }
    provoked = set().union(*map(verdicts_in, tests.values()))
    missing = {verdict.name for verdict in set(Verdict) - UNPROVOKED} - provoked
    assert sorted(missing) == []
