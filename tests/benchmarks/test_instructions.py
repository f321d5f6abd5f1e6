"""The count of instructions: callgrind's file is read rightly, and what moved is told in either direction."""

import shutil
import subprocess
from pathlib import Path

import pytest

from loadtest.benchmarks import instructions
from loadtest.benchmarks.children import BenchmarkError
from loadtest.benchmarks.instructions import Counted

# As callgrind writes it: names once, then by number; positions absolute, relative or the same.
FILE = """\
events: Ir
fl=(1) core_instructions.rs
fn=(1) core_instructions::main
10 5
cfn=(2) core_instructions::work::admit
calls=2 20
+1 400

fn=(3) core::inner
* 90

fn=(2)
20 100
+2 50
fi=(2) other.rs
-1 10
cfn=(3)
calls=4 7
* 240
fn=(4) core_instructions::work::quota
30 60
"""
KNOWN = Counted("1.95.0", {"admit": 200.0, "quota": 60.0})


def test_a_function_costs_its_own_lines_and_its_calls() -> None:
    assert instructions.inclusive(FILE.splitlines()) == {"admit": 400, "quota": 60}


def test_counts_are_by_item_and_no_function_may_be_missing() -> None:
    told = ['{"function":"admit","items":2}', '{"function":"quota","items":8}']
    assert instructions.per_item({"admit": 400, "quota": 60}, told) == {"admit": 200.0, "quota": 7.5}
    for missing in ({"admit": 400}, {"admit": 400, "quota": 60, "more": 1}):
        with pytest.raises(BenchmarkError, match=r"quota|more"):
            instructions.per_item(missing, told)


@pytest.mark.parametrize(
    ("rustc", "admit", "moved"),
    [
        ("1.95.0", 205.9, []),
        ("1.95.0", 206.1, ["admit"]),
        ("1.95.0", 193.9, ["admit"]),  # what was won is accepted, too
        ("1.96.0", 229.9, []),
        ("1.96.0", 230.1, ["admit"]),
    ],
)
def test_what_moved_is_told(rustc: str, admit: float, moved: list[str]) -> None:
    lines, found = instructions.compare(KNOWN, Counted(rustc, {"admit": admit, "quota": 60.0}))
    assert found == moved
    assert sum(line.endswith("as accepted") for line in lines) == 2 - len(moved)


def test_what_came_and_what_went_moved() -> None:
    assert instructions.compare(KNOWN, Counted("1.95.0", {"admit": 200.0, "new": 1.0}))[1] == ["new", "quota"]


def test_what_is_accepted_is_read_as_it_was_written() -> None:
    tables = {"x86_64": KNOWN, "aarch64": Counted("1.90.0", {"admit": 150.5})}
    assert instructions.accepted(instructions.as_toml(tables)) == tables


def test_every_function_of_the_example_is_accepted(root: Path) -> None:
    accepted = instructions.accepted((root / instructions.ACCEPTED).read_text("utf-8"))
    source = (root / "rust_core" / "examples" / f"{instructions.EXAMPLE}.rs").read_text("utf-8")
    work = source[source.index("mod work {") : source.index("\n}\n", source.index("mod work {"))]
    functions = {line.split("pub fn ")[1].partition("(")[0] for line in work.splitlines() if "pub fn " in line}
    assert work.count("#[inline(never)]") == len(functions)
    assert accepted["x86_64"].per_item.keys() == functions


def test_without_valgrind_it_is_said_how_to_get_it(
    monkeypatch: pytest.MonkeyPatch, root: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.chdir(root)
    assert instructions.main([]) == 2
    assert "apt-get install valgrind" in capsys.readouterr().err


def test_ci_says_why_it_counts_nothing(root: Path, tmp_path: Path) -> None:
    bash = shutil.which("bash")
    assert bash is not None
    script = root / "loadtest" / "benchmarks" / "install_valgrind.sh"
    done = subprocess.run([bash, script], env={"PATH": str(tmp_path)}, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "valgrind is missing, and this is no Debian\n")
