"""Targets of a step: features of its views by the package's frozen encoder."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from typing_extensions import override

from edge_runtime.engines.base import Batch, ForwardEngine
from edge_runtime.engines.encoders.view_features import ViewFeatures
from edge_runtime.engines.forward import ForwardOptions, engine_text, open_forward_engine
from edge_runtime.package import Package
from edge_runtime.package.names import TARGET_PREFIX
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
        self._engine: ForwardEngine | None = None
        encoder = package.manifest.frozen_encoder
        if encoder is None:
            return
        self._engine = open_forward_engine(
            package,
            encoder.graph,
            _WeightsInFile(package),
            name,
            # Between its runs the processors belong to the step
            replace(options, may_spin=False),
        )
        groups = encoder.groups
        self._views = ViewFeatures(self._engine, package, encoder.graph, groups, TARGET_PREFIX)

    @property
    def engine_name(self) -> str | None:
        """Of the forward engine; `None`: no frozen encoder."""
        return None if self._engine is None else self._engine.name

    def engine_text(self) -> str | None:
        """The forward engine as it is recorded; `None`: no frozen encoder."""
        return None if self._engine is None else engine_text(self._engine)

    def added_to(self, batch: Batch) -> Batch:
        """The batch with its targets, float32 [views, pictures, width] for each view group.

        Raises:
            EncoderError: the forward engine failed.
            EncoderMemoryError: it has too little memory.
        """
        return batch if self._engine is None else {**batch, **self._views.of(batch)}

    def close(self) -> None:
        """Free everything."""
        if self._engine is not None:
            self._engine.close()
