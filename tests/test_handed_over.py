"""A package of one environment trains in another one with the same losses.

`EDGE_TRAIN_TEST_PACKAGES` names the folder that `python tests/handed_over.py` has written.
"""

from pathlib import Path

import pytest
from handed_over import VARIABLE, first_losses, handed_over, noted_losses

PACKAGES = handed_over()


@pytest.mark.skipif(not PACKAGES, reason=f"{VARIABLE} is not set")
@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: path.name)
def test_losses_are_those_of_the_exporting_environment(path: Path) -> None:
    here, expected = first_losses(path), noted_losses(path)
    assert here.keys() == expected.keys()
    for rung, losses in here.items():
        # Other versions add up in another order, and every step builds on the one before.
        assert losses == pytest.approx(expected[rung], rel=1e-4)
