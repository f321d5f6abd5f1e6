"""No statement of the corridor reads a table from end to end: what it costs must not grow with the store."""

import re
from pathlib import Path

import pytest

from engine.stores import sql, sqlite
from engine.stores.connection import Connection, open_writer
from engine.stores.migrate import migrate

# Read once, at start, and their tables are small or needed whole: opt-outs, carriers, ledgers, kept receipts.
AT_START = {
    "SELECT_ALL_OPT_OUTS",
    "SELECT_BARRIERS_OPEN",
    "SELECT_CAMPAIGN_KEYS",
    "SELECT_CARRIERS",
    "SELECT_LEDGERS",
    "SETTLE_LEDGERS",
    "COUNT_EARLY",
}
STATEMENTS = sorted(
    name for name, value in vars(sql).items() if name.isupper() and not name.startswith("_") and isinstance(value, str)
)


@pytest.fixture
def store(tmp_path: Path) -> Connection:
    connection = open_writer(tmp_path / "plans.db")
    migrate(connection, tmp_path / "plans.db", now_us=1)
    return connection


@pytest.mark.parametrize("name", [name for name in STATEMENTS if name not in AT_START])
def test_statement_never_scans_a_table(store: Connection, name: str) -> None:
    look_at_plan(store, getattr(sql, name).replace("{filters}", "").replace("{of}", ""))


@pytest.mark.parametrize("name", [name for name in STATEMENTS if "VALUES (?" in getattr(sql, name)])
@pytest.mark.parametrize("rows", [2, sqlite.ROWS_AT_ONCE])
def test_statement_over_many_rows_never_scans_a_table(store: Connection, name: str, rows: int) -> None:
    statement = getattr(sql, name)
    wide = sqlite._with_rows(statement, rows)
    row = re.findall(r"VALUES \(([^)]*)\)", statement)[0]
    assert wide.count("?") == statement.count("?") + row.count("?") * (rows - 1)
    look_at_plan(store, wide)


@pytest.mark.parametrize(("name", "common"), [("UPDATE_INTENT", 4), ("UPDATE_MESSAGE", 0)])
def test_update_of_few_rows_never_scans_a_table(store: Connection, name: str, common: int) -> None:
    alone = sqlite._row_by_row(getattr(sql, name), common)
    assert "VALUES" not in alone
    assert "column" not in alone
    look_at_plan(store, alone)


def look_at_plan(store: Connection, statement: str) -> None:
    numbered = [int(number) for number in re.findall(r"\?(\d+)", statement)]
    count = max(numbered, default=0) + len(re.findall(r"\?(?!\d)", statement))
    values = ["[]" if f"json_each(?{place})" in statement else 1 for place in range(1, count + 1)]
    plan = [row[3] for row in store.execute("EXPLAIN QUERY PLAN " + statement, values).fetchall()]
    # Retention looks at the oldest rows of a table in its own order and stops after its LIMIT.
    bounded = "ORDER BY position LIMIT" in statement
    # Its own VALUES a statement reads from end to end; a single row of them stands in a table of its own.
    own = {f"SCAN {name}" for name in ("asked", "changed") if f"MATERIALIZE {name}" in plan}
    # What a subquery gives is read once; the steps that find it are judged beside.
    own |= {f"SCAN {step.removeprefix('CO-ROUTINE ')}" for step in plan if step.startswith("CO-ROUTINE ")}
    scans = [
        step
        for step in plan
        if step.startswith("SCAN")
        and step not in own
        and not re.search("VIRTUAL TABLE|CONSTANT ROW|VALUES CLAUSE", step)
        and not bounded
    ]
    assert scans == [], plan


def test_statements_at_start_exist() -> None:
    assert set(STATEMENTS) >= AT_START
