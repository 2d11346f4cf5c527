"""Scores of an encoder: trained and untrained, on the same pictures."""

from dataclasses import dataclass
from typing import NamedTuple

from edge_runtime.data import FrameSource, PictureSource, require_labels
from edge_runtime.evaluation.features import extract_features, label_mapping
from edge_runtime.evaluation.knn import knn_accuracy
from edge_runtime.evaluation.linear import linear_accuracy
from edge_runtime.package import Package
from edge_runtime.state import State


class Accuracies(NamedTuple):
    """Accuracies on the test pictures, in [0, 1]."""

    accuracy: float
    untrained_accuracy: float  # of the initial state


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """The result of an evaluation."""

    train_pictures: int
    test_pictures: int
    classes: int
    knn: Accuracies
    linear: Accuracies | None  # None: not requested


def evaluate(
    package: Package,
    state: State,
    train: PictureSource | FrameSource,
    test: PictureSource | FrameSource,
    *,
    linear: bool,
    threads: int | None,
) -> Scores:
    """Score the encoder of `state`, and that of the package's initial state.

    Args:
        package: what the state was trained from.
        state: of the encoder.
        train: pictures to fit the classifiers.
        test: pictures to score them.
        linear: also fit a linear probe.
        threads: as of `extract_features`.

    Raises:
        DataError: no labels, other classes, or more than 5 % of the pictures unreadable.
    """
    mapping = label_mapping(require_labels(train), require_labels(test))
    knn, linear_probe = [], []
    for weights in (state, package.initial_state()):
        fitted = extract_features(package, weights, train, threads=threads)
        scored = extract_features(package, weights, test, threads=threads)
        scored = scored._replace(labels=mapping[scored.labels])
        knn.append(knn_accuracy(*fitted, *scored))
        if linear:
            linear_probe.append(linear_accuracy(*fitted, *scored))
    return Scores(
        train_pictures=len(fitted.labels),
        test_pictures=len(scored.labels),
        classes=len(mapping),
        knn=Accuracies(*knn),
        linear=Accuracies(*linear_probe) if linear else None,
    )
