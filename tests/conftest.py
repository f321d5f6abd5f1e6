"""What holds for every test: an interrupt reaches the processes that a test starts. And the servers that tests share."""

import itertools
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.servers.mariadb import MariaDB


@pytest.fixture(scope="session", autouse=True)
def interrupts() -> None:
    """A shell starts what runs in its background with SIGINT ignored, and children would inherit that."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MariaDB]:
    """A server for the whole run; a test that stops or kills one starts its own."""
    server = MariaDB(tmp_path_factory.mktemp("mariadb") / "server")
    server.start()
    yield server
    server.remove()


_DATABASES = itertools.count(1)


@pytest.fixture
def new_database(mariadb: MariaDB) -> Iterator[Callable[[], str]]:
    """Makes empty databases, which are dropped at the end; the URL of each."""
    made: list[str] = []

    def make() -> str:
        made.append(f"test_{next(_DATABASES)}")
        return mariadb.create_database(made[-1])

    yield make
    for name in made:
        mariadb.drop_database(name)
