"""The writer's groups: what fails is undone alone, and what ends a transaction ends it for all in it."""

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import pytest

from engine.errors import NotReady, StoreUnavailable
from engine.stores.connection import Connection, Reserve, open_writer
from engine.stores.writer import NICENESS, Writer

if TYPE_CHECKING:
    from engine.stores.store import GroupStats

JOBS = 4


class DiskError(Exception):
    """What the driver raises when a write fails."""

    sqlite_errorcode = 10


class FailingSavepoints:
    """A connection on which a savepoint meets a failing disk."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *values: Any) -> Any:
        if statement.startswith("SAVEPOINT"):
            raise DiskError
        return self._connection.execute(statement, *values)


class FailingCommit:
    """A connection whose first COMMIT meets a failing disk."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._failed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def execute(self, statement: str, *values: Any) -> Any:
        if statement == "COMMIT" and not self._failed:
            self._failed = True
            raise DiskError
        return self._connection.execute(statement, *values)


class Scene:
    """A writer over a table of numbers, whose next jobs make one group."""

    def __init__(self, path: Path) -> None:
        self.connection = open_writer(path)
        self.connection.execute("CREATE TABLE numbers (number INTEGER NOT NULL UNIQUE) STRICT")
        self.groups: list[GroupStats] = []
        self.fatal: list[BaseException] = []
        self.writer = Writer(
            self.connection,
            Reserve(path, 0),
            linger_s=0,
            group_weight_max=1000,
            on_fatal=self.fatal.append,
            on_group=self.groups.append,
            on_full=lambda _full: None,
        )

    async def group(self, *jobs: Callable[[Connection], Any]) -> list[Any]:
        """Results or errors of jobs that run in one group."""
        go = threading.Event()
        held = self.writer.submit("control", lambda _connection: go.wait(), alone=True)
        given = [self.writer.submit("append", job) for job in jobs]
        go.set()
        await held
        return await asyncio.gather(*given, return_exceptions=True)

    def numbers(self) -> list[int]:
        """What is stored."""
        return [row[0] for row in self.connection.execute("SELECT number FROM numbers ORDER BY number").fetchall()]


def insert(number: int, *, fails: bool = False) -> Callable[[Connection], int]:
    """A job that stores a number, and one a thousand higher; it may fail after the first."""

    def run(connection: Connection) -> int:
        connection.execute("INSERT INTO numbers (number) VALUES (?)", (number,))
        if fails:
            connection.execute("INSERT INTO numbers (number) VALUES (?)", (number,))
        connection.execute("INSERT INTO numbers (number) VALUES (?)", (number + 1000,))
        return number

    return run


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    scene = Scene(tmp_path / "numbers.db")
    scene.writer.start()
    yield scene
    await scene.writer.close()
    scene.connection.close()


@pytest.mark.parametrize("failing", [{0}, {1}, {JOBS - 1}, {0, 1}, {1, 2}, {0, JOBS - 1}, set(range(JOBS)), set()])
async def test_a_job_that_fails_is_undone_alone(scene: Scene, failing: set[int]) -> None:
    jobs = [insert(number, fails=number in failing) for number in range(JOBS)]
    answers = await scene.group(*jobs)
    good = [number for number in range(JOBS) if number not in failing]
    assert [answer for answer in answers if not isinstance(answer, BaseException)] == good
    assert [number for number, answer in enumerate(answers) if isinstance(answer, BaseException)] == sorted(failing)
    assert scene.numbers() == good + [number + 1000 for number in good]
    assert [group.jobs for group in scene.groups] == [JOBS]
    assert scene.fatal == []


async def test_a_failing_disk_at_a_savepoint_ends_the_group(scene: Scene) -> None:
    scene.writer._connection = cast("Connection", FailingSavepoints(scene.connection))
    answers = await scene.group(insert(1), insert(2))
    assert [type(answer) for answer in answers] == [StoreUnavailable, StoreUnavailable]
    assert scene.numbers() == []
    assert len(scene.fatal) == 1


async def test_nothing_is_committed_behind_a_failed_sync(scene: Scene) -> None:
    scene.writer._connection = cast("Connection", FailingCommit(scene.connection))
    go = threading.Event()
    held = scene.writer.submit("control", lambda _connection: go.wait(), alone=True)
    given = [scene.writer.submit("append", insert(1)), scene.writer.submit("control", insert(2), alone=True)]
    go.set()
    await held
    answers = await asyncio.gather(*given, return_exceptions=True)
    assert [type(answer) for answer in answers] == [StoreUnavailable, NotReady]
    assert scene.numbers() == []
    assert len(scene.fatal) == 1


async def test_the_loop_goes_first_where_both_want_one_processor(scene: Scene) -> None:
    def niceness(_connection: Connection) -> int:
        return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())

    assert await scene.writer.submit("append", niceness) == min(19, niceness(scene.connection) + NICENESS)
