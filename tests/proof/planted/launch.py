"""`longwave` with a bug planted: `python -m tests.proof.planted.launch BUG serve` in place of `python -m server serve`.

Only bugs whose plant needs nothing of a scene can be launched.
"""

import sys

import pytest

from server.__main__ import main
from tests.proof.planted.bugs import BUGS

if __name__ == "__main__":
    BUGS[sys.argv.pop(1)].plant(pytest.MonkeyPatch(), None)
    main()
