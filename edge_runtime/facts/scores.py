"""Results of an evaluation of an encoder: accuracies in [0, 1]."""

from dataclasses import dataclass

from edge_runtime.schema import NonNegativeInt, Positive, PositiveInt, Probability


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The training or the test pictures of an evaluation."""

    source: str
    pictures: NonNegativeInt


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """Shares of correct answers on the test pictures."""

    accuracy: Probability
    untrained_accuracy: Probability  # the same encoder at its initial state


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnResult(ProbeResult):
    """Result of nearest neighbours, with the classifier's settings."""

    neighbours: PositiveInt
    temperature: Positive


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResults:
    """What was evaluated, on which pictures, and the accuracies."""

    package: str  # its digest
    train: Pictures
    test: Pictures
    classes: PositiveInt
    knn: KnnResult
    linear: ProbeResult | None  # None: not requested
