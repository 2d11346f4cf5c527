"""A package of one environment trains in another one with the same losses.

`EDGE_TRAIN_TEST_PACKAGES` names the folder that `python tests/handed_over.py` has written.
"""

from pathlib import Path

import pytest
from handed_over import (
    CHOOSING,
    DEVICE,
    VARIABLE,
    first_losses,
    handed_over,
    noted_losses,
)

# Processors refuse half precision
PACKAGES = [p for p in handed_over() if DEVICE != "cpu" or not p.name.endswith("fp16")]


@pytest.mark.skipif(not PACKAGES, reason=f"{VARIABLE} is not set")
@pytest.mark.parametrize("path", PACKAGES, ids=lambda path: path.name)
def test_losses_are_those_of_the_exporting_environment(path: Path) -> None:
    here, expected = first_losses(path), noted_losses(path)
    assert here.keys() == expected.keys()
    for rung, losses in here.items():
        # Other versions add up in another order, and every step builds on the one before.
        # Of a loss near 0 it is the terms, cosines, that are rounded.
        allowed = tolerance(path.name)
        assert losses == pytest.approx(expected[rung], rel=allowed, abs=allowed), rung


def tolerance(package: str) -> float:
    """Of a loss. Float16 rounds by 5e-4 at most, and a loss is a mean.

    Where that tips over a policy's choice, another token is kept, of nearly the same score.
    """
    if package.endswith("fp16"):
        return 3e-2 if any(policy in package for policy in CHOOSING) else 1e-3
    return 1e-4
