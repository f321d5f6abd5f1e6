"""Writes what the newest revision of the MySQL store promises: `python -m tests.servers.promises`, or `make promises`.

A test fails when the file is not what a fresh schema has.
"""

import asyncio

from engine.stores.mysql import promises
from engine.stores.mysql.address import parse
from engine.stores.mysql.migrate import migrate, revisions
from engine.stores.mysql.pool import Limits, Link, connect
from tests.servers.mariadb import PASSWORD, MariaDB, quick_folder


async def found(url: str) -> str:
    """The promises of a database, as the file has them; its schema is made first."""
    address = parse(url, PASSWORD, None)
    await migrate(address, Limits(), "")
    link = Link(await connect(address, Limits()), 60)
    try:
        return promises.text_of(await promises.found(link))
    finally:
        await link.end()


def write() -> None:
    """Write it."""
    with quick_folder() as folder:
        server = MariaDB(folder / "server")
        server.start()
        try:
            revisions()[-1].promises.write_text(asyncio.run(found(server.create_database("fresh"))), encoding="utf-8")
        finally:
            server.remove()


if __name__ == "__main__":
    write()
