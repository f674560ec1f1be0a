"""The state after two steps is what it was when `scripts/regolden.py` wrote it down, on this kind of CPU with these versions."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from states import CASES, kind, known, state_digest

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("case", "devices"),
    [pytest.param(case, 1 + number, marks=[pytest.mark.ci] if number < 2 else []) for number, case in enumerate(CASES)],
)
def test_the_state_after_two_steps_has_the_bits_that_were_written_down(case, devices):
    """On another number of devices for each case: none of them may change a bit."""
    digests = known().get(kind())
    if digests is None:
        pytest.skip(f"no digests for {kind()}: `python scripts/regolden.py` on a commit that is trusted adds them")
    assert state_digest(case, devices=devices) == digests[case]
