"""Forward engine `ort`: features of images on stock ONNX Runtime. Weights are graph inputs."""

from typing import Any

import numpy as np
from typing_extensions import override

from edge_runtime.engines.base import BaseEngine, ForwardEngine, require_images
from edge_runtime.engines.devices import device_runtime, open_device
from edge_runtime.engines.runtime import native_errors, thread_count
from edge_runtime.engines.session import open_session
from edge_runtime.engines.spinning import SpinPolicy
from edge_runtime.facts.devices import CPU
from edge_runtime.package import Package
from edge_runtime.package.manifest import TensorSpec
from edge_runtime.package.names import FEATURES, IMAGES, WEIGHT
from edge_runtime.state import Array, State

_ADVICE = (  # no rung needs less
    "Stop other programs that use this memory, or export with smaller pictures, a smaller "
    "encoder or a smaller batch."
)


class OrtForwardEngine(BaseEngine, ForwardEngine):
    """One forward graph with its weights bound."""

    name = "ort"
    images_per_run = 1

    def __init__(
        self, *, device: str = CPU, threads: int | None = None, may_spin: bool = True
    ) -> None:
        """Choose the device.

        Args:
            device: on which the graph runs.
            threads: of the graph; `None`: all processors.
            may_spin: whether its threads may wait in a loop between two runs.

        Raises:
            EngineError: the device cannot be used.
        """
        super().__init__(f"{self.name} (forward)")
        self._may_spin = may_spin
        self._spinning = SpinPolicy()
        self._on = open_device(device)
        self.runtime = device_runtime(device)
        self.device, self.threads = device, thread_count(threads)
        self._session: Any = None
        self._binding: Any = None
        self._weights: dict[str, Any] = {}
        self._specs: tuple[TensorSpec, ...] = ()  # of the weights
        self._images = self._features = ""

    @override
    def open(self, package: Package, graph: str, weights: State) -> None:
        self._keep(package)
        spec = package.manifest.graphs[graph]
        (self._images,) = (tensor.name for tensor in spec.inputs if tensor.role == IMAGES)
        (self._features,) = (tensor.name for tensor in spec.outputs if tensor.role == FEATURES)
        self._session = open_session(
            package,
            graph,
            device=self._on,
            threads=self.threads,
            spinning=self._may_spin and self._on.is_host and self._spinning.is_allowed(),
        )
        self._specs = tuple(tensor for tensor in spec.inputs if tensor.role == WEIGHT)
        self._binding = self._session.io_binding()
        self.set_weights(weights)

    @override
    def set_weights(self, weights: State) -> None:
        self._require_open("take weights")
        with native_errors("bind weights", _ADVICE):
            for spec in self._specs:
                # The runtime borrows an array's memory: the value must live as long as that
                value = self._on.copy_of(np.array(weights[spec.name], order="C"))
                self._binding.bind_ortvalue_input(spec.name, value)
                self._weights[spec.name] = value

    @override
    def run(self, images: Array) -> Array:
        self._require_open("run")
        require_images(images)
        with native_errors("embed images", _ADVICE):
            self._binding.clear_binding_outputs()
            self._binding.bind_cpu_input(self._images, np.ascontiguousarray(images))
            self._binding.bind_output(self._features)
            self._session.run_with_iobinding(self._binding)
            (features,) = self._binding.get_outputs()
        result: Array = features.numpy().copy()
        return result

    @override
    def close(self) -> None:
        super().close()
        self._session = self._binding = None
        self._weights = {}
