"""Which methods and token policies are tested together.

Every policy with a method of one branch and with one that has a teacher, and every other
method with one policy: methods see tokens only through the encoder. Which of them exclude each
other, the recipe's checks say. `make test-matrix` sets the variable, and every pair is tested.
"""

import os

from edge_export.objectives import OBJECTIVES
from edge_export.policies import POLICIES
from edge_export.recipe import make_recipe
from edge_runtime.errors import ConfigError

VARIABLE = "EDGE_TRAIN_TEST_MATRIX"
WITH_ALL_POLICIES = ("simclr", "mocov3")
WITH_ALL_METHODS = ("random",)
RATIOS = (1.0, 0.5)
MODEL = {"image_size": 16, "patch_size": 4, "depth": 3, "width": 48, "heads": 2}


def keep_ratios(method: str, policy: str) -> list[float]:
    """Those of `RATIOS` that method and policy allow; none if they exclude each other."""
    return [ratio for ratio in RATIOS if _is_allowed(method, policy, ratio)]


def _is_allowed(method: str, policy: str, keep_ratio: float) -> bool:
    table = {
        "model": MODEL,
        "method": {"name": method},
        "tokens": {"name": policy},
        "keep_ratios": [keep_ratio],
    }
    try:
        make_recipe(table, where="combination")
    except ConfigError:
        return False
    return True


METHODS_AND_POLICIES = [
    (method, policy)
    for method in OBJECTIVES
    for policy in POLICIES
    if keep_ratios(method, policy)
    and (os.environ.get(VARIABLE) or method in WITH_ALL_POLICIES or policy in WITH_ALL_METHODS)
]
# Methods that also train on all tokens
METHODS_ON_ALL_TOKENS = [method for method in OBJECTIVES if keep_ratios(method, "none")]
WITHOUT_ARTIFACTS = ("simsiam",)  # of the official API, which cannot stop a gradient
