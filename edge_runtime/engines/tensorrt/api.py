"""TensorRT's module, its log and its failures. It returns `None` or `False`, and logs why.

What is used is in TensorRT 10.3, 10.16 and 11.4 alike; device_tests/test_tensorrt_bindings.py
checks it against the bindings of each.
"""

import importlib.util
import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from edge_runtime.engines.runtime import out_of_memory
from edge_runtime.errors import DeviceError, EngineError, NoMemoryError

MODULES = ("tensorrt", "pycuda")
_LESS = "Stop other programs that use this memory, or name --forward-engine ort."
_LAST = 4  # messages of an error
_FIRST_VERSION = 10  # with strongly typed networks in the form that is used

logger = logging.getLogger(__name__)


def missing_modules() -> list[str]:
    """Those of the modules that are not installed; imports none."""
    return [name for name in MODULES if importlib.util.find_spec(name) is None]


def load_tensorrt() -> Any:
    """The module, imported at its first use.

    Raises:
        EngineError: it is not installed, its libraries are missing, or it is too old.
    """
    try:
        import tensorrt

        version = str(tensorrt.__version__)
        major = int(version.partition(".")[0])
    except Exception as error:  # a broken installation raises anything
        raise EngineError(
            f"tensorrt cannot be imported ({error}). On a Jetson it comes with JetPack: "
            "`sudo apt install python3-libnvinfer`, and an environment made with "
            "--system-site-packages of JetPack's Python (docs/tensorrt.md)."
        ) from error
    if major < _FIRST_VERSION:
        raise EngineError(
            f"TensorRT {version} is too old: forward engine tensorrt needs {_FIRST_VERSION}.3 "
            "or later, as of JetPack 6.1 (docs/tensorrt.md)."
        )
    return tensorrt


def tensorrt_name() -> str:
    """The runtime with its version: "TensorRT 10.3.0".

    Raises:
        EngineError: as of `load_tensorrt`.
    """
    # Not that of the distribution, which may be a metapackage with a version of its own
    return f"TensorRT {load_tensorrt().__version__}"


def native_log() -> Any:
    """TensorRT's log, which has its last errors; the one of this process."""
    return _log_of(load_tensorrt())


@cache  # TensorRT keeps the first log that it gets
def _log_of(trt: Any) -> Any:
    class Log(trt.ILogger):  # type: ignore[misc]
        """Keeps errors for messages; TensorRT would print them over the panel."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last_errors: deque[str] = deque(maxlen=_LAST)

        def log(self, severity: Any, msg: str) -> None:
            if severity in (
                trt.ILogger.Severity.INTERNAL_ERROR,
                trt.ILogger.Severity.ERROR,
            ):
                self.last_errors.append(" ".join(msg.split()))
            logger.debug("TensorRT: %s", msg)

    return Log()


@contextmanager
def native_failures(action: str) -> Iterator[None]:
    """Convert the exceptions of TensorRT's bindings.

    Errors that were logged before, by calls that went on, are forgotten first.

    Raises:
        NoMemoryError: memory cannot be had.
        EngineError: anything else.
    """
    last_errors = native_log().last_errors
    last_errors.clear()
    try:
        yield
    # A constructor returned nothing, an argument is refused, or the version has no such name
    except (TypeError, RuntimeError, AttributeError) as error:
        if not last_errors:
            last_errors.append(str(error))
        raise failure(action) from error


def failure(action: str) -> EngineError | DeviceError:
    """The error of a call that returned nothing, with what TensorRT has logged."""
    errors = native_log().last_errors
    reasons = "; ".join(errors) or "it does not say why"
    errors.clear()
    text = f"{tensorrt_name()} cannot {action}: {reasons}"
    # Not the action, which may name a file
    return NoMemoryError(f"{text}. {_LESS}") if out_of_memory(reasons) else EngineError(text)
