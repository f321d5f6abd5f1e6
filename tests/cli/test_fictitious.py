"""Made-up recipients: valid by the engine's own rule, all different, nobody's."""

import re

import pytest

from engine.registry.names import NUMBER_FORM
from server.cli.fictitious import AREA_CODES, NUMBERS_MAX, fictitious_number


def test_all_numbers_are_valid_distinct_and_kept_for_fiction() -> None:
    numbers = [fictitious_number(index) for index in range(NUMBERS_MAX)]
    assert len(set(numbers)) == NUMBERS_MAX == len(AREA_CODES) * 100
    assert all(NUMBER_FORM.fullmatch(number) for number in numbers)
    assert all(re.fullmatch(r"\+1\d{3}55501\d\d", number) for number in numbers)


def test_there_are_enough_for_a_real_file() -> None:
    assert NUMBERS_MAX >= 28_000


def test_neighbours_lie_in_different_area_codes() -> None:
    assert len({fictitious_number(index)[2:5] for index in range(len(AREA_CODES))}) == len(AREA_CODES)


@pytest.mark.parametrize("index", [-1, NUMBERS_MAX])
def test_there_are_no_others(index: int) -> None:
    with pytest.raises(ValueError, match="is not 0 to"):
        fictitious_number(index)
