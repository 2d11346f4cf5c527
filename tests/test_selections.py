"""The comparison of selections that parity tests rely on where two runtimes differ."""

import math

import pytest

torch = pytest.importorskip("torch", reason="policies are torch functions")

from selections import CHOOSERS, SCORES, forced_selection, largest_gap  # noqa: E402
from test_policies import inputs_of, parameters_of, program, rung_of  # noqa: E402

from edge_export.policies import evit  # noqa: E402

ATTENTION = torch.tensor([[1.0, 2.0, 4.0, 8.0], [1.0, 1.0, 1.0, 1.0]])
KEPT = torch.tensor([[2, 3], [0, 1]])
# Keys of targets at angles 0 and 90 degrees, of sources at 30 and 45
ANGLES = torch.tensor([[0.0, 30.0, 90.0, 45.0]]) * math.pi / 180
KEYS = torch.stack([ANGLES.cos(), ANGLES.sin()], dim=2)
MERGED = torch.tensor([[1, 1, 2, 0]])  # the first source goes into the first target
EYE = torch.eye(3)[None]
HALF_LIKE = torch.tensor([[[1.0, 0, 0], [0, 1, 0], [1, 0, 1]]])  # the last: cosine 0.707


@pytest.mark.parametrize(
    ("policy", "arguments", "chosen", "other", "gap"),
    [
        ("evit", (ATTENTION, 2), (KEPT,), (torch.tensor([[1, 3], [2, 3]]),), 2),
        ("tome", (KEYS, 1), (MERGED,), (torch.tensor([[1, 0, 2, 2]]),), 3**0.5 / 2 - 2**-0.5),
        ("tome", (KEYS, 1), (MERGED,), (torch.tensor([[1, 2, 2, 0]]),), 3**0.5 / 2 - 0.5),
        (
            "simprune",
            (HALF_LIKE, EYE, 2, torch.tensor(0.0), True),
            (torch.tensor([[0, 1]]), torch.tensor([[0, 1]])),
            (torch.tensor([[0, 1]]), torch.tensor([[1, 2]])),
            1 - 2**-0.5,
        ),
    ],
)
def test_a_gap_is_the_difference_in_scores(policy, arguments, chosen, other, gap):
    assert largest_gap(policy, (arguments, chosen), chosen) == 0
    assert largest_gap(policy, (arguments, chosen), other) == pytest.approx(gap, abs=1e-6)


def test_every_policy_that_selects_can_be_forced():
    assert CHOOSERS.keys() == SCORES.keys()
    for policy in CHOOSERS:
        bound = program("mocov3", policy)
        inputs = inputs_of(bound, 0.5)
        rung, weights = rung_of(bound, 0.5), parameters_of(bound, inputs)
        with torch.no_grad():
            loss, outputs = rung.loss(weights, inputs)
            given = [index.flip(0) for index in outputs.selected.values()]  # another row's
            with forced_selection(policy, given) as calls:
                other, forced = rung.loss(weights, inputs)
        assert sum(len(chosen) for _, chosen in calls) == len(given) > 0
        assert all(map(torch.equal, forced.selected.values(), given))
        assert other != loss
    assert evit.topk_indices(ATTENTION, 2).tolist() == KEPT.tolist()  # as before
