"""What the users hand in: texts as long and as encoded as people's are, one-time passwords, some that are wrong.

Lengths and the share of UCS-2 are those of 28,000 texts of the NUS SMS Corpus (2015-03-09; Chen and Kan, "Creating a
Live, Public Short Message Service Corpus", 2013): of 19,975 that GSM-7 can say and 8,025 that it cannot. The words are
made up. Recipients are fictitious.
"""

import random
from typing import Final

from loadtest.benchmarks.submissions import recipient
from longwave.v1 import messaging_pb2 as pb

# Characters at every twentieth of the texts, shortest first.
GSM7_LENGTHS: Final = (1, 5, 9, 12, 15, 18, 21, 24, 28, 31, 36, 40, 45, 51, 58, 67, 77, 91, 115, 150, 910)
UCS2_LENGTHS: Final = (1, 3, 4, 5, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15, 16, 18, 21, 24, 29, 39, 268)
UCS2_SHARE: Final = 8_025 / 28_000
# Longer ones are refused for their segments: 10 of GSM-7 or of UCS-2 are the engine's default.
CHARACTERS_MAX: Final = {False: 1500, True: 660}
URGENT_SHARE: Final = 0.1
BULK_SHARE: Final = 0.3
INVALID_SHARE: Final = 0.01
RECIPIENTS: Final = 25_600
NOBODY: Final = "+1"
_WORDS: Final = ("your", "order", "left", "today", "and", "arrives", "tomorrow", "before", "noon", "reply", "STOP")
_SIGNS: Final = "您的订单今天已经发出明天上午送达"


def text(draw: random.Random) -> str:
    """One text."""
    wide = draw.random() < UCS2_SHARE
    lengths = UCS2_LENGTHS if wide else GSM7_LENGTHS
    place = draw.randrange(len(lengths) - 1)
    characters = min(draw.randint(lengths[place], lengths[place + 1]), CHARACTERS_MAX[wide])
    if wide:
        return "".join(draw.choices(_SIGNS, k=characters))
    return " ".join(draw.choices(_WORDS, k=characters // 2 + 1))[:characters].strip() or "k"


def submission(draw: random.Random, campaigns: dict[str, str]) -> pb.Submission:
    """One message of a sender, whose `campaigns` are named by what they are for: urgent, notices, offers."""
    share = draw.random()
    wanted = "urgent" if share < URGENT_SHARE else "offers" if share < URGENT_SHARE + BULK_SHARE else "notices"
    made = pb.Submission(
        campaign=f"campaigns/{campaigns[wanted]}",
        recipient=recipient(draw.randrange(RECIPIENTS)),
        message_class=CLASSES[wanted],
        text=f"{draw.randrange(10**6):06d} is your code." if wanted == "urgent" else text(draw),
    )
    if draw.random() < INVALID_SHARE:
        made.recipient = NOBODY
    return made


CLASSES: Final[dict[str, "pb.MessageClass.ValueType"]] = {
    "urgent": pb.MESSAGE_CLASS_CRITICAL,
    "notices": pb.MESSAGE_CLASS_TRANSACTIONAL,
    "offers": pb.MESSAGE_CLASS_BULK,
}
