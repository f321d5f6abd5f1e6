"""Readers of option values: enumerations, durations, times.

A value that is none is refused with the choices, before anything is called.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import typer
from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from server.cli import names

Value = TypeVar("Value")


def one_of(kind: EnumDescriptor) -> Callable[[str], int]:
    """A reader of one of the enumeration's values."""
    return reader(lambda text: names.enum_number(kind, text))


def choices(kind: EnumDescriptor) -> str:
    """The values, for the help."""
    return "|".join(names.enum_choices(kind))


def reader(read: Callable[[str], Value]) -> Callable[[str], Value]:
    """What an option's parser is made of: a ValueError becomes the refusal of that option, in its own words."""

    def parse(text: Any) -> Any:
        if not isinstance(text, str):
            return text  # an option's default comes here too, and is a value already
        try:
            return read(text)
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    return parse


read_timestamp: Callable[[str], Timestamp] = reader(names.timestamp)
read_duration: Callable[[str], Duration] = reader(names.duration)
