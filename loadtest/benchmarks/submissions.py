"""Makes the messages of a benchmark: fictitious numbers, a text of 80 characters, request ids of their own.

It sends nothing.
"""

from typing import Final

from longwave.v1 import messaging_pb2 as pb

SERVICE: Final = 11
# Exchange 555, lines 0100 to 0199 are set aside for fiction; below 490 the plan bars N11 (services), N9X (expansion)
# and 37X (set aside), which leaves 25,600 recipients.
AREA_CODES: Final = tuple(
    code for code in range(201, 490) if code % 100 != SERVICE and str(code)[1] != "9" and str(code)[:2] != "37"
)
LINES: Final = 100
FIRST_LINE: Final = 100
TEXT_CHARACTERS: Final = 80


def recipient(place: int) -> str:
    """The number of this place; the same again after 25,600."""
    area = AREA_CODES[place // LINES % len(AREA_CODES)]
    return f"+1{area}555{FIRST_LINE + place % LINES:04d}"


def text(place: int) -> str:
    """80 characters, all of GSM-7: one segment."""
    return f"Order {place:08d} is on its way and arrives today between two and four o'clock.".ljust(
        TEXT_CHARACTERS, "!"
    )


def submission(
    campaign: str, prefix: str, place: int, message_class: "pb.MessageClass.ValueType" = pb.MESSAGE_CLASS_TRANSACTIONAL
) -> pb.Submission:
    """One message of a campaign; `prefix` and `place` are its request id."""
    return pb.Submission(
        campaign=f"campaigns/{campaign}",
        recipient=recipient(place),
        text=text(place),
        message_class=message_class,
        request_id=f"{prefix}-{place:08d}",
    )


def batches(campaign: str, prefix: str, messages: int, batch_messages: int) -> list[bytes]:
    """Requests of SubmitMessages, encoded beforehand so that a load generator only sends."""
    return [
        pb.SubmitMessagesRequest(
            submissions=[
                submission(campaign, prefix, place) for place in range(start, min(start + batch_messages, messages))
            ]
        ).SerializeToString()
        for start in range(0, messages, batch_messages)
    ]


def singles(
    campaign: str,
    prefix: str,
    messages: int,
    message_class: "pb.MessageClass.ValueType" = pb.MESSAGE_CLASS_TRANSACTIONAL,
) -> list[bytes]:
    """Requests of SubmitMessage, encoded beforehand."""
    return [
        pb.SubmitMessageRequest(submission=submission(campaign, prefix, place, message_class)).SerializeToString()
        for place in range(messages)
    ]
