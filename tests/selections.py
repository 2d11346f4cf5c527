"""Selections of token policies: replaced by others, and compared with them. For tests."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from edge_export.policies import evit, ranked, simprune, tome
from edge_runtime.state import Array

Selection = tuple[Tensor, ...]  # the outputs of one choice
Scores = Callable[[Selection], list[Array]]  # those of a selection, row by row
Call = tuple[tuple[Any, ...], Selection]  # arguments of a choice, and what it chose

CHOOSERS = {
    "simprune": (simprune, "select_pairs"),
    "evit": (evit, "topk_indices"),
    "tome": (tome, "matched"),
    "ranked": (ranked, "topk_indices"),
}


@contextmanager
def forced_selection(policy: str, given: Sequence[Tensor]) -> Iterator[list[Call]]:
    """Make a policy select what is given, output by output.

    Yields a list to which each choice adds its arguments, and what it would have chosen.
    """
    module, name = CHOOSERS[policy]
    original, left, calls = getattr(module, name), iter(given), []

    def choose(*arguments: Any) -> Any:
        chosen = original(*arguments)
        several = isinstance(chosen, tuple)
        calls.append((arguments, chosen if several else (chosen,)))
        return tuple(next(left) for _ in chosen) if several else next(left)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, name, choose)
        yield calls


def largest_gap(policy: str, call: Call, found: Selection) -> float:
    """How far apart two selections are in the scores that they were made by."""
    arguments, chosen = call
    scores = SCORES[policy](*arguments)
    gaps = [0.0]
    for of_one, of_other in zip(scores(chosen), scores(found), strict=True):
        gaps.append(float(np.abs(np.sort(of_one) - np.sort(of_other)).sum()))
    return max(gaps)


def _of_pairs(online: Tensor, target: Tensor, *_: Any) -> Scores:
    """The largest cosine of each kept token."""
    u, v = (torch.nn.functional.normalize(x, dim=2) for x in (online, target))
    similarity = u @ v.transpose(1, 2)
    best = similarity.amax(dim=2), similarity.amax(dim=1)
    return lambda sides: [
        row for side, of in zip(sides, best, strict=True) for row in of.gather(1, side).numpy()
    ]


def _of_kept(scores: Tensor, _: int) -> Scores:
    """The score of each kept token."""
    return lambda found: list(scores.gather(1, found[0]).numpy())


def _of_matches(keys: Tensor, count: int) -> Scores:
    """The cosine of each merged source with its target."""
    unit = torch.nn.functional.normalize(keys, dim=2)
    similarity = (unit[:, 1::2] @ unit[:, ::2].transpose(1, 2)).numpy()
    left = similarity.shape[1] - count

    def of_merged(found: Selection) -> list[Array]:
        return [
            np.array([cosines[i, slot - left] for i, slot in enumerate(row) if slot >= left])
            for cosines, row in zip(similarity, found[0][:, 1::2].tolist(), strict=True)
        ]

    return of_merged


SCORES: dict[str, Callable[..., Scores]] = {
    "simprune": _of_pairs,
    "evit": _of_kept,
    "tome": _of_matches,
    "ranked": _of_kept,
}
