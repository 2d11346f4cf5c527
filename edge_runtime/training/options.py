"""What a run trains: options checked against the package and the pictures."""

import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edge_runtime.data import FrameSource, PictureSource, steps_per_epoch
from edge_runtime.engines.base import Engine
from edge_runtime.errors import ConfigError
from edge_runtime.facts import Budget, CostProfile
from edge_runtime.package import Package
from edge_runtime.records import Settings
from edge_runtime.training.metering import Metering

_UNLIMITED = Budget()


def _never() -> bool:
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingOptions:
    """What the caller of `train` decides."""

    engine: Engine  # not opened yet; `train` opens and closes it
    epochs: int
    # (first step, rung id), ascending, from step 1; None: `profile` and `budget` decide
    rungs: Sequence[tuple[int, str]] | None = None
    profile: CostProfile | None = None  # of the rungs that may be taken
    budget: Budget = _UNLIMITED
    metering: Metering | None = None  # entered and left by its owner; None: no joules
    images_per_epoch: int | None = None  # None: all of the source
    seed: int = 0
    threads: int | None = None  # that decode pictures; None: half the processors, 1 to 4
    resume: bool = False
    checkpoint_every_s: float = 300.0
    stop: Callable[[], bool] = _never  # asked between two steps
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


@dataclass(frozen=True, slots=True)
class Job:
    """Options with everything that follows from them."""

    package: Package
    source: PictureSource | FrameSource
    options: TrainingOptions
    steps_per_epoch: int
    total_steps: int

    def epoch_of(self, step: int) -> int:
        """The epoch of a step, from 0; as long as the options say, not as the source is."""
        return (step - 1) // self.steps_per_epoch

    def settings(self) -> Settings:
        """What a resumed run must have in common with its beginning."""
        return Settings(
            package_digest=self.package.digest,
            pictures_digest=_pictures_digest(self.source),
            seed=self.options.seed,
            batch_size=self.package.manifest.batch_size,
            epochs=self.options.epochs,
            images_per_epoch=self.options.images_per_epoch,
            rungs=None if self.options.rungs is None else tuple(self.options.rungs),
        )


def plan_job(
    package: Package, source: PictureSource | FrameSource, options: TrainingOptions
) -> Job:
    """Check options.

    Raises:
        ConfigError: epochs or rungs make no sense, or the package has no such rung.
        DataError: there are fewer pictures than one batch takes.
    """
    if options.epochs < 1:
        raise ConfigError(f"epochs is {options.epochs}; train 1 or more.")
    _check_rungs(package, options)
    per_epoch = steps_per_epoch(
        source, package.manifest.batch_size, images=options.images_per_epoch
    )
    return Job(package, source, options, per_epoch, per_epoch * options.epochs)


def _check_rungs(package: Package, options: TrainingOptions) -> None:
    if options.rungs is None:
        return
    firsts = [first for first, _ in options.rungs]
    if firsts[:1] != [1] or any(a >= b for a, b in pairwise(firsts)):
        raise ConfigError(f"rungs start at steps {firsts}; want 1 first, then ascending.")
    for _, rung in options.rungs:
        package.rung(rung)


def _pictures_digest(source: PictureSource | FrameSource) -> str | None:
    if isinstance(source, FrameSource):
        return None
    digest = hashlib.sha256()
    for index in range(len(source)):
        digest.update(source.key(index).encode() + b"\0")
    return digest.hexdigest()
