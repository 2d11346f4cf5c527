"""Results of an evaluation of an encoder: accuracies in [0, 1]."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Pictures:
    """The training or the test pictures of an evaluation."""

    source: str
    pictures: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeResult:
    """Shares of correct answers on the test pictures."""

    accuracy: float
    untrained_accuracy: float  # the same encoder at its initial state


@dataclass(frozen=True, slots=True, kw_only=True)
class KnnResult(ProbeResult):
    """Result of nearest neighbours, with the classifier's settings."""

    neighbours: int
    temperature: float


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationResults:
    """What was evaluated, on which pictures, and the accuracies."""

    package: str  # its digest
    train: Pictures
    test: Pictures
    classes: int
    knn: KnnResult
    linear: ProbeResult | None  # None: not requested
