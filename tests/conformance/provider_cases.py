"""One runner for tables of provider cases: submission → request expected, canned answers → what becomes of the message.

It knows no provider: a table brings its answers, expectations and the way to read its requests.

Invariants: every case has a campaign, a number and a recipient of its own, so that what one answer holds back holds
back no other case; retries lie far enough ahead that only a jump of the clock brings them about.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import sqlalchemy as sa

from engine.registry import campaigns, tenants
from engine.registry.records import OnUnknown
from tests.conformance.canned_provider import Answer, CannedProvider, Got
from tests.corridor.engine_fixture import US, Engine, recipient, state_name, submission, transition

# Far apart from the second it takes to run a table: a tenth of the first back-off is 60 s.
SETTINGS: Final[Mapping[str, Any]] = {
    "backoff_base_ms": 300_000,
    "backoff_cap_s": 3600,
    "breaker_attempts_min": 1_000_000,
    "reconcile_wait_s": 600,
    "send_s": 15,
}
BASE_S: Final = 300
SEND_S: Final = 15


@dataclass(frozen=True)
class Case:
    """What the provider answers, attempt by attempt, and every transition from the first outcome on."""

    name: str
    answers: tuple[Answer, ...]
    expected: tuple[str, ...]
    """`STATE REASON code`, each."""
    due_s: tuple[float, float] | None = None
    """When the message is due after its last transition; None: not looked at."""
    opted_out: bool = False
    on_unknown: OnUnknown = OnUnknown.UNRESOLVED
    fields: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Came:
    """What came of a case."""

    transitions: tuple[str, ...]
    due_s: float
    opted_out: bool
    requests: list[Got]

    def differs_from(self, case: Case) -> str:
        """How; empty when it does not."""
        if self.transitions != case.expected:
            return f"{self.transitions} instead of {case.expected}"
        if case.due_s is not None and not case.due_s[0] <= self.due_s <= case.due_s[1]:
            return f"due after {self.due_s} s instead of {case.due_s}"
        if self.opted_out != case.opted_out:
            return f"opted out: {self.opted_out}"
        return ""


async def run_cases(engine: Engine, provider: CannedProvider, cases: Sequence[Case]) -> dict[str, Came]:
    """Run all cases at once on an engine started with SETTINGS; what came of each, by name."""
    await _register(engine, cases)
    for index, case in enumerate(cases):
        provider.scripts[recipient(index)] = list(case.answers)
    ids = await engine.submit(
        *(
            submission(index, **{"campaign": f"campaigns/case-{index}", **case.fields})
            for index, case in enumerate(cases)
        )
    )

    async def at_rest() -> bool:
        """Nothing is due, and no attempt is open but those that are never answered; seen in one look."""
        look = "SELECT sum(state IN (1, 5) AND due_us <= ?), sum(state = 2) FROM messages"
        return await engine.rows(look, engine.clock.now_us()) == [(0, provider.silent)]

    async def all_ended() -> bool:
        return "DISPATCHING" not in await engine.states()

    rounds = max(len(case.expected) for case in cases)
    for _ in range(rounds):
        await engine.until(at_rest)
        if provider.silent:
            await engine.pass_time(SEND_S + 1)
            await engine.until(all_ended)
        if rounds > 1:
            await engine.pass_time(SETTINGS["backoff_cap_s"] + 1)
    await engine.until(at_rest)
    rows = await engine.rows(
        "SELECT id, (due_us - updated_us) / 1e6, EXISTS (SELECT 1 FROM opt_outs AS o WHERE o.recipient = m.recipient) "
        "FROM messages AS m"
    )
    found = {row[0]: (row[1], bool(row[2])) for row in rows}
    return {
        case.name: Came(
            tuple(
                transition(event)
                for event in (await engine.view(identity)).timeline
                if event.seq > 1 and state_name(event.state) != "DISPATCHING"
            )[: len(case.expected)],
            *found[identity],
            provider.got.get(recipient(index), []),
        )
        for index, (case, identity) in enumerate(zip(cases, ids, strict=True))
    }


async def _register(engine: Engine, cases: Sequence[Case]) -> None:
    def make(control: sa.Connection) -> None:
        tenant = tenants.find_tenant_of_key(control, engine.tenant_key)
        brand = tenants.list_brands(control, tenant, after="", rows_max=1)[0]
        for index, case in enumerate(cases):
            campaign = campaigns.create_campaign(
                control, tenant, brand, f"case-{index}", tcr_campaign="", use_case="MIXED", on_unknown=case.on_unknown,
                messaging_profile="", now_us=1,
            )  # fmt: skip
            # Senders from the far end of the fictitious numbers: none is a recipient too.
            campaigns.create_number(control, tenant, campaign, int(recipient(40_000 + index)[1:]), now_us=US)

    await engine.corridor.run_control(make)


def differences(cases: Sequence[Case], came: Mapping[str, Came]) -> dict[str, str]:
    """Name → how it differs, for the cases that do."""
    found = {case.name: came[case.name].differs_from(case) for case in cases}
    return {name: difference for name, difference in found.items() if difference}
