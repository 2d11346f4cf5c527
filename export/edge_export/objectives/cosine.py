"""Cosines of vectors and what they shall predict, as the losses of several methods."""

from torch import Tensor
from torch.nn.functional import normalize


def both_ways(predicted: Tensor, targets: Tensor) -> Tensor:
    """Sum of the negative cosines of each view's prediction and the other view's target.

    Args:
        predicted: (2, B, P), with gradient.
        targets: (2, B, P), without gradient.
    """
    return negative_cosine(predicted[0], targets[1]) + negative_cosine(
        predicted[1], targets[0]
    )


def negative_cosine(predicted: Tensor, targets: Tensor) -> Tensor:
    """Mean over the batch of -cos (SimSiam, equation 1): (B, P) each.

    BYOL's squared distance of the normalised vectors (equation 2) is 2 + 2 times this.
    """
    return -(normalize(predicted, dim=1) * normalize(targets, dim=1)).sum(dim=1).mean()


def cosine_distance(predicted: Tensor, targets: Tensor) -> Tensor:
    """Mean over views and pictures of 1 - cos: (V, B, D) each, targets without gradient."""
    return 1 + negative_cosine(predicted.flatten(0, 1), targets.flatten(0, 1))
