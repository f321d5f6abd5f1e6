"""What the corridor's stages count, in their own words, on top of `metrics.py`.

It keeps no figures itself.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Final

from engine.errors import Verdict
from engine.metrics import Metrics
from engine.traces import Traces

STATE_NAMES: Final = {
    1: "queued",
    2: "dispatching",
    3: "submitted",
    4: "sent",
    5: "unknown",
    16: "delivered",
    17: "undelivered",
    18: "no_receipt",
    19: "unresolved",
    20: "failed",
    21: "cancelled",
    22: "expired",
    23: "blocked",
    24: "dead",
}


class Meter:
    """Counts batches; used on the loop's thread only."""

    def __init__(self, metrics: Metrics, traces: Traces | None = None) -> None:
        """Count into `metrics`."""
        self.metrics = metrics
        self.traces = traces
        """None unless traces are on."""
        self._tenants: dict[int, str] = {}  # campaign key -> the tenant's id

    def set_tenants(self, tenants: Mapping[int, str], campaigns: Iterable[tuple[int, int]]) -> None:
        """Whose campaigns are whose: ids of tenants by key, (campaign, tenant) by key."""
        self._tenants = {campaign: tenants[tenant] for campaign, tenant in campaigns}

    def stage(self, name: str, messages: int, seconds: float, trace: str | None = None) -> None:
        """One pass of a stage over a batch; `trace` names one of a message in it."""
        if messages:
            self.metrics.stages[name].record(seconds, messages, trace)

    def admitted(self, counts: Sequence[tuple[int, int, int]], campaign_id: Callable[[int], str | None]) -> None:
        """Verdicts by campaign key."""
        for campaign, verdict, messages in counts:
            self.metrics.count_verdict(Verdict(verdict).name, messages)
            if verdict == Verdict.ACCEPTED:
                self.metrics.count_processed("outbound", "accepted", campaign_id(campaign) or "none", messages)
            if tenant := self._tenants.get(campaign):
                status = "accepted" if verdict == Verdict.ACCEPTED else "refused"
                self.metrics.count_tenant(tenant, status, messages)

    def shed(self, verdict: Verdict, messages: int) -> None:
        """A call of about so many messages that was refused unjudged."""
        self.metrics.count_verdict(verdict.name, messages)

    def settled(
        self, counts: Sequence[tuple[int, int, int]], conflicts: int, campaign_id: Callable[[int], str | None]
    ) -> None:
        """States entered by campaign key, and receipts that contradicted."""
        for campaign, state, messages in counts:
            self.metrics.count_processed("outbound", STATE_NAMES[state], campaign_id(campaign) or "none", messages)
            if tenant := self._tenants.get(campaign):
                self.metrics.count_tenant(tenant, STATE_NAMES[state], messages)
        if conflicts:
            self.metrics.count_processed("outbound", "conflict", "none", conflicts)

    def parked(self, kinds: Sequence[str]) -> None:
        """Holds because a provider reported a limit, by kind."""
        for kind in kinds:
            self.metrics.quota_parks.labels(kind).inc()

    def forged(self, provider: str, webhooks: int) -> None:
        """Webhooks that the provider signed and whose callback URL is not ours: they change nothing."""
        if webhooks:
            self.metrics.receipts.labels(provider, "wrong_mac").inc(webhooks)

    def inbound(self, messages: int) -> None:
        """Texts from handsets."""
        if messages:
            self.metrics.count_processed("inbound", "received", "none", messages)

    def attempts(self, provider: str, counts: Sequence[tuple[str, int]]) -> None:
        """Outcomes of attempts."""
        for outcome, attempts in counts:
            self.metrics.count_attempts(provider, outcome, attempts)
            if outcome == "unknown":
                self.metrics.unknown_attempts.inc(attempts)
