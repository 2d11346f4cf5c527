"""Features of a step's views by a forward graph of the package, which runs before the step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np

from edge_runtime.engines.base import Batch, ForwardEngine
from edge_runtime.errors import EncoderError, EncoderMemoryError, EngineError, NoMemoryError
from edge_runtime.package import Package
from edge_runtime.package.names import IMAGES, IMAGES_PREFIX
from edge_runtime.state import Array


@contextmanager
def encoder_errors(engine: ForwardEngine) -> Iterator[None]:
    """Tell errors of an encoder before a step from those of the step.

    Raises:
        EncoderError: in place of `EngineError`.
        EncoderMemoryError: in place of `NoMemoryError`.
    """
    try:
        yield
    except EngineError as error:
        raise EncoderError(str(error), engine.device) from error
    except NoMemoryError as error:
        raise EncoderMemoryError(str(error), engine.device) from error


class ViewFeatures:
    """The views of some groups through an open forward engine, some images at a time."""

    def __init__(
        self,
        engine: ForwardEngine,
        package: Package,
        graph: str,
        groups: Sequence[str],
        prefix: str,
    ) -> None:
        """Prepare.

        Args:
            engine: open, with the graph.
            package: of the graph.
            graph: its path in the package.
            groups: of views.
            prefix: of the step's inputs that take the features, before a group's name.
        """
        spec = package.manifest.graphs[graph]
        (shape,) = (tensor.shape for tensor in spec.inputs if tensor.role == IMAGES)
        self._engine, self._images = engine, shape[0] or 1
        self._width = spec.features.shape[1] or 0
        self._groups, self._prefix = groups, prefix

    def of(self, batch: Batch) -> Batch:
        """Float32 [views, pictures, width] for each view group, by the name of the input.

        Raises:
            EncoderError: the forward engine failed.
            EncoderMemoryError: it has too little memory.
        """
        with encoder_errors(self._engine):
            return {
                self._prefix + group: self._features(batch[IMAGES_PREFIX + group])
                for group in self._groups
            }

    def images(self, batch: Batch) -> tuple[Array, ...]:
        """The images of which the features are."""
        return tuple(batch[IMAGES_PREFIX + group] for group in self._groups)

    def _features(self, views: Array) -> Array:
        """Features of [views, pictures, size, size, 3]."""
        rows = views.reshape(-1, *views.shape[2:])
        features = np.empty((len(rows), self._width), np.float32)
        for start in range(0, len(rows), self._images):
            end = start + self._images
            # Written in place: they can be larger than the images, and are then there once
            features[start:end] = self._engine.run(rows[start:end])
        return features.reshape(*views.shape[:2], -1)
