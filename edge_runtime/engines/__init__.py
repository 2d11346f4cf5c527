"""What runs graphs. ONNX Runtime is imported here alone, when it is first needed."""

from edge_runtime.engines.base import Batch, Engine, Hyper, Metrics
from edge_runtime.engines.forward import ForwardGraph
from edge_runtime.errors import ConfigError

ENGINES = ("ort", "ort-training")


def create_engine(name: str, *, threads: int | None = None) -> Engine:
    """An engine, not opened yet.

    Args:
        name: one of `ENGINES`, or "auto" for `ort`: the step graph is faster than the official
            API on every runtime, also on the official one.
        threads: of the runtime; `None`: as many as there are cores.

    Raises:
        ConfigError: an unknown name.
        EngineError: not installed.
    """
    if name in ("auto", "ort"):
        from edge_runtime.engines.ort import OrtEngine

        return OrtEngine(threads=threads)
    if name == "ort-training":
        from edge_runtime.engines.ort_training import OrtTrainingEngine

        return OrtTrainingEngine(threads=threads)
    raise ConfigError(f"unknown engine {name!r}; known are auto, {', '.join(ENGINES)}.")


__all__ = ["ENGINES", "Batch", "Engine", "ForwardGraph", "Hyper", "Metrics", "create_engine"]
