"""What a process of a run has handed in, and a fair sample of what was accepted, to be looked up at the end."""

import random
from dataclasses import dataclass, field
from typing import Any, Final

SAMPLE_MAX: Final = 2_000


@dataclass(slots=True)
class Tally:
    """Counts since the run began."""

    handed_in: int = 0
    accepted: int = 0
    refused_rightly: int = 0
    sample: list[tuple[int, str]] = field(default_factory=list)
    """Sender's place and `messages/{message}`: each accepted one is in it with the same chance."""

    def answered(self, sender: int, *, name: str, wrong: bool) -> bool:
        """Note the answer to one submission, accepted as `name` or refused; whether it is what it must be."""
        self.handed_in += 1
        if not name:
            self.refused_rightly += wrong
            return wrong
        self.accepted += 1
        if len(self.sample) < SAMPLE_MAX:
            self.sample.append((sender, name))
        else:
            place = random.randrange(self.accepted)
            if place < SAMPLE_MAX:
                self.sample[place] = (sender, name)
        return not wrong

    def failed(self, messages: int) -> None:
        """Note messages that no answer came for."""
        self.handed_in += messages

    def shown(self) -> dict[str, Any]:
        """For another process."""
        return {
            "handed_in": self.handed_in, "accepted": self.accepted, "refused_rightly": self.refused_rightly,
            "sample": self.sample,
        }  # fmt: skip


def together(parts: list[dict[str, Any]]) -> Tally:
    """Of all processes."""
    return Tally(
        handed_in=sum(part["handed_in"] for part in parts),
        accepted=sum(part["accepted"] for part in parts),
        refused_rightly=sum(part["refused_rightly"] for part in parts),
        sample=[(sender, name) for part in parts for sender, name in part["sample"]],
    )
