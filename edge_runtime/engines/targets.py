"""Targets of a step: features of its views by the package's frozen encoder."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

import numpy as np
from typing_extensions import override

from edge_runtime.engines.base import Batch, ForwardEngine
from edge_runtime.engines.forward import (
    ORT,
    ForwardOptions,
    engine_text,
    likely_forward_engine,
    open_forward_engine,
)
from edge_runtime.package import Package
from edge_runtime.package.names import IMAGES, IMAGES_PREFIX, TARGET_PREFIX
from edge_runtime.state import Array


class _WeightsInFile(Mapping[str, Array]):
    """Weights, read one by one: an engine copies each, and so all are never there twice."""

    def __init__(self, package: Package) -> None:
        self._package = package
        self._names = [spec.name for spec in package.manifest.frozen_weights]

    @override
    def __getitem__(self, name: str) -> Array:
        return self._package.frozen_weights([name])[name]

    @override
    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    @override
    def __len__(self) -> int:
        return len(self._names)


class Targets:
    """Adds targets to batches; to those of a package without a frozen encoder, nothing."""

    def __init__(self, package: Package, name: str, options: ForwardOptions) -> None:
        """Load the encoder.

        Args:
            package: with or without a frozen encoder.
            name: of the forward engine, or "auto".
            options: of the forward engine.

        Raises:
            EngineError: it cannot be loaded.
            NoMemoryError: there is too little memory for it.
            PackageError: its weights are not those of the manifest.
        """
        self._groups: tuple[str, ...] = ()
        self._engine: ForwardEngine | None = None
        encoder = package.manifest.frozen_encoder
        if encoder is None:
            return
        inputs = package.manifest.graphs[encoder.graph].inputs
        (shape,) = (spec.shape for spec in inputs if spec.role == IMAGES)
        self._groups, self._images = encoder.groups, shape[0] or 1
        self._engine = open_forward_engine(
            package,
            encoder.graph,
            _WeightsInFile(package),
            name,
            # Between its runs the processors belong to the step
            replace(options, may_spin=False),
        )

    @property
    def engine_name(self) -> str:
        """The forward engine; `ORT` where there is nothing to compute."""
        return ORT if self._engine is None else self._engine.name

    def engine_text(self) -> str | None:
        """The forward engine as it is recorded; `None`: no frozen encoder."""
        return None if self._engine is None else engine_text(self._engine)

    def added_to(self, batch: Batch) -> Batch:
        """The batch with its targets, float32 [views, pictures, width] for each view group."""
        targets = {
            TARGET_PREFIX + group: self._features(batch[IMAGES_PREFIX + group])
            for group in self._groups
        }
        return {**batch, **targets}

    def _features(self, views: Array) -> Array:
        """Features of [views, pictures, size, size, 3], some images at a time."""
        assert self._engine is not None  # there are view groups
        rows = views.reshape(-1, *views.shape[2:])
        starts = range(0, len(rows), self._images)
        parts = [self._engine.run(rows[start : start + self._images]) for start in starts]
        return np.concatenate(parts).reshape(*views.shape[:2], -1)

    def close(self) -> None:
        """Free everything."""
        if self._engine is not None:
            self._engine.close()


def likely_targets_engine(package: Package, name: str, device: str) -> str:
    """The forward engine that `choose_targets_engine` tries first; builds nothing.

    Raises:
        ConfigError: an unknown name or device.
    """
    likely = likely_forward_engine(name, device)
    return ORT if package.manifest.frozen_encoder is None else likely


def choose_targets_engine(package: Package, name: str, options: ForwardOptions) -> str:
    """The forward engine of a package's frozen encoder, built and checked before it is used.

    What is built is in the cache afterwards, so that neither a run nor the processes that
    measure its rungs wait for it.

    Args:
        package: with or without a frozen encoder.
        name: of the forward engine, or "auto".
        options: of the forward engine.

    Raises:
        ConfigError: an unknown name or device.
        EngineError: the engine that is named cannot run the frozen encoder.
        NoMemoryError: there is too little memory for it.
        StoppedError: `stop` of the options returned `True`.
    """
    if likely_targets_engine(package, name, options.device) == ORT:
        return ORT
    targets = Targets(package, name, options)
    targets.close()
    return targets.engine_name
