"""Parts are counted as the golden vectors say."""

import csv
import re
from pathlib import Path

import pytest

from loadtest.carrier.segments import GSM_DEFAULT, GSM_EXTENSION, count_parts, is_gsm7

GOLDEN = Path(__file__).parents[1] / "golden" / "segment_vectors.tsv"


def _vectors() -> list[tuple[str, str, str, int]]:
    with GOLDEN.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))
    # Eight-bit references are what carriers use.
    return [
        (row["case"], _text(row["text"]), row["encoding"], int(row["segments"]))
        for row in rows
        if row["reference_bits"] == "8"
    ]


def _text(cell: str) -> str:
    runs = re.findall(r"U\+([0-9A-F]+)(?:\*(\d+))?", cell)
    return "".join(chr(int(code, 16)) * int(count or 1) for code, count in runs)


@pytest.mark.parametrize(
    ("case", "text", "encoding", "parts"), _vectors(), ids=lambda value: "" if value is None else None
)
def test_golden_vector(case: str, text: str, encoding: str, parts: int) -> None:
    assert is_gsm7(text) == (encoding == "GSM-7"), case
    assert count_parts(text, gsm7=encoding == "GSM-7") == parts, case


def test_vectors_are_there() -> None:
    assert len(_vectors()) >= 20


def test_tables_are_those_of_the_standard() -> None:
    assert len(GSM_DEFAULT) == len(set(GSM_DEFAULT)) == 127
    assert len(set(GSM_EXTENSION)) == 10
    assert GSM_DEFAULT[0x09] == "Ç"
    assert "ç" not in GSM_DEFAULT
    assert GSM_DEFAULT[0x1B] == "Æ"  # 0x1B itself is the escape and stands in no table.
    assert GSM_DEFAULT.index("a") == 0x60
