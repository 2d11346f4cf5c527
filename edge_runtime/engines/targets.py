"""Targets of a step: features of its views by the package's frozen encoder.

Also the choice of the forward engine for it and for a teacher before the step.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from typing_extensions import override

from edge_runtime.engines.base import Batch, ForwardEngine
from edge_runtime.engines.forward import (
    ORT,
    ForwardOptions,
    engine_text,
    likely_forward_engine,
    open_forward_engine,
)
from edge_runtime.engines.teacher import Teacher
from edge_runtime.engines.view_features import ViewFeatures
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


def likely_targets_engine(package: Package, name: str, device: str) -> str:
    """The forward engine that `choose_targets_engine` tries first; builds nothing.

    Raises:
        ConfigError: an unknown name or device.
    """
    likely = likely_forward_engine(name, device)
    return likely if package.manifest.forward_graphs else ORT


def choose_targets_engine(package: Package, name: str, options: ForwardOptions) -> str:
    """The forward engine of the encoders before a step, built and checked before it is used.

    What is built is in the cache afterwards, so that neither a run nor the processes that
    measure its rungs wait for it.

    Args:
        package: with or without a frozen encoder and a teacher before its steps.
        name: of the forward engine, or "auto": the same for both.
        options: of the forward engine.

    Raises:
        ConfigError: an unknown name or device.
        EngineError: the engine that is named cannot run one of them.
        NoMemoryError: there is too little memory for it.
        StoppedError: `stop` of the options returned `True`.
    """
    likely = likely_targets_engine(package, name, options.device)
    if likely == ORT:
        return ORT
    makers: list[Callable[[], Targets | Teacher]] = [
        lambda: Targets(package, name, options),
        lambda: Teacher(package, name, options, lambda _: package.initial_state()),
    ]
    texts = []
    for make in makers:
        encoder = make()
        encoder.close()
        texts.append(encoder.engine_text())
    names = {text.partition(",")[0] for text in texts if text is not None}
    return ORT if ORT in names else likely
