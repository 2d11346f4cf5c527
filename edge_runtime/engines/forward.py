"""Graphs without gradient: embedding for evaluation. Their weights are inputs."""

from typing import Any

import numpy as np

from edge_runtime.engines.base import Closes
from edge_runtime.engines.runtime import load_onnxruntime, native_errors, session_options
from edge_runtime.package import Package
from edge_runtime.package.manifest import FEATURES, IMAGES, WEIGHT
from edge_runtime.state import Array, State


class ForwardGraph(Closes):
    """One forward graph with its weights bound."""

    def __init__(
        self, package: Package, graph: str, weights: State, *, threads: int | None = None
    ) -> None:
        """Load the graph.

        Args:
            package: holds it.
            graph: its path in the package.
            weights: by graph input name.
            threads: of the runtime; `None`: as many as there are cores.

        Raises:
            EngineError: no runtime is installed, or it cannot load the graph.
        """
        runtime = load_onnxruntime()
        spec = package.manifest.graphs[graph]
        (self._images,) = (tensor.name for tensor in spec.inputs if tensor.role == IMAGES)
        (self._features,) = (tensor.name for tensor in spec.outputs if tensor.role == FEATURES)
        with native_errors(f"load {package.file(graph)}"):
            self._session: Any = runtime.InferenceSession(
                str(package.file(graph)),
                session_options(threads),
                providers=["CPUExecutionProvider"],
            )
            self._binding: Any = self._session.io_binding()
            # The runtime borrows an array's memory: the values must live as long as it does.
            self._weights: dict[str, Any] = {
                tensor.name: runtime.OrtValue.ortvalue_from_numpy(
                    np.array(weights[tensor.name], order="C")
                )
                for tensor in spec.inputs
                if tensor.role == WEIGHT
            }
            for name, value in self._weights.items():
                self._binding.bind_ortvalue_input(name, value)

    def run(self, images: Array) -> Array:
        """Features of pictures.

        Args:
            images: uint8 [pictures, size, size, 3], RGB; any number of pictures.

        Returns:
            float32 [pictures, width].
        """
        with native_errors("embed pictures"):
            self._binding.clear_binding_outputs()
            self._binding.bind_cpu_input(self._images, np.ascontiguousarray(images, np.uint8))
            self._binding.bind_output(self._features)
            self._session.run_with_iobinding(self._binding)
            (features,) = self._binding.get_outputs()
        result: Array = features.numpy().copy()
        return result

    def close(self) -> None:
        """Free the session; twice is fine."""
        self._session = self._binding = None
        self._weights = {}
