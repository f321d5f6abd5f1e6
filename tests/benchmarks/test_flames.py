"""Where processor time goes: stacks are read, told apart by stage, and drawn as wide as they are long."""

import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path

import pytest

from loadtest.benchmarks.children import BenchmarkError
from loadtest.flames import components, sampling
from loadtest.flames.drawing import HEAD, ROW, WIDTH, drawn
from loadtest.flames.stacks import OTHER, Stack, by_stage, innermost, read, stage_of

SVG = "{http://www.w3.org/2000/svg}"


def test_stacks_are_read_from_the_outermost_frame_on() -> None:
    assert read("a (x.py);b c (y.py) 3\nd 1\n") == [Stack(("a (x.py)", "b c (y.py)"), 3), Stack(("d",), 1)]
    with pytest.raises(ValueError, match="no collapsed stack"):
        read("nothing")


@pytest.mark.parametrize(
    ("frames", "stage"),
    [
        (("run (asyncio/base_events.py)", "_receive (engine/record.py)"), "record"),
        (("_receive (engine/record.py)", "run (engine/stores/writer.py)"), "store"),
        (("run (engine/stores/writer.py)", "sqlite3VdbeExec (_sqlite3.so)", "pwrite64 (libc.so.6)"), "store"),
        (("serve (server/cli/serve.py)", "run (asyncio/runners.py)", "epoll_wait (libc.so.6)"), OTHER),
        (("main", "epoll_wait (libc.so.6)"), OTHER),
        ((), OTHER),
    ],
)
def test_a_stack_is_of_the_stage_of_its_innermost_known_frame(frames: tuple[str, ...], stage: str) -> None:
    assert stage_of(frames) == stage


def test_stages_and_functions_are_counted_in_samples() -> None:
    stacks = [Stack(("x", "_flush (engine/append.py)"), 5), Stack(("x",), 2), Stack(("y", "x"), 1)]
    assert by_stage(stacks) == {"append": 5, OTHER: 3}
    assert innermost(stacks, 1) == [("_flush (engine/append.py)", 5)]
    assert innermost(stacks, 2)[1] == ("x", 3)


def test_a_frame_is_as_wide_as_its_samples_and_below_its_caller() -> None:
    root = ET.fromstring(drawn([Stack(("a", "b"), 3), Stack(("a", "<c>"), 1)], "made up"))  # noqa: S314 - our own
    boxes = {
        box.findtext(f"{SVG}title"): rect
        for box in root.iter(f"{SVG}g")
        if (rect := box.find(f"{SVG}rect")) is not None
    }
    assert set(boxes) == {"a: 100.0%", "b: 75.0%", "<c>: 25.0%"}
    widths = {name: float(box.get("width", "")) for name, box in boxes.items()}
    assert widths == {"a: 100.0%": WIDTH, "b: 75.0%": WIDTH * 0.75, "<c>: 25.0%": WIDTH * 0.25}
    assert boxes["b: 75.0%"].get("y") == f"{HEAD + ROW:.0f}"
    assert float(boxes["b: 75.0%"].get("x", "")) == WIDTH * 0.25


def test_without_samples_there_is_an_empty_drawing() -> None:
    assert "0 samples" in drawn([], "nothing ran")


@pytest.fixture
def spinning() -> Iterator[int]:
    """A process that does nothing else; where only its parents may look into it, it lets anybody."""
    script = "import ctypes\nctypes.CDLL(None).prctl(0x59616D61, -1, 0, 0, 0)\ndef spin():\n while True: pass\nspin()"
    process = subprocess.Popen([sys.executable, "-c", script])
    yield process.pid
    process.kill()
    process.wait()


def test_a_process_that_runs_is_sampled(spinning: int, tmp_path: Path) -> None:
    with sampling.by_python(spinning, tmp_path) as recording:
        time.sleep(1.5)
    assert any("spin" in frame for stack in read(recording.text) for frame in stack.frames)


def test_a_process_that_is_gone_is_said_to_be(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    with pytest.raises(BenchmarkError, match="recorded nothing"), sampling.by_python(gone.pid, tmp_path):
        time.sleep(0.5)


def test_without_a_tool_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchmarkError, match="apt-get install linux-perf"):
        sampling.check_tools()


PERF = """ 4954
\tffffffff81 fdatasync ([kernel.kallsyms])
\tffffffff82 __x64_sys_fdatasync ([kernel.kallsyms])
\t    7f00 fdatasync (/usr/lib/x86_64-linux-gnu/libc.so.6)

 4955
\t      12 _ZN12ed25519_dalek12verify_batch17h0E (/x/engine/_core.cpython-311-x86_64-linux-gnu.so)

 4955
\t      13 h2::proto::streams (inlined) (/x/engine/_core.cpython-311-x86_64-linux-gnu.so)

 4955
\t      14 [unknown] ([unknown])

 4955
\tffffffff81 asm_sysvec ([kernel.kallsyms])
"""


def test_what_perf_saw_is_told_apart() -> None:
    samples = components.read(PERF)
    assert [sample.thread for sample in samples] == [4954, 4955, 4955, 4955, 4955]
    assert components.by_component(samples) == {
        "kernel: files": 1,
        "core: signatures": 1,
        "core: HTTP/2 and framing": 1,
        components.OTHER: 1,
        components.KERNEL_OTHER: 1,
    }
    assert components.by_thread(samples) == {"busiest thread": 4, "second": 1, components.OTHER_THREADS: 0}
