"""Tests that this machine truly cannot run: each is named, with the reason, at the end of the run."""

from typing import Final

import pytest

LEFT_OUT: Final = pytest.StashKey[list[str]]()
