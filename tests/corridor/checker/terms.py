"""Words of the checker: states, their transitions, what a violation is, what was promised.

It checks nothing. The transitions are written down here once more, from the design (DESIGN.md, section 4), not taken
from the engine: a fault in the engine's own list is to be seen.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from longwave.v1 import messaging_pb2 as pb
from longwave.v1 import registry_pb2 as registry
from tests.corridor.crash_evidence import US, Change, Evidence, Row

QUEUED: Final = pb.MESSAGE_STATE_QUEUED
DISPATCHING: Final = pb.MESSAGE_STATE_DISPATCHING
SUBMITTED: Final = pb.MESSAGE_STATE_SUBMITTED
SENT: Final = pb.MESSAGE_STATE_SENT
UNKNOWN: Final = pb.MESSAGE_STATE_UNKNOWN
DELIVERED: Final = pb.MESSAGE_STATE_DELIVERED
UNDELIVERED: Final = pb.MESSAGE_STATE_UNDELIVERED
NO_RECEIPT: Final = pb.MESSAGE_STATE_NO_RECEIPT
UNRESOLVED: Final = pb.MESSAGE_STATE_UNRESOLVED
FAILED: Final = pb.MESSAGE_STATE_FAILED
CANCELLED: Final = pb.MESSAGE_STATE_CANCELLED
EXPIRED: Final = pb.MESSAGE_STATE_EXPIRED
BLOCKED: Final = pb.MESSAGE_STATE_BLOCKED
DEAD: Final = pb.MESSAGE_STATE_DEAD
TERMINAL_MIN: Final = 16
UPGRADES: Final = {
    (UNRESOLVED, DELIVERED),
    (UNRESOLVED, UNDELIVERED),
    (NO_RECEIPT, DELIVERED),
    (NO_RECEIPT, UNDELIVERED),
    (UNDELIVERED, DELIVERED),
    (DEAD, QUEUED),
}
# By evidence for a copy before: only of a message that is queued again.
BY_EVIDENCE: Final = {SUBMITTED, SENT, DELIVERED, UNDELIVERED, NO_RECEIPT, UNKNOWN}
TRANSITIONS: Final = UPGRADES | {
    (before, after)
    for before, afters in {
        0: {QUEUED},
        QUEUED: {DISPATCHING, CANCELLED, EXPIRED, BLOCKED, DEAD} | BY_EVIDENCE,
        DISPATCHING: {QUEUED, SUBMITTED, UNKNOWN, FAILED, DEAD},
        SUBMITTED: {SENT, DELIVERED, UNDELIVERED, NO_RECEIPT, QUEUED},
        SENT: {DELIVERED, UNDELIVERED, NO_RECEIPT, QUEUED},
        UNKNOWN: {SUBMITTED, SENT, DELIVERED, UNDELIVERED, NO_RECEIPT, FAILED, QUEUED, UNRESOLVED},
    }.items()
    for after in afters
}
RECOVERED: Final = pb.REASON_RECOVERED
# Why a message is queued again after its provider had it: the provider's own word that this copy failed.
FAILED_LATER: Final = {
    pb.REASON_CAP_REACHED,
    pb.REASON_THROTTLED,
    pb.REASON_RETRY,
    pb.REASON_NOT_CONNECTED,
}
# No carrier says this; a receipt that does was made up by whoever may not be believed.
FORGED_CODE: Final = "66666"
# The carrier stamps a request when it comes to it: bytes that were on their way when the engine was killed may be
# stamped a little after the next engine found that nothing is on its way.
ARRIVAL_GRACE_US: Final = 200_000
DAY_US: Final = 86_400 * US
# A campaign's shard is its key, modulo this.
SHARDS: Final = 64


class Violation(NamedTuple):
    """A promise that was broken."""

    invariant: str
    subject: str
    """Short id of the message, or a number or quota."""
    what: str


@dataclass(frozen=True, slots=True)
class Promises:
    """What was promised in this run beside what the store says."""

    honours_keys: bool = False
    all_final: bool = True
    rss_max_bytes: int = 2 << 30
    descriptors_max: int = 4096
    tasks_max: int = 10_000
    growth_max: float = 2.0
    """So many times what it was in its first half may a process hold in its last quarter."""
    no_receipt_after_us: int = 72 * 3600 * US
    request_ids_kept_us: int = 72 * 3600 * US
    send_max_us: int = 15 * US
    """A whole send, from its intent to its last byte."""
    drain_max_us: int = 60 * US
    """The grace of an orderly stop."""
    clock_error_us: int = 0
    """So wrong may the engine's wall clock have been; client and carrier have the right time."""
    nodes: int = 1
    """Of several, what one that died beside others held of a day's ledger stays so; and one may hear later than another
    of an opt-out."""


Found = Iterator[Violation]
Rule = Callable[[Evidence, Promises], Found]


def state_name(state: int) -> str:
    """The word for a state."""
    return pb.MessageState.Name(pb.MessageState.ValueType(state)).removeprefix("MESSAGE_STATE_")


def resends(evidence: Evidence, row: Row) -> bool:
    """Whether the policy sends again after an unknown outcome."""
    policy = evidence.policies.get(row.campaign, registry.ON_UNKNOWN_UNSPECIFIED)
    if policy == registry.ON_UNKNOWN_UNSPECIFIED:
        return row.message_class == pb.MESSAGE_CLASS_CRITICAL
    return policy == registry.ON_UNKNOWN_RESEND


def was_frozen(evidence: Evidence, from_us: int, to_us: int) -> bool:
    """Whether the process stood still in between: the one way by which bytes may leave late, counted apart."""
    return any(line["from_us"] < to_us and line["to_us"] > from_us for line in evidence.of_kind("frozen"))


def starts_of(evidence: Evidence, identity: int) -> list[Change]:
    """The starts of a message's attempts, as the event log has them."""
    return [change for change in evidence.changes_of.get(identity, ()) if change.state == DISPATCHING]


def starts_to(evidence: Evidence) -> dict[tuple[int, str], list[Change]]:
    """Starts of attempts by tenant and recipient."""
    starts: dict[tuple[int, str], list[Change]] = {}
    for change in evidence.changes:
        row = evidence.row_of.get(change.message)
        if change.state == DISPATCHING and row is not None:
            starts.setdefault((row.tenant, row.recipient), []).append(change)
    return starts


def same_tenant(named: int, tenant: int) -> bool:
    """Whether what names a tenant, or none where there is one only (0), is this tenant's."""
    return tenant in {0, named} or not named
