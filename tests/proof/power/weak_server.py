"""`longwave` that takes any server for durable: `python -m tests.proof.power.weak_server serve`.

A bug is planted here: it does not look at how the server flushes.
"""

from engine.stores.mysql import durability
from engine.stores.store import Finding
from server.__main__ import main


def _none(values: dict[str, str]) -> list[Finding]:
    del values
    return []


if __name__ == "__main__":
    durability._flushing = _none
    main()
