"""Two versions of longwave on one machine: this checkout, and copies of it that know revisions beyond.

A copy is a folder with `engine` and `server` as they are and revisions that a test made; commands and engines run in
processes of their own, in that folder. It asserts nothing.
"""

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.stores.mysql import migrate, promises

ROOT: Final = Path(__file__).parents[2]
VERSIONS: Final = "engine/stores/mysql/migrations/versions"
HEAD: Final = migrate.revisions()[-1]
EXPAND: Final = f"{int(HEAD.name) + 1:04d}"
CONTRACT: Final = f"{int(HEAD.name) + 2:04d}"
_HEADING: Final = '''"""Made by a test."""
from alembic import op
from engine.stores.mysql.migrations import steps
revision, down_revision, compatible_from = "{revision}", "{down}", "{since}"
branch_labels = depends_on = None

def upgrade() -> None:
'''
# A nullable column with an index, one with a default, a table, and rows.
_TAGS: Final = "message BIGINT UNSIGNED NOT NULL, tag VARBINARY(64) NOT NULL, PRIMARY KEY (message, tag)"
_EXPANDING: Final = (
    f'steps.add_table("tags", "{_TAGS}")',
    'steps.add_column("bodies", "priority", "TINYINT UNSIGNED NULL DEFAULT 3")',
    'steps.add_column("early_receipts", "region", "VARCHAR(32) NOT NULL DEFAULT \'us-east-1\'")',
    'steps.add_index("bodies", "bodies_priority", "priority, id")',
    "op.execute(\"INSERT INTO tags (message, tag) VALUES (0, 'none') ON DUPLICATE KEY UPDATE tag = tag\")",
)
EXPANDING_STEPS: Final = len(_EXPANDING)
_EXPANDED: Final = (
    "column\tearly_receipts\tregion\tvarchar(32) NOT NULL",
    "column\tbodies\tpriority\ttinyint unsigned NULL",
    "column\ttags\tmessage\tbigint unsigned NOT NULL",
    "column\ttags\ttag\tvarbinary(64) NOT NULL",
    "index\tbodies\tbodies_priority\tINDEX (priority, id)",
    "index\ttags\tPRIMARY\tUNIQUE (message, tag)",
    "table\ttags",
)
_CONTRACTING: Final = (
    'steps.drop_index("bodies", "bodies_priority")',
    'steps.drop_column("early_receipts", "region")',
    'steps.drop_table("tags")',
)
_GONE: Final = re.compile("(index\tbodies\tbodies_priority|column\tearly_receipts\tregion|\\w+\ttags)(\t|$)")


@dataclass(frozen=True, slots=True)
class Binary:
    """One version."""

    folder: Path

    def command(self, *arguments: str) -> list[str]:
        """As a shell would call it."""
        return [sys.executable, "-m", "server", *arguments]

    def serve(self) -> tuple[str, ...]:
        """`longwave serve`, wherever it is started."""
        path = f"import sys; sys.path.insert(0, {os.fspath(self.folder)!r}); sys.argv = ['longwave', 'serve']"
        return (sys.executable, "-c", f"{path}\nfrom server.__main__ import main\nmain()")

    def environment(self, settings: Mapping[str, str]) -> dict[str, str]:
        """With these settings and none of the machine's."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("LONGWAVE_")}
        inherited["PYTHONPATH"] = os.fspath(ROOT / "proto")
        return inherited | {f"LONGWAVE_{name.upper()}": value for name, value in settings.items()}

    def start(self, settings: Mapping[str, str], *arguments: str, prelude: str = "") -> subprocess.Popen[str]:
        """Start a command; `prelude` is run in its process first."""
        command = self.command(*arguments)
        if prelude:
            call = f"import sys; sys.argv = ['longwave', *{list(arguments)!r}]\n"
            command = [sys.executable, "-c", f"{prelude}\n{call}from server.__main__ import main\nmain()"]
        return subprocess.Popen(
            command, cwd=self.folder, env=self.environment(settings), text=True,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def run(self, settings: Mapping[str, str], *arguments: str, prelude: str = "") -> tuple[int, str]:
        """Run a command to its end; its exit code and all that it said."""
        process = self.start(settings, *arguments, prelude=prelude)
        out, said = process.communicate(timeout=120)
        return process.returncode, out + said


OLD: Final = Binary(ROOT)


def newer(folder: Path, *, contract: bool = False, breaks: str = "") -> Binary:
    """A copy that knows `EXPAND`, with `contract` also `CONTRACT`; `breaks` is one more step of `EXPAND`."""
    for name in ("engine", "server"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    lines = set(promises.read(HEAD.promises)) | set(_EXPANDED)
    _write(folder, EXPAND, HEAD.name, HEAD.compatible_from, (*_EXPANDING, *filter(None, [breaks])), lines)
    if contract:
        kept = {line for line in lines if not _GONE.match(line)}
        _write(folder, CONTRACT, EXPAND, CONTRACT, _CONTRACTING, kept)
    return Binary(folder)


def _write(folder: Path, revision: str, down: str, since: str, steps: tuple[str, ...], lines: set[str]) -> None:
    path = folder / VERSIONS / f"v{revision}_by_a_test.py"
    body = "".join(f"    {step}\n" for step in steps)
    path.write_text(_HEADING.format(revision=revision, down=down, since=since) + body, encoding="utf-8")
    path.with_suffix(".tsv").write_text(promises.text_of(lines), encoding="utf-8")
