"""The registry's version in the store: raised by every write, in its transaction, and looked at at least every 2 s.

It caches nothing.
"""

from typing import Final

import sqlalchemy as sa

from engine.registry.tables import FACTS

NAME: Final = "registry_version"
# For the look every 2 s over a plain reader's connection.
VERSION_SQL: Final = "SELECT value FROM facts WHERE name = 'registry_version'"


def read_version(control: sa.Connection) -> int:
    """The version now."""
    return int(control.execute(sa.select(FACTS.c.value).where(FACTS.c.name == NAME)).scalar_one())


def raise_version(control: sa.Connection) -> None:
    """Raise it by one; call in the transaction of every write to a control-plane table."""
    control.execute(sa.update(FACTS).where(FACTS.c.name == NAME).values(value=FACTS.c.value + 1))
