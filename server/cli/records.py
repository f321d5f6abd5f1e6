"""Shows records of the registry, one or a whole list of pages, and the options that the groups share.

It knows no record: each group brings its columns.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Final, Protocol, TypeVar

import typer
from google.protobuf.message import Message as ProtoMessage

from server.cli import output
from server.cli.names import resource

Record = TypeVar("Record", bound=ProtoMessage)
PAGE_RECORDS: Final = 1000

TenantOption = Annotated[str, typer.Option("--tenant", metavar="TENANT", help="Whose it is; needed with an admin key.")]


class Page(Protocol):
    """A response of a list call, as far as paging needs it."""

    next_page_token: str


PageResponse = TypeVar("PageResponse", bound=Page)


def tenant_name(text: str) -> str:
    """The tenant's full name; empty stays empty."""
    return resource("tenants", text)


def pages(
    ask: Callable[[str], PageResponse], records_of: Callable[[PageResponse], Sequence[Record]]
) -> Iterator[Record]:
    """All records, page by page; `ask` takes a page token."""
    token = ""
    while True:
        response = ask(token)
        yield from records_of(response)
        token = response.next_page_token
        if not token:
            return


def show(record: Record, columns: Mapping[str, Callable[[Record], str]], *, as_json: bool) -> None:
    """One record."""
    if as_json:
        output.json_line(output.plain(record))
    else:
        output.fields({name: cell(record) for name, cell in columns.items()})


def show_all(
    records: Iterator[Record], columns: Mapping[str, Callable[[Record], str]], what: str, *, as_json: bool
) -> None:
    """A list of records: a table, or one object a line."""
    if as_json:
        for record in records:
            output.json_line(output.plain(record))
        return
    rows = [[cell(record) for cell in columns.values()] for record in records]
    if rows:
        output.table(list(columns), rows)
    else:
        output.say(f"no {what}")
