"""The core's hand-written protobuf structs have the field numbers of the contract."""

import re
from pathlib import Path

import pytest

from longwave.v1 import messaging_pb2

ROOT = Path(__file__).parents[2]
WIRE = (ROOT / "rust_core/src/wire.rs").read_text(encoding="utf-8")
STRUCTS = {
    match["name"]: match["body"]
    for match in re.finditer(r"pub struct (?P<name>\w+) \{(?P<body>.*?)\n\}", WIRE, re.DOTALL)
}
FIELD = re.compile(r'#\[prost\((?P<kind>[^\]]*?)tag\s*=\s*"(?P<tag>\d+)"[^\]]*\)\]\s*pub (?P<name>\w+):', re.DOTALL)
# Read to find one field of a stored record, or requests taken apart lazily: their structs hold fewer fields.
PARTIAL = {"ClassOnly", "OrderingKeyOnly"}
KNOWN = set(messaging_pb2.DESCRIPTOR.message_types_by_name)


@pytest.mark.parametrize("name", sorted(set(STRUCTS) & KNOWN))
def test_struct_has_the_contracts_numbers(name: str) -> None:
    contract = {field.name: field.number for field in messaging_pb2.DESCRIPTOR.message_types_by_name[name].fields}
    written = {match["name"]: int(match["tag"]) for match in FIELD.finditer(STRUCTS[name])}
    assert written == contract


def test_the_hot_messages_are_compared() -> None:
    assert {"Submission", "SubmitResult", "Event", "Message", "WatchEventsResponse"} <= set(STRUCTS) & KNOWN
