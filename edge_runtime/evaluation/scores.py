"""How good an encoder is: trained against untrained, on the same pictures."""

from dataclasses import dataclass
from typing import NamedTuple

from edge_runtime.data import FrameSource, PictureSource
from edge_runtime.evaluation.features import extract_features, label_mapping, labelled
from edge_runtime.evaluation.knn import knn_accuracy
from edge_runtime.evaluation.linear import linear_accuracy
from edge_runtime.package import Package
from edge_runtime.state import State


class Accuracies(NamedTuple):
    """Shares of right answers on the test pictures, in [0, 1]."""

    accuracy: float
    untrained_accuracy: float  # the same encoder at its initial state


@dataclass(frozen=True, slots=True, kw_only=True)
class Scores:
    """What an evaluation finds."""

    train_pictures: int
    test_pictures: int
    classes: int
    knn: Accuracies
    linear: Accuracies | None  # None: not asked for


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
        state: whose encoder is scored.
        train: pictures that the classifiers learn from.
        test: pictures that they are asked about.
        linear: fit the linear probe too.
        threads: see `extract_features`.

    Raises:
        DataError: no labels, other classes, or more than 5 % of the pictures unreadable.
    """
    train, test = labelled(train), labelled(test)
    mapping = label_mapping(train, test)
    knn, linear_probe = [], []
    for weights in (state, package.initial_state()):
        known = extract_features(package, weights, train, threads=threads)
        asked = extract_features(package, weights, test, threads=threads)
        asked = asked._replace(labels=mapping[asked.labels])
        knn.append(knn_accuracy(*known, *asked))
        if linear:
            linear_probe.append(linear_accuracy(*known, *asked))
    return Scores(
        train_pictures=len(known.labels),
        test_pictures=len(asked.labels),
        classes=len(mapping),
        knn=Accuracies(*knn),
        linear=Accuracies(*linear_probe) if linear else None,
    )
