"""The measurements against real processes, with counts so small that only their working is shown."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from loadtest.benchmarks import (
    accept_batches,
    accept_batches_mysql,
    accept_sdk,
    accept_unary,
    delivery,
    delivery_nodes,
    growth_mysql,
    look_ups,
    raw_insert,
    restart,
    urgent,
)
from loadtest.benchmarks.callers import call_all, run_loop
from loadtest.benchmarks.children import HOST, child, clean_environment, module_command
from loadtest.benchmarks.echo_server import METHOD
from loadtest.benchmarks.engine_process import OPEN, engine
from loadtest.benchmarks.figures import Sheet
from loadtest.benchmarks.plan import Plan
from loadtest.benchmarks.submissions import batches, recipient, text
from longwave import contract
from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import verdict_pb2

TINY = Plan(
    runs=1,
    batch_messages=20,
    accept_messages=80,
    unary_calls=64,
    unary_callers=8,
    sdk_submissions=100,
    sdk_callers=20,
    delivery_messages=40,
    urgent_messages=5,
    urgent_every_ms=1,
    backlog_messages=40,
    restart_messages=60,
    lookups=40,
    growth_rows=(1_000, 2_000),
)


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which the empty store is made already."""
    folder = tmp_path_factory.mktemp("benchmarks")
    with engine(folder):
        pass
    return folder


def test_recipients_are_fictitious_and_texts_one_segment() -> None:
    numbers = [recipient(place) for place in range(25_600)]
    assert len(set(numbers)) == len(numbers)
    assert recipient(25_600) == numbers[0]
    assert {number[5:8] for number in numbers} == {"555"}
    assert {int(number[8:]) for number in numbers} == set(range(100, 200))
    assert {len(text(place)) for place in (0, 1, 99_999_999)} == {80}


def test_callers_make_every_call_once_and_check_every_answer(tmp_path: Path) -> None:
    requests = [b"%d" % place for place in range(50)]
    answers: list[bytes] = []
    command = module_command("loadtest.benchmarks.echo_server")
    with child(command, clean_environment({}), tmp_path / "echo.log") as (process, line):
        work = call_all(f"{HOST}:{int(line)}", METHOD, requests, callers=7, check=answers.append)
        run = run_loop(work)
    assert process.returncode == 0
    assert sorted(answers) == sorted(requests)
    assert (run.calls, len(run.latencies_s)) == (50, 50)
    assert 0 < max(run.latencies_s) <= run.elapsed_s


def test_a_refused_submission_is_no_accept() -> None:
    refused = pb.SubmitMessagesResponse(results=[pb.SubmitResult(verdict=verdict_pb2.VERDICT_QUEUE_FULL, detail="why")])
    with pytest.raises(RuntimeError, match="VERDICT_QUEUE_FULL why"):
        accept_batches.check(refused.SerializeToString())


def test_the_raw_insert_writes_what_the_engine_wrote(made: Path, tmp_path: Path) -> None:
    with engine(made) as running:
        requests = batches(OPEN, "raw", 60, 20)
        path = contract.SUBMIT_MESSAGES.path
        work = call_all(
            running.address, path, requests, callers=1, metadata=running.metadata(), check=accept_batches.check
        )
        run_loop(work)
        running.stop()
        kept = Path(shutil.copy(running.store, tmp_path / "kept.db"))
    stored = raw_insert.read(kept)
    assert [len(rows["messages"]) for rows in stored.transactions] == [20, 20, 20]
    assert raw_insert.insert(stored.part(0, 20), stored.part(20, 40), tmp_path / "raw.db") > 0
    again = raw_insert.read(tmp_path / "raw.db")
    assert again == stored
    assert {name: sum(len(rows[name]) for rows in again.transactions) for name in raw_insert.TABLES} == {
        "messages": 60,
        "bodies": 60,
        "request_ids": 60,
        "events": 3,
    }
    with pytest.raises(ValueError, match="not whole transactions"):
        stored.part(0, 30)


@pytest.mark.parametrize(
    ("measure", "ratios", "figures"),
    [
        (accept_batches.measure, 2, 10),
        (accept_batches_mysql.measure, 2, 10),
        (accept_unary.measure, 1, 11),
        (accept_sdk.measure, 0, 3),
        (delivery.measure, 0, 8),
        (delivery_nodes.measure, 1, 13),
        (growth_mysql.measure, 2, 12),
        (look_ups.measure, 0, 16),
        (urgent.measure, 0, 4),
        (restart.measure, 0, 4),
    ],
    ids=[
        "accept_batches",
        "accept_batches_mysql",
        "accept_unary",
        "accept_sdk",
        "delivery",
        "delivery_nodes",
        "growth_mysql",
        "look_ups",
        "urgent",
        "restart",
    ],
)
def test_each_measurement_fills_the_sheet_and_leaves_nothing(
    made: Path, measure: object, ratios: int, figures: int
) -> None:
    assert callable(measure)
    sheet = Sheet()
    measure(replace(TINY, runs=1), made, sheet)
    found = sheet.figures()
    assert len(found) == figures
    assert sum(figure.unit == "ratio" for figure in found) == ratios
    # So few messages may fit into what the allocator had left, and into one tick of processor time: no other is 0.
    assert all(figure.median > 0 for figure in found if figure.unit not in {"bytes", "MiB", "µs/message", "µs/call"})
    assert {path.name for path in made.iterdir() if path.is_dir()} == {"made"}
