"""Train, evaluate and measure on the device; no torch, no onnx.

The public names are those of `__all__`; everything else may change. A name is imported at
its first use, so that importing the package, as the command line does, is fast.
"""

import importlib
import logging
import typing

from edge_runtime.version import __version__ as __version__

if typing.TYPE_CHECKING:
    from edge_runtime.data import FrameSource, PictureSource, open_source
    from edge_runtime.engines import create_engine
    from edge_runtime.engines.base import Engine
    from edge_runtime.errors import (
        BudgetError,
        ConfigError,
        DataError,
        DeviceError,
        DivergedError,
        EdgeRuntimeError,
        EngineError,
        PackageError,
        RecordsError,
        StoppedError,
        StorageError,
    )
    from edge_runtime.evaluation import (
        Embedding,
        Scores,
        TrainedState,
        embed,
        evaluate,
        export_encoder,
        open_trained,
        save_embedding,
    )
    from edge_runtime.facts import Budget
    from edge_runtime.package import Package, open_package
    from edge_runtime.records import Run, open_run
    from edge_runtime.training import TrainingOptions, train
    from edge_runtime.within_budget import train_within

__all__ = [
    "Budget",
    "BudgetError",
    "ConfigError",
    "DataError",
    "DeviceError",
    "DivergedError",
    "EdgeRuntimeError",
    "Embedding",
    "Engine",
    "EngineError",
    "FrameSource",
    "Package",
    "PackageError",
    "PictureSource",
    "RecordsError",
    "Run",
    "Scores",
    "StoppedError",
    "StorageError",
    "TrainedState",
    "TrainingOptions",
    "create_engine",
    "embed",
    "evaluate",
    "export_encoder",
    "open_package",
    "open_run",
    "open_source",
    "open_trained",
    "save_embedding",
    "train",
    "train_within",
]

_HOMES = {
    "Budget": "facts",
    "Embedding": "evaluation",
    "Engine": "engines.base",
    "FrameSource": "data",
    "Package": "package",
    "PictureSource": "data",
    "Run": "records",
    "Scores": "evaluation",
    "TrainedState": "evaluation",
    "TrainingOptions": "training",
    "create_engine": "engines",
    "embed": "evaluation",
    "evaluate": "evaluation",
    "export_encoder": "evaluation",
    "open_package": "package",
    "open_run": "records",
    "open_source": "data",
    "open_trained": "evaluation",
    "save_embedding": "evaluation",
    "train": "training",
    "train_within": "within_budget",
}

logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    home = importlib.import_module(f"{__name__}.{_HOMES.get(name, 'errors')}")
    value = globals()[name] = getattr(home, name)
    return value
