"""Proves promises broken: the invariants of the corridor, checked over what a run with crashes left behind.

It starts nothing and repairs nothing. The rules are in `checker/`, a file for each group of invariants. Each takes the
evidence and yields what it found; a rule that finds nothing in a history broken on purpose is a defect
(`test_crash_checker.py` and `test_checker_strictness.py` break them; `tests/proof/planted` plants bugs in the engine).

Times of client, engine and carrier are of one machine's wall clock, so they can be compared; where the engine's was set
wrong, `Promises.clock_error_us` says by how much.

What each invariant is decided from (client: lines of its log; a rule whose lines are missing decides nothing):

- I1   client handed_in, acked, opt_out_acked; rows, bodies, opt-outs, numbers; settings of the writing connection
- I2   states after healing (`Promises.all_final`), validity of rows; consent events, client cancel_asked and
       campaign_stopped
- I3   client acked; rows and request ids by tenant
- I4   client reused, refused, handed_in
- I5   client handed_in, refused; rows; the carrier's record
- I6   the engine's history, starts and their times in the event log, epochs of rows, the carrier's record
- I7   the carrier's record, UNKNOWN and later failures in the event log, policies
- I8   the engine's history within client life lines; epochs of rows in the log's order; outcomes of each attempt
- I9   event log, each state against the one told before it, by the design's table (`checker/terms.py`)
- I10  event log, validity of rows, consent events, the carrier's record, client frozen
- I11  client opt_out_acked; opt-outs, consent events in their order and starts
- I12  quotas against starts in the event log and the carrier's record; daily limits against starts and ledgers
- I13  event log in its order, ordering keys of rows; client handed_in and acked
- I14  event log; client watched (what a subscriber got, over reconnects)
- I15  event log against rows, their timelines, codes and times; texts and the log of consent against their events
- I16  the carrier's record against final states; ids of stored texts
- I17  event log against the carrier's record; client webhook_probe
- I18  client foreign_asked; tenants of rows, campaigns, numbers, events, texts and consent
- I19  segments of rows against the carrier's count; daily ledgers against the starts in the event log
- I20  client faulted (from, to) against the event log
- I21  client sample (RSS, descriptors and tasks of the process)
- I22  numbers of handsets, pieces of texts and keys looked for in logs, history and metrics
- I23  not here: it takes two versions of the engine
- I24  client drained, life; UNKNOWN in the event log; what the carrier answered
"""

from typing import Final

from tests.corridor.checker import accepting, limits, running, sending, stopping, telling
from tests.corridor.checker.terms import (
    DISPATCHING,
    FORGED_CODE,
    TERMINAL_MIN,
    UNKNOWN,
    Promises,
    Rule,
    Violation,
    state_name,
)
from tests.corridor.crash_evidence import Evidence

__all__ = [
    "DISPATCHING",
    "FORGED_CODE",
    "RULES",
    "TERMINAL_MIN",
    "UNKNOWN",
    "Promises",
    "Violation",
    "check",
    "state_name",
]

RULES: Final[tuple[Rule, ...]] = (
    *accepting.RULES,
    *sending.RULES,
    *stopping.RULES,
    *limits.RULES,
    *telling.RULES,
    *running.RULES,
)


def check(evidence: Evidence, promises: Promises) -> list[Violation]:
    """Every violation found, by invariant."""
    found = [violation for rule in RULES for violation in rule(evidence, promises)]
    return sorted(found)
