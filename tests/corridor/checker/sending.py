"""Sending, I6 to I9: intent before bytes, copies are counted, one outcome an attempt, states go as designed."""

from bisect import bisect_right
from collections import defaultdict
from itertools import pairwise
from typing import Final

from longwave.v1 import messaging_pb2 as pb
from tests.corridor.checker.terms import (
    BLOCKED,
    BY_EVIDENCE,
    CANCELLED,
    DEAD,
    DISPATCHING,
    EXPIRED,
    FAILED,
    FAILED_LATER,
    QUEUED,
    SENT,
    SHARDS,
    SUBMITTED,
    TERMINAL_MIN,
    TRANSITIONS,
    UNKNOWN,
    UPGRADES,
    Found,
    Promises,
    Violation,
    resends,
    starts_of,
    state_name,
)
from tests.corridor.crash_evidence import Change, Evidence, Request, short_of


def intent_before_bytes(evidence: Evidence, promises: Promises) -> Found:
    """I6: the n-th request of a message comes after its n-th committed intent, under that intent's epoch."""
    intended: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for note in evidence.notes:
        if note["kind"] == "intended":
            at_us = note.get("right_us", note["at_us"])
            for identity in note["ids"]:
                intended[identity].append((at_us, note["epoch"]))
    for identity, requests in evidence.requests_of.items():
        times = [at_us for at_us, _ in intended.get(identity, ())]
        for number, request in enumerate(requests, 1):
            if bisect_right(times, request.at_us) < number:
                yield Violation(
                    "I6", short_of(identity), f"request {number} reached the carrier before intent {number}"
                )
                break
        # The history is the engine's own word; what it committed says more.
        yield from _stored_before(evidence, promises, identity, requests)
    for identity, notes in intended.items():
        started = len(starts_of(evidence, identity))
        row = evidence.row_of.get(identity)
        if started < len(notes):
            yield Violation("I6", short_of(identity), f"{len(notes)} intents told, {started} in the store")
        elif row is None or row.epoch < notes[-1][1]:
            yield Violation("I6", short_of(identity), f"the store lacks epoch {notes[-1][1]} of its last intent")
        elif started == len(notes) and row.epoch != notes[-1][1]:
            what = f"its last intent was told under epoch {notes[-1][1]}, the store has {row.epoch}"
            yield Violation("I6", short_of(identity), what)


def _stored_before(evidence: Evidence, promises: Promises, identity: int, requests: list[Request]) -> Found:
    starts = starts_of(evidence, identity)
    if len(starts) < len(requests):
        yield Violation("I6", short_of(identity), f"{len(requests)} requests, {len(starts)} intents in the store")
        return
    for generation in sorted({request.generation for request in requests}):
        times = [start.at_us for start in starts if start.generation == generation]
        of_it = [request for request in requests if request.generation == generation]
        for number, request in enumerate(of_it, 1):
            before = sum(at_us - promises.clock_error_us <= request.at_us for at_us in times)
            if before < number:
                what = f"request {number} of generation {generation} came before its intent in the store"
                yield Violation("I6", short_of(identity), what)
                break


def copies_are_counted(evidence: Evidence, promises: Promises) -> Found:
    """I7: copies beyond the first are paid for by attempts of unknown outcome; none where keys or the policy say so.

    Nor may a new key excuse one: whatever its generation, a copy more takes an unknown attempt, or the provider's word
    that the last copy failed.
    """
    for identity, requests in evidence.requests_of.items():
        row = evidence.row_of.get(identity)
        if row is None:
            continue
        changes = evidence.changes_of[identity]
        pays = not promises.honours_keys and resends(evidence, row)
        for generation in {request.generation for request in requests}:
            of_it = [request for request in requests if request.generation == generation]
            taken = sum(request.taken for request in of_it)
            unknown = _unknown(changes, {generation}) if pays else 0
            if taken - 1 > unknown:
                yield Violation("I7", short_of(identity), f"{taken} copies, {unknown} of unknown outcome may be resent")
            if len({request.body_sha256 for request in of_it}) > 1:
                yield Violation("I7", short_of(identity), f"other bytes under the key of generation {generation}")
        taken = sum(request.taken for request in requests)
        unknown = _unknown(changes, {change.generation for change in changes}) if pays else 0
        failed = sum(_failed_later(change) for change in changes)
        if taken - 1 > unknown + failed:
            what = f"{taken} copies under all keys, {unknown} of unknown outcome, {failed} failed at the provider"
            yield Violation("I7", short_of(identity), what)
    for row in evidence.rows:
        changes = evidence.changes_of[row.id]
        yield from _generations(row.id, changes)
        resent = any(change.state == QUEUED and change.reason == pb.REASON_RESEND for change in changes)
        if resent and not promises.honours_keys and not resends(evidence, row):
            yield Violation("I7", short_of(row.id), "sent again after an unknown outcome, against the policy")


def _unknown(changes: list[Change], generations: set[int]) -> int:
    return sum(
        change.state == UNKNOWN and change.previous == DISPATCHING and change.generation in generations
        for change in changes
    )


def _failed_later(change: Change) -> bool:
    """The provider's own word that a copy which it had taken failed, and may be tried again."""
    return change.state == QUEUED and change.previous in {SUBMITTED, SENT, UNKNOWN} and change.reason in FAILED_LATER


def _generations(identity: int, changes: list[Change]) -> Found:
    """A new generation follows only upon the provider's own word that the last one failed."""
    starts = [change for change in changes if change.state == DISPATCHING]
    for before, after in pairwise(starts):
        failed = any(_failed_later(change) for change in changes if before.seq < change.seq < after.seq)
        if after.generation != before.generation and not failed:
            yield Violation("I7", short_of(identity), f"generation {after.generation} without a failure of the last")


def epochs_rise(evidence: Evidence, _promises: Promises) -> Found:
    """I8: no owner of a shard starts an attempt when the next one has it; one outcome for one attempt.

    Where one process at a time has the store, each of its lives has an epoch of its own, higher than any before.
    """
    yield from _epochs_of_owners(evidence)
    if evidence.of_kind("life"):
        yield from _epochs_of_lives(evidence)
    yield from _epochs_of_rows(evidence)
    for identity, changes in evidence.changes_of.items():
        yield from _one_outcome(identity, changes)


def _epochs_of_owners(evidence: Evidence) -> Found:
    """An attempt begun when the shard of its message has another owner is under that one's epoch, or above."""
    owned: dict[int, list[tuple[int, int]]] = defaultdict(list)
    for note in evidence.notes:
        if note["kind"] == "owns":
            for shard in note.get("shards", ()):
                owned[shard].append((note.get("right_us", note["at_us"]), note["epoch"]))
    for shard, takings in owned.items():
        takings.sort()
        for (_, before), (_, after) in pairwise(takings):
            if before >= after:
                yield Violation("I8", f"shard {shard}", f"taken under epoch {after}, after {before}")
    for note in evidence.notes:
        if note["kind"] != "intended":
            continue
        began_us = note.get("right_us", note["at_us"]) - note.get("took_us", 0)
        for identity in note["ids"]:
            row = evidence.row_of.get(identity)
            takings = owned[row.campaign % SHARDS] if row is not None else []
            newest = max((epoch for at_us, epoch in takings if at_us < began_us), default=0)
            if note["epoch"] < newest:
                what = f"begun under epoch {note['epoch']}, when its shard was owned under {newest}"
                yield Violation("I8", short_of(identity), what)


def _epochs_of_lives(evidence: Evidence) -> Found:
    lives = [line["at_us"] for line in evidence.of_kind("life")]
    epochs: dict[int, set[int]] = defaultdict(set)
    for note in evidence.notes:
        if note["kind"] == "intended":
            # It was begun in the life whose epoch it has, and may be told in the next one, by a node that was frozen.
            # A commit after the next one's first is found by the log's order, below.
            began_us = note.get("right_us", note["at_us"]) - note.get("took_us", 0)
            epochs[bisect_right(lives, began_us)].add(note["epoch"])
    for life, seen in sorted(epochs.items()):
        if len(seen) > 1:
            yield Violation("I8", f"life {life}", f"wrote under epochs {sorted(seen)}")
    for (early, before), (late, after) in pairwise(sorted(epochs.items())):
        if max(before) >= min(after):
            yield Violation("I8", f"life {late}", f"epoch {min(after)} is not above {max(before)} of life {early}")


def _epochs_of_rows(evidence: Evidence) -> Found:
    """In the log's order none is under a lower epoch than one of its shard before it, nor under one never given."""
    last = {change.message: change for change in evidence.changes if change.state == DISPATCHING}
    highest: dict[int, int] = defaultdict(int)
    for identity, change in sorted(last.items(), key=lambda item: item[1].position):
        row = evidence.row_of.get(identity)
        if row is None:
            continue
        shard = row.campaign % SHARDS
        if row.epoch < highest[shard]:
            what = f"started under epoch {row.epoch} at position {change.position}, after one under {highest[shard]}"
            yield Violation("I8", short_of(identity), what)
        if evidence.epoch and row.epoch > evidence.epoch:
            yield Violation("I8", short_of(identity), f"epoch {row.epoch}, the store's is {evidence.epoch}")
        highest[shard] = max(highest[shard], row.epoch)


def _one_outcome(identity: int, changes: list[Change]) -> Found:
    """An attempt that was proved not taken gets no second outcome; attempts are numbered one by one."""
    attempts = 0
    may_be_out = False
    for change in changes:
        if change.state == DISPATCHING:
            attempts += 1
            if change.attempt != attempts:
                yield Violation("I8", short_of(identity), f"its attempt {attempts} is numbered {change.attempt}")
                return
        elif change.previous == QUEUED and change.state in BY_EVIDENCE and not may_be_out:
            what = f"{state_name(change.state)} for attempt {attempts}, whose outcome was that it was not taken"
            yield Violation("I8", short_of(identity), what)
        may_be_out = may_be_out or change.state in {UNKNOWN, SUBMITTED, SENT}


def terminal_stays(evidence: Evidence, _promises: Promises) -> Found:
    """I9: states change along the design's table only; a terminal one along the upgrades.

    What was told before counts, not `previous`. While a copy may be out, nothing ends as if none were.
    """
    for identity, changes in evidence.changes_of.items():
        told = 0
        resent = False
        for change in changes:
            for previous in sorted({told, change.previous}):
                if previous >= TERMINAL_MIN and (previous, change.state) not in UPGRADES:
                    what = f"{state_name(previous)} became {state_name(change.state)}"
                    yield Violation("I9", short_of(identity), what)
                elif (previous, change.state) not in TRANSITIONS:
                    before = state_name(previous) if previous else "nothing"
                    yield Violation("I9", short_of(identity), f"{before} became {state_name(change.state)}")
            resent = resent or (change.state == QUEUED and change.reason == pb.REASON_RESEND)
            if resent and change.state in {CANCELLED, EXPIRED, BLOCKED, FAILED, DEAD} and told in {QUEUED, DISPATCHING}:
                yield Violation("I9", short_of(identity), f"{state_name(change.state)}, though a copy may be out")
            told = change.state


RULES: Final = (intent_before_bytes, copies_are_counted, epochs_rise, terminal_stays)
