"""`longwave segment`: the golden vectors through the command line, and lines that are no text."""

import csv
import json
from pathlib import Path

import pytest

from tests.cli.conftest import Run

VECTORS = Path(__file__).parents[1] / "golden" / "segment_vectors.tsv"


def text_of(spelled: str) -> str:
    """A text of the vectors: `U+0061*160 U+20AC*1`, or `-` for none."""
    if spelled == "-":
        return ""
    parts = (part.removeprefix("U+").partition("*") for part in spelled.split(" "))
    return "".join(chr(int(code, 16)) * int(times) for code, _, times in parts)


def vectors() -> list[dict[str, str]]:
    with VECTORS.open(encoding="utf-8", newline="") as file:
        # What the command line says has 8-bit references, as the engine sends.
        return [row for row in csv.DictReader(file, delimiter="\t") if row["reference_bits"] == "8"]


def test_the_vectors_come_out(run: Run) -> None:
    cases = vectors()
    assert len(cases) > 20
    lines = "".join(json.dumps({"text": text_of(case["text"])}) + "\n" for case in cases)
    ran = run("segment", "--json", stdin=lines.encode())
    assert ran.code == 0
    found = [(answer["encoding"], answer["segments"], answer["units"]) for answer in ran.json_lines]
    wanted = [
        (case["encoding"], int(case["segments"]), sum(int(units) for units in case["part_units"].split(",")))
        for case in cases
    ]
    assert found == wanted


def test_one_text_a_line_and_json_may_be_mixed(run: Run) -> None:
    stdin = b'hello\n{"text":"a\\nb"}\n{"other":1}\n\n'
    ran = run("segment", "--json", stdin=stdin)
    assert [answer["units"] for answer in ran.json_lines] == [5, 3, 13, 0]  # each brace costs two units


def test_what_costs_it_is_named(run: Run) -> None:
    ran = run("segment", "--json", stdin="“déjà” 😀 vu`".encode())
    assert ran.json["encoding"] == "UCS-2"
    assert set(ran.json["costly"]) == {"“", "”", "😀", "`"}
    table = run("segment", stdin="“déjà” 😀 vu`".encode())
    assert "U+201C" in table.out
    assert "UCS-2" in table.out


def test_smart_encoding_shows_its_effect(run: Run) -> None:
    ran = run("segment", "--json", "--smart", stdin="“hi”\n好\n".encode())
    first, second = ran.json_lines
    assert first["smart"] == {"text": '"hi"', "encoding": "GSM-7", "segments": 1, "units": 4, "costly": []}
    assert second["smart"] is None
    table = run("segment", "--smart", stdin="“hi”\n好\nhi\n".encode())
    assert "cannot help" in table.out
    assert "not needed" in table.out


@pytest.mark.parametrize(
    ("bad", "says"),
    [(b"\xff\xfe", "not UTF-8 at byte 1"), (rb'{"text":"\ud800"}', "surrogate"), (b"x" * 1_100_000, "longer than")],
)
def test_a_bad_line_is_an_error_and_the_others_go_on(run: Run, bad: bytes, says: str) -> None:
    ran = run("segment", "--json", stdin=b"one\n" + bad + b"\nthree\n")
    assert ran.code == 1
    assert says in ran.err
    assert "line 2" in ran.err
    first, second, third = ran.json_lines
    assert (first["units"], second["line"], third["units"]) == (3, 2, 5)


def test_jsonl_insists(run: Run) -> None:
    ran = run("segment", "--jsonl", "--json", stdin=b'{"text":"a"}\nplain\n{"text":1}\n')
    assert ran.code == 1
    assert [answer.get("units") for answer in ran.json_lines] == [1, None, None]
