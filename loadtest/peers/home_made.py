"""The home-made pipeline, run: uvicorn, Celery with two worker processes, a Redis and a MariaDB of its own.

It measures nothing. Redis appends every write to a file that is synced every second; MariaDB syncs at every commit, its
binary log too. The pipeline's packages are in an environment of their own.
"""

import subprocess
from pathlib import Path
from typing import Final

import orjson

from loadtest.benchmarks.children import BenchmarkError, Process, clean_environment, start
from loadtest.benchmarks.submissions import recipient, text
from loadtest.peers.http_load import OverHttp
from loadtest.peers.process_tree import kill_trees
from loadtest.peers.system import HOST, wait_listening
from loadtest.ports import free_ports
from tests.servers.mariadb import PASSWORD, USER, MariaDB
from tests.servers.redis_server import RedisServer

ENVIRONMENT: Final = Path(".tools/peers")
WORKERS: Final = 2
ACCEPTED: Final = 202
DATABASE: Final = "pipeline"
TABLE_S_MAX: Final = 60.0
# An hour by default, which is when what a killed worker had comes back; short here, so that one sees it come.
VISIBILITY_S: Final = 10
PACKAGES: Final = ("fastapi", "uvicorn", "celery", "redis", "sqlalchemy", "requests")


def program(name: str) -> str:
    """A program of the pipeline's environment. Raises BenchmarkError when it was not made."""
    path = ENVIRONMENT.resolve() / "bin" / name
    if not path.exists():
        raise BenchmarkError(f"{ENVIRONMENT} is missing: make peers makes it")
    return str(path)


def versions() -> dict[str, str]:
    """Of the pipeline's packages."""
    script = f"from importlib.metadata import version\nfor name in {PACKAGES!r}: print(name, version(name))"
    done = subprocess.run(  # noqa: S603 - an interpreter of ours
        [program("python"), "-c", script], capture_output=True, text=True, timeout=TABLE_S_MAX, check=True
    )
    return dict(line.split() for line in done.stdout.splitlines())


class HomeMade(OverHttp):
    """All four parts over one folder."""

    def __init__(self, folder: Path, sink_url: str, *, in_flight: int) -> None:
        """Take ports; nothing is started."""
        self._folder = folder.resolve()
        self._in_flight = in_flight
        [self._port] = free_ports(1)
        self._database = MariaDB(self._folder / "mariadb")
        (self._folder / "redis").mkdir()
        self._broker = RedisServer(self._folder / "redis", "--appendonly", "yes", "--appendfsync", "everysec")
        self._processes: list[Process] = []
        self._is_made = False
        self._environment = clean_environment(
            {
                "PYTHONPATH": str(Path.cwd()),
                "PIPELINE_DATABASE": (
                    f"mysql+pymysql://{USER}:{PASSWORD}@{HOST}:{self._database.port}/{DATABASE}?charset=utf8mb4"
                ),
                "PIPELINE_BROKER": f"{self._broker.url}/0",
                "PIPELINE_SINK": sink_url,
                "PIPELINE_VISIBILITY_S": str(VISIBILITY_S),
            }
        )

    def start(self) -> None:
        """Servers, workers, then the API."""
        self._database.start()
        self._broker.start()
        if not self._is_made:
            self._make_table()
        worker = [
            program("celery"), "--app", "loadtest.peers.pipeline.work", "worker", "--pool", "prefork", "--concurrency",
            str(WORKERS), "--loglevel", "WARNING",
        ]  # fmt: skip
        api = [
            program("uvicorn"), "loadtest.peers.pipeline.app:app", "--host", HOST, "--port", str(self._port),
            "--log-level", "warning", "--no-access-log",
        ]  # fmt: skip
        self._processes.append(start(worker, self._environment, self._folder / "celery.log"))
        log = self._folder / "uvicorn.log"
        self._processes.append(start(api, self._environment, log))
        wait_listening(self._processes[-1], self._port, log)

    def _make_table(self) -> None:
        self._database.create_database(DATABASE)
        done = subprocess.run(  # noqa: S603 - an interpreter and a module of ours
            [program("python"), "-m", "loadtest.peers.pipeline.make_table"],
            env=self._environment, capture_output=True, text=True, timeout=TABLE_S_MAX, check=False,
        )  # fmt: skip
        if done.returncode:
            raise BenchmarkError(f"the pipeline's table was not made: {done.stderr.strip()}")
        self._is_made = True

    def kill(self) -> None:
        """The API, the workers, Redis and MariaDB at once."""
        kill_trees(self.roots)
        self._wait_ended()

    def _wait_ended(self) -> None:
        for process in self._processes:
            process.wait()
        self._processes = []
        self._broker.kill()
        self._database.kill()

    def close(self) -> None:
        """As hard: its data goes too."""
        kill_trees([process.pid for process in self._processes])
        self._wait_ended()
        self._database.remove()

    @property
    def roots(self) -> list[int]:
        """All four."""
        return [*self.queue_roots, self._database.pid]

    @property
    def queue_roots(self) -> list[int]:
        """Without MariaDB, whose memory is a pool of a size that was set."""
        if not self._processes:
            raise RuntimeError("the pipeline does not run")
        return [*(process.pid for process in self._processes), self._broker.pid]

    def request(self, place: int) -> bytes:
        """See `OverHttp`."""
        body = orjson.dumps({"recipient": recipient(place), "text": text(place)})
        head = (
            f"POST /messages HTTP/1.1\r\nHost: {HOST}:{self._port}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def is_accepted(self, status: int, body: bytes) -> bool:
        """Whether an answer says that the message was accepted."""
        return status == ACCEPTED and body.startswith(b'{"id":')
