"""Reading submissions: formats, what a line may say, bad lines, and request ids that stay."""

import gzip
import io
import json
from pathlib import Path

import pytest

from longwave.v1 import messaging_pb2 as m
from server.cli.failure import CliFailure
from server.cli.send_rows import LINE_BYTES_MAX, Defaults, Row, format_of, open_input, read_rows

DEFAULTS = Defaults("file", {"campaign": "otp", "to": "+12025550100"})


def rows(content: bytes, kind: str = "jsonl", defaults: Defaults = DEFAULTS) -> list[Row]:
    return list(read_rows(io.BytesIO(content), kind, defaults))


def only(content: bytes, kind: str = "jsonl", defaults: Defaults = DEFAULTS) -> m.Submission:
    (row,) = rows(content, kind, defaults)
    assert row.submission is not None, row.problem
    return row.submission


def problem(content: bytes, kind: str = "jsonl", defaults: Defaults = DEFAULTS) -> str:
    (row,) = rows(content, kind, defaults)
    assert row.submission is None
    return row.problem


def test_a_json_line_may_say_everything() -> None:
    line = {
        "campaign": "campaigns/notices",
        "to": "+12025550101",
        "from": "+12025550199",
        "text": "hi 😀",
        "class": "bulk",
        "media": ["https://example.com/a.png"],
        "subject": "s",
        "schedule": "2026-03-01T09:00:00-05:00",
        "validity": "15m",
        "ordering_key": "k",
        "reference": 17,
        "labels": {"a": "b"},
        "smart": True,
        "request_id": "mine",
    }
    made = only(json.dumps(line).encode())
    assert (made.campaign, made.recipient, made.sender) == ("campaigns/notices", "+12025550101", "+12025550199")
    assert (made.text, made.message_class, list(made.media_urls)) == (
        "hi 😀",
        m.MESSAGE_CLASS_BULK,
        ["https://example.com/a.png"],
    )
    assert made.schedule_time.ToJsonString() == "2026-03-01T14:00:00Z"
    assert made.validity.ToSeconds() == 900
    assert (made.subject, made.ordering_key, made.client_reference, dict(made.labels)) == ("s", "k", "17", {"a": "b"})
    assert made.smart_encoding
    assert made.request_id == "mine"


def test_the_contracts_own_field_names_are_taken() -> None:
    line = b'{"recipient":"+12025550101","sender":"+12025550199","text":"x","client_reference":"r","media_urls":["u"]}'
    made = only(line)
    assert (made.recipient, made.sender, made.client_reference) == ("+12025550101", "+12025550199", "r")


def test_a_csv_file_says_the_same() -> None:
    content = (
        "\ufefftext,to,class,media,label.source,labels,smart\r\n"
        '"two\nlines, ""quoted""",+12025550101,critical,http://a http://b,desk,"{""x"":""y""}",yes\r\n'
    ).encode()
    made = only(content, "csv", Defaults("f", {"campaign": "otp"}))
    assert made.text == 'two\nlines, "quoted"'
    assert list(made.media_urls) == ["http://a", "http://b"]
    assert (made.campaign, made.message_class, made.smart_encoding) == ("campaigns/otp", m.MESSAGE_CLASS_CRITICAL, True)
    assert dict(made.labels) == {"source": "desk", "x": "y"}


def test_line_numbers_of_csv_are_the_files() -> None:
    found = rows(b'text\none\n"two\nlines"\nfour\n', "csv")
    assert [(row.line, row.submission.text if row.submission else "") for row in found] == [
        (2, "one"),
        (3, "two\nlines"),
        (5, "four"),
    ]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"nonsense", "not JSON"),
        (b"[1]", "not a JSON object"),
        (b"[" * 100_000, "not"),
        (b'{"text":"\xff"}', "not UTF-8 at byte 10"),
        (rb'{"text":"\ud83d"}', "half of a surrogate pair"),
        (b'{"text":1}', "'text' is not a string"),
        (b'{"txt":"x"}', "did you mean 'text'?"),
        (b'{"text":"x","class":"urgent"}', "'class': 'urgent' is none of critical, transactional, bulk"),
        (b'{"text":"x","schedule":"2026-03-01T09:00:00"}', "with a zone"),
        (b'{"text":"x","validity":"soon"}', "no duration"),
        (b'{"text":"x","media":[1]}', "'media' is not a string"),
        (b'{"text":"x","labels":[]}', "'labels' is not an object"),
        (b'{"text":"x","smart":"perhaps"}', "'smart' is not true or false"),
        (b'{"text":"' + b"x" * LINE_BYTES_MAX + b'"}', "longer than"),
    ],
)
def test_a_bad_line_says_what_is_wrong_and_stops_no_other(line: bytes, says: str) -> None:
    found = rows(b'{"text":"before"}\n' + line + b'\n{"text":"after"}\n')
    assert [row.submission is None for row in found] == [False, True, False]
    assert found[1].line == 2
    assert says in found[1].problem


@pytest.mark.parametrize(
    ("line", "says"),
    [(b"a,b,c", "3 fields, the heading has 2"), (b"\xff,b", "not UTF-8"), (b'"a"b,c', "not CSV")],
)
def test_a_bad_line_of_csv_stops_no_other(line: bytes, says: str) -> None:
    found = rows(b"text,reference\nbefore,1\n" + line + b"\nafter,2\n", "csv")
    assert [row.submission is None for row in found] == [False, True, False]
    assert (found[1].line, found[2].line) == (3, 4)
    assert says in found[1].problem


def test_a_line_without_campaign_or_recipient_says_which_option_helps() -> None:
    assert "--campaign" in problem(b'{"text":"x"}', defaults=Defaults("f", {}))
    assert "--recipients N" in problem(b'{"text":"x"}', defaults=Defaults("f", {"campaign": "c"}))


@pytest.mark.parametrize(
    ("heading", "says"), [(b"", "empty"), (b"text,tox", "did you mean 'to'?"), (b"text,to,recipient", "twice")]
)
def test_a_wrong_heading_refuses_the_file(heading: bytes, says: str) -> None:
    with pytest.raises(CliFailure, match=says.replace("?", r"\?")) as refused:
        rows(heading + b"\n" if heading else b"", "csv")
    assert refused.value.exit_code == 2


def test_recipients_spread_by_line_whatever_lies_between() -> None:
    defaults = Defaults("f", {"campaign": "c"}, recipients=3)
    whole = rows(b'{"text":"a"}\n{"text":"b"}\n{"text":"c"}\n{"text":"d"}\n', defaults=defaults)
    broken = rows(b'{"text":"a"}\nbroken\n{"text":"c"}\n{"text":"d"}\n', defaults=defaults)
    numbers = [row.submission.recipient for row in whole if row.submission]
    assert len(set(numbers)) == 3
    assert numbers[0] == numbers[3]
    assert [row.submission and row.submission.recipient for row in broken] == [numbers[0], None, *numbers[2:]]


def test_a_line_with_a_recipient_keeps_it() -> None:
    assert only(b'{"text":"a","to":"+12025550177"}', defaults=Defaults("f", {"campaign": "c"}, 3)).recipient.endswith(
        "177"
    )


def test_request_ids_stay_with_file_and_line() -> None:
    content = b'{"text":"a"}\n\n{"text":"a"}\n'
    first, again = rows(content), rows(content)
    ids = [row.submission.request_id for row in first if row.submission]
    assert ids == [row.submission.request_id for row in again if row.submission]
    assert [identity.rpartition("-")[2] for identity in ids] == ["1", "3"]
    other = rows(content, defaults=Defaults("other", DEFAULTS.values))
    assert not set(ids) & {row.submission.request_id for row in other if row.submission}
    assert all(identity.isascii() and identity.isprintable() and len(identity) <= 64 for identity in ids)


def test_the_same_name_and_line_in_gzip_has_the_same_id(tmp_path: Path) -> None:
    content = b'{"text":"a"}\n'
    (tmp_path / "a.jsonl").write_bytes(content)
    # Compressed under a name that does not say so: the first bytes do.
    (tmp_path / "b.jsonl").write_bytes(gzip.compress(content))
    read = []
    for name in ("a.jsonl", "b.jsonl"):
        with open_input(str(tmp_path / name), io.BytesIO()) as stream:
            read.append(list(read_rows(stream, "jsonl", DEFAULTS)))
    assert read[0] == read[1]


def test_a_cut_gzip_file_says_so_after_its_lines() -> None:
    lines = b"".join(b'{"text":"%d"}\n' % number for number in range(5_000))
    cut = io.BufferedReader(io.BytesIO(gzip.compress(lines)[:-500]))
    seen: list[Row] = []
    with open_input("-", cut) as stream, pytest.raises(CliFailure, match="cut off"):
        seen.extend(read_rows(stream, "jsonl", DEFAULTS))
    assert seen
    assert all(row.submission is not None for row in seen)


@pytest.mark.parametrize(
    ("name", "kind"), [("a.csv", "csv"), ("a.csv.gz", "csv"), ("a.jsonl.gz", "jsonl"), ("a.JSONL", "jsonl")]
)
def test_the_name_says_the_format(name: str, kind: str) -> None:
    assert format_of(name, "") == kind


def test_a_name_that_says_nothing_asks_for_the_option() -> None:
    with pytest.raises(CliFailure, match="--format csv"):
        format_of("list.txt", "")
    assert format_of("list.txt", "csv") == "csv"


def test_a_missing_file_is_a_sentence() -> None:
    with pytest.raises(CliFailure, match="No such file"):
        open_input("nothing.csv", io.BytesIO()).__enter__()
