"""Telnyx as tables: what is asked of it to the byte, and what each of its answers does to a message.

The tables are Telnyx's; the runner is `provider_cases.py`, for the next provider too. Webhooks are in
`test_telnyx_webhooks.py`. Source of codes: `rust_core/data/telnyx_errors.tsv`; of the rules: the outcome table.
"""

import json
import socket
from pathlib import Path
from typing import Any, Final

import pytest

from engine import _core
from engine.registry.days import DEFAULT_TIME_ZONE, day_of
from engine.registry.records import OnUnknown
from longwave.v1 import messaging_pb2 as pb
from tests.conformance.canned_provider import Answer, CannedProvider
from tests.conformance.conftest import StartEngine
from tests.conformance.provider_cases import BASE_S, SETTINGS, Came, Case, differences, run_cases
from tests.corridor.engine_fixture import API_KEY, SENDER, US, Engine, recipient, submission

TABLE: Final = Path(__file__).resolve().parents[2] / "rust_core" / "data" / "telnyx_errors.tsv"
CODES: Final = [line.split("\t")[::2] for line in TABLE.read_text().splitlines()[1:]]


def refusal(status: int, code: str, headers: bytes = b"") -> Answer:
    """An error in Telnyx's form."""
    return Answer.of(status, json.dumps({"errors": [{"code": code, "title": "made up"}]}).encode(), headers)


def ok(**more: Any) -> Answer:
    """Taken."""
    data = {"id": "provider-id", "to": [{"status": "queued", "carrier": "Verizon"}], "parts": 1} | more
    return Answer.of(200, json.dumps({"data": data}).encode())


def backoff_s(exponent: int, base_s: float = BASE_S) -> tuple[float, float]:
    """Full jitter, from a tenth of the span on; a tenth of it may be added to spread a batch."""
    span_s = min(base_s * 2**exponent, SETTINGS["backoff_cap_s"])
    return span_s / 10, span_s * 1.1


OK: Final = ok()
RETRY_429: Final = b"retry-after: 20\r\n"
UNKNOWN_WAIT: Final = (600.0, 600.0)
TAKEN: Final = "SUBMITTED PROVIDER_TOOK"

# By HTTP status and phase, with no code or one that the status outranks.
ANSWERS: Final = [
    Case("200 with an id", (OK,), (TAKEN,), (1800, 1800)),
    Case("202 with an id", (Answer.of(202, b'{"data":{"id":"x"}}'),), (TAKEN,)),
    Case("200 without id", (ok(id=""),), ("UNKNOWN SILENCE no-id",), UNKNOWN_WAIT),
    Case("200 with a null id", (ok(id=None),), ("UNKNOWN SILENCE no-id",)),
    Case("200 with an id of 101 characters", (ok(id="x" * 101),), ("UNKNOWN SILENCE no-id",)),
    Case("200 with a line break in its id", (ok(id="a\nb"),), ("UNKNOWN SILENCE no-id",)),
    Case("200 without data", (Answer.of(200, b"{}"),), ("UNKNOWN SILENCE no-id",)),
    Case("200 that is no JSON", (Answer.of(200, b"<html>fine</html>"),), ("UNKNOWN SILENCE no-id",)),
    Case("200 that is no UTF-8", (Answer.of(200, b'{"data":{"id":"\xff\xfe"}}'),), ("UNKNOWN SILENCE no-id",)),
    Case("200 that is empty", (Answer.of(200),), ("UNKNOWN SILENCE no-id",)),
    Case("200 with JSON nested too deep", (Answer.of(200, b"[" * 5000),), ("UNKNOWN SILENCE no-id",)),
    Case("204", (Answer(b"HTTP/1.1 204 X\r\n\r\n"),), ("UNKNOWN SILENCE no-id",)),
    Case("301", (Answer.of(301, b"", b"location: http://127.0.0.1:1/\r\n"),), ("UNKNOWN SILENCE http-301",)),
    Case("307", (Answer.of(307, b"", b"location: http://127.0.0.1:1/\r\n"),), ("UNKNOWN SILENCE http-307",)),
    Case("400 without code", (Answer.of(400),), ("FAILED PROVIDER_REFUSED http-400",)),
    Case("400 with a code that is no number", (refusal(400, "x; drop"),), ("FAILED PROVIDER_REFUSED http-400",)),
    Case("400 with a code we do not know", (refusal(400, "99999"),), ("FAILED PROVIDER_REFUSED 99999",)),
    Case("401 without code", (Answer.of(401),), ("QUEUED NOT_CONNECTED http-401",), backoff_s(1, 10 * BASE_S)),
    Case("402 without code", (Answer.of(402),), ("QUEUED NOT_CONNECTED http-402",)),
    Case("403 without code", (Answer.of(403),), ("QUEUED NOT_CONNECTED http-403",)),
    Case("404 without code", (Answer.of(404),), ("FAILED PROVIDER_REFUSED http-404",)),
    Case("408", (refusal(408, "10008"),), ("UNKNOWN SILENCE http-408",), UNKNOWN_WAIT),
    Case("409", (refusal(409, "10012"),), ("UNKNOWN SILENCE http-409",)),
    Case("422 at the first try", (refusal(422, "40310"),), ("FAILED PROVIDER_REFUSED 40310",)),
    Case("429 with Retry-After", (refusal(429, "10011", RETRY_429),), ("QUEUED THROTTLED 10011",), (20, 22)),
    Case("429 without Retry-After", (refusal(429, "10011"),), ("QUEUED THROTTLED 10011",), backoff_s(1)),
    Case("429 without code", (Answer.of(429, b"", RETRY_429),), ("QUEUED THROTTLED http-429",), (20, 22)),
    Case("429 of a final code", (refusal(429, "40310"),), ("QUEUED THROTTLED 40310",)),
    Case("429 of the spend limit", (refusal(429, "40333", RETRY_429),), ("QUEUED CAP_REACHED 40333",)),
    *(
        Case(f"{status}", (refusal(status, "10007"),), (f"UNKNOWN SILENCE http-{status}",), UNKNOWN_WAIT)
        for status in (500, 501, 502, 503, 504, 599)
    ),
    Case("reset instead of an answer", (Answer(b"", "reset"),), ("UNKNOWN SILENCE reset",), UNKNOWN_WAIT),
    Case("end of stream instead of an answer", (Answer(b"", "close"),), ("UNKNOWN SILENCE reset",)),
    Case("reset inside the head", (Answer(OK.raw[:20], "reset"),), ("UNKNOWN SILENCE reset",)),
    Case("end of stream inside the body", (Answer(OK.raw[:-5], "close"),), ("UNKNOWN SILENCE reset",)),
    Case("no HTTP", (Answer(b"220 mail.example ESMTP\r\n\r\n", "close"),), ("UNKNOWN SILENCE malformed",)),
    Case("a length that is no number", (Answer(b"HTTP/1.1 200 X\r\ncontent-length: ten\r\n\r\n", "close"),),
         ("UNKNOWN SILENCE malformed",)),
    Case("a body without end", (Answer(b"HTTP/1.1 200 X\r\ncontent-length: 9999999999\r\n\r\n" + b"x" * 2_000_000,
         "close"),), ("UNKNOWN SILENCE malformed",)),
    Case("silence", (Answer(b"", "silence"),), ("UNKNOWN SILENCE timeout",), UNKNOWN_WAIT),
    Case("silence inside the answer", (Answer(OK.raw[:-5], "silence"),), ("UNKNOWN SILENCE timeout",)),
]  # fmt: skip

# What a code of each class does when it comes with status 400.
BY_CLASS: Final[dict[str, tuple[str, tuple[float, float] | None]]] = {
    "final": ("FAILED PROVIDER_REFUSED", None),
    "opted_out": ("FAILED PROVIDER_REFUSED", None),
    "retry": ("QUEUED RETRY", backoff_s(1)),
    "hold": ("QUEUED RETRY", (1800 + backoff_s(1)[0], 1800 + backoff_s(1)[1])),
    "rate": ("QUEUED THROTTLED", backoff_s(1)),
    "auth": ("QUEUED NOT_CONNECTED", backoff_s(1, 10 * BASE_S)),
    "cap_minute": ("QUEUED CAP_REACHED", (60, 66)),
    "cap_day": ("QUEUED CAP_REACHED", None),
    "cap_spend": ("QUEUED CAP_REACHED", None),
}
EVERY_CODE: Final = [
    Case(
        code, (refusal(400, code),), (f"{BY_CLASS[kind][0]} {code}",), BY_CLASS[kind][1], opted_out=kind == "opted_out"
    )
    for code, kind in CODES
]

RESENT: Final = ("UNKNOWN SILENCE http-503", "QUEUED RESEND")
# More than one attempt, the provider being one that honours keys.
SEQUENCES: Final = [
    Case("503, then taken", (refusal(503, "10037"), OK), (*RESENT, TAKEN)),
    Case("503, then 422: the key was used, nobody knows for what", (refusal(503, "10037"), refusal(422, "10027"), OK),
         (*RESENT, "UNKNOWN SILENCE 10027", "QUEUED RESEND", TAKEN)),
    Case("503, then 409: the first is still being handled", (refusal(503, "10037"), refusal(409, "10012"), OK),
         (*RESENT, "UNKNOWN SILENCE http-409", "QUEUED RESEND", TAKEN)),
    Case("503, then refused: only the copy was", (refusal(503, "10037"), refusal(400, "40310")),
         (*RESENT, "UNKNOWN PROVIDER_REFUSED 40310", "UNRESOLVED NO_EVIDENCE")),
    Case("503, then refused as opted out", (refusal(503, "10037"), refusal(400, "40300")),
         (*RESENT, "UNKNOWN PROVIDER_REFUSED 40300", "UNRESOLVED NO_EVIDENCE"), opted_out=True),
    Case("429 twice, then taken", (refusal(429, "10011", RETRY_429), refusal(429, "10011", RETRY_429), OK),
         ("QUEUED THROTTLED 10011", "QUEUED THROTTLED 10011", TAKEN)),
    Case("refused for now until attempts are used up", (refusal(400, "40006"),),
         (*["QUEUED RETRY 40006"] * 2, "FAILED ATTEMPTS_USED_UP 40006")),
    Case("too fast does not count as an attempt", (*[refusal(429, "10011")] * 4, OK),
         (*["QUEUED THROTTLED 10011"] * 4, TAKEN)),
    Case("the account does not count as an attempt", (*[refusal(401, "10009")] * 4, OK),
         (*["QUEUED NOT_CONNECTED 10009"] * 4, TAKEN)),
]  # fmt: skip


async def test_every_answer(start_engine: StartEngine, canned_telnyx: CannedProvider) -> None:
    engine = await start_engine(canned_telnyx.url + "/v2", **SETTINGS)
    came = await run_cases(engine, canned_telnyx, ANSWERS)
    assert differences(ANSWERS, came) == {}
    await assert_resets(engine, came["429 of the spend limit"], "UTC")


async def test_every_code(start_engine: StartEngine, canned_telnyx: CannedProvider) -> None:
    assert {kind for _, kind in CODES} == set(BY_CLASS)
    engine = await start_engine(canned_telnyx.url + "/v2", **SETTINGS)
    came = await run_cases(engine, canned_telnyx, EVERY_CODE)
    assert differences(EVERY_CODE, came) == {}
    for code, kind in CODES:
        if kind == "cap_day":
            await assert_resets(engine, came[code], DEFAULT_TIME_ZONE)
        if kind == "cap_spend":
            await assert_resets(engine, came[code], "UTC")


async def assert_resets(engine: Engine, came: Came, zone: str) -> None:
    """Due when the day of the zone ends, spread over a tenth of what is left of it."""
    now_us = engine.clock.now_us()
    left_s = (day_of(zone, now_us)[1] - now_us) / US
    assert left_s - 60 <= came.due_s <= left_s * 1.1 + 60


async def test_sequences(start_engine: StartEngine, canned_telnyx: CannedProvider) -> None:
    settings = {**SETTINGS, "telnyx_honours_keys": True, "attempts_max": 3}
    engine = await start_engine(canned_telnyx.url + "/v2", **settings)
    came = await run_cases(engine, canned_telnyx, SEQUENCES)
    assert differences(SEQUENCES, came) == {}
    for case in SEQUENCES:
        requests = came[case.name].requests
        assert len({request.body for request in requests}) == 1, case.name
        assert len({request.headers["idempotency-key"] for request in requests}) == 1, case.name


async def test_a_provider_that_cannot_be_reached(start_engine: StartEngine) -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        engine = await start_engine(f"http://127.0.0.1:{closed.getsockname()[1]}/v2", **SETTINGS)
        [identity] = await engine.submit(submission())

        async def refused() -> bool:
            return len(await engine.timeline(identity)) >= 3

        await engine.until(refused)
    assert (await engine.timeline(identity))[:3] == ["QUEUED ACCEPTED", "DISPATCHING ATTEMPT", "QUEUED NOT_CONNECTED"]
    assert await engine.rows("SELECT counted, flags FROM messages") == [(0, 0)]


MEDIA: Final = ["https://media.example/a.png", "https://media.example/b.png?x=1&y=2"]


@pytest.mark.parametrize(
    ("fields", "members"),
    [
        ({"text": "hello"}, '"text":"hello","type":"SMS","encoding":"gsm7"'),
        ({"text": "[€] @ \u0394"}, '"text":"[€] @ \u0394","type":"SMS","encoding":"gsm7"'),
        ({"text": 'a "b" \\ \n\t'}, '"text":"a \\"b\\" \\\\ \\n\\t","type":"SMS","encoding":"ucs2"'),
        ({"text": "снег 🌨"}, '"text":"снег 🌨","type":"SMS","encoding":"ucs2"'),
        ({"text": "“quoted”"}, '"text":"“quoted”","type":"SMS","encoding":"ucs2"'),
        ({"text": "“quoted”", "smart_encoding": True}, '"text":"\\"quoted\\"","type":"SMS","encoding":"gsm7"'),
        (
            {"text": "see", "subject": "Pictures", "media_urls": MEDIA},
            f'"text":"see","subject":"Pictures","media_urls":["{MEDIA[0]}","{MEDIA[1]}"],"type":"MMS","encoding":"gsm7"',
        ),
        ({"text": "", "media_urls": MEDIA[:1]}, f'"media_urls":["{MEDIA[0]}"],"type":"MMS","encoding":"gsm7"'),
        (
            {"text": "ж", "media_urls": MEDIA[:1]},
            f'"text":"ж","media_urls":["{MEDIA[0]}"],"type":"MMS","encoding":"ucs2"',
        ),
    ],
    ids=["gsm7", "extension table", "escapes", "ucs2", "nothing replaced", "smart", "mms", "mms bare", "mms ucs2"],
)
@pytest.mark.parametrize("profile", ["", "40017f1a-0000-4000-8000-000000000000"], ids=["no profile", "profile"])
async def test_the_request_to_the_byte(
    start_engine: StartEngine, canned_telnyx: CannedProvider, fields: dict[str, Any], members: str, profile: str
) -> None:
    engine = await start_engine(canned_telnyx.url + "/v2", sample=False, **SETTINGS)
    await engine.make_sample(profile=profile)
    [identity] = await engine.submit(submission(7, **fields))
    await engine.until_state(identity, "SUBMITTED")
    [request] = canned_telnyx.got[recipient(7)]
    callback = f"http://127.0.0.1:{engine.edge_port}/webhooks/telnyx?{engine.callback_query(identity, 1)}"
    profile_member = f',"messaging_profile_id":"{profile}"' if profile else ""
    expected = f'{{"from":"+{SENDER}","to":"{recipient(7)}",{members}{profile_member},"webhook_url":"{callback}"}}'
    assert request.body.decode() == expected
    assert request.request_line == "POST /v2/messages HTTP/1.1"
    assert request.headers == {
        "host": canned_telnyx.url.removeprefix("http://"),
        "authorization": f"Bearer {API_KEY}",
        "content-type": "application/json",
        "idempotency-key": f"{_core.short_id(identity)}:1",
        "content-length": str(len(request.body)),
    }
    assert (await engine.message(identity)).encoding == (pb.ENCODING_UCS2 if '"ucs2"' in members else pb.ENCODING_GSM7)


async def test_a_policy_of_resending_marks_the_copy(start_engine: StartEngine, canned_telnyx: CannedProvider) -> None:
    cases = [
        Case("resend", (refusal(503, "10037"), OK), (*RESENT, TAKEN), on_unknown=OnUnknown.RESEND),
        Case("unresolved", (refusal(503, "10037"), OK), (RESENT[0], "UNRESOLVED NO_EVIDENCE")),
        Case("critical by class", (refusal(503, "10037"), OK), (*RESENT, TAKEN), on_unknown=OnUnknown.BY_CLASS,
             fields={"message_class": pb.MESSAGE_CLASS_CRITICAL, "validity": {"seconds": 86_400}}),
        Case("bulk by class", (refusal(503, "10037"), OK), (RESENT[0], "UNRESOLVED NO_EVIDENCE"),
             on_unknown=OnUnknown.BY_CLASS, fields={"message_class": pb.MESSAGE_CLASS_BULK}),
    ]  # fmt: skip
    engine = await start_engine(canned_telnyx.url + "/v2", **SETTINGS)
    came = await run_cases(engine, canned_telnyx, cases)
    assert differences(cases, came) == {}
    marked = {row[0] for row in await engine.rows("SELECT recipient FROM messages WHERE flags & 2")}
    assert marked == {int(recipient(index)) for index in (0, 2)}
