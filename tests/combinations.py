"""Which methods and token policies are tested together.

Every policy with a method of one branch and with one that has a teacher, and every other
method with one policy: methods see tokens only through the encoder. `make test-matrix` sets
the variable, and every pair is tested.
"""

import os

from edge_export.objectives import OBJECTIVES
from edge_export.policies import POLICIES

VARIABLE = "EDGE_TRAIN_TEST_MATRIX"
WITH_ALL_POLICIES = ("simclr", "mocov3")
WITH_ALL_METHODS = ("random",)

METHODS_AND_POLICIES = [
    (method, policy)
    for method in OBJECTIVES
    for policy in POLICIES
    if os.environ.get(VARIABLE) or method in WITH_ALL_POLICIES or policy in WITH_ALL_METHODS
]
WITHOUT_ARTIFACTS = ("simsiam",)  # of the official API, which cannot stop a gradient
