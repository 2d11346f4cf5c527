"""ONNX Runtime for all engines: import, options, errors, memory."""

import ctypes
import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from edge_runtime.device import cpu_threads, process_tree_rss_bytes
from edge_runtime.errors import EngineError, NoMemoryError, how_to_install

# Distributions, of which one may be installed
RUNTIMES = (
    "onnxruntime-training-cpu",
    "onnxruntime-training",
    "onnxruntime-gpu",
    "onnxruntime",
)
_TRAINING = "onnxruntime.training"
# Of ONNX Runtime, CUDA, cuBLAS, TensorRT, Dawn and Vulkan, where memory cannot be had.
_NO_MEMORY = re.compile(
    "out ?of ?memory|failed to allocate|cannot allocate|alloc_failed"
    "|out_of_(device|host)_memory|bad_alloc",
    re.IGNORECASE,
)
RUNTIME_BYTES = 30 << 20  # of the loaded module
_SMALLER = (
    "Train a rung with a smaller keep-ratio or with micro-batches (--rung; with a budget, one "
    "is chosen), export with a smaller batch, or stop other programs that use this memory."
)
_INSTALL = f"Install one: {how_to_install('ort')}, or [ort-training] below Python 3.13."


def load_onnxruntime() -> Any:
    """The module, imported at its first use.

    Raises:
        EngineError: it is not installed, or cannot be loaded.
    """
    try:
        with _without_training():
            import onnxruntime
    except ImportError as error:
        raise EngineError(f"onnxruntime cannot be imported ({error}). {_INSTALL}") from error
    return onnxruntime


@contextmanager
def _without_training() -> Iterator[None]:
    """Keep the training runtime's start-up from looking for a part of it that loads torch.

    If torch is installed, that would take 4 s and 240 MB for an unused part.
    """
    if "onnxruntime" in sys.modules or _TRAINING in sys.modules:
        yield
        return
    sys.modules[_TRAINING] = None  # type: ignore[assignment]  # Python: cannot be imported
    try:
        yield
    finally:
        del sys.modules[_TRAINING]


def runtime_name() -> str:
    """Distribution and version of the installed runtime: "onnxruntime 1.31.1"."""
    for distribution in RUNTIMES:
        try:
            return f"{distribution} {version(distribution)}"
        except PackageNotFoundError:
            continue
    return f"onnxruntime {load_onnxruntime().__version__}"


def thread_count(threads: int | None) -> int | None:
    """Threads of the runtime: as requested, or `None`, one per processor of the machine.

    Left to itself, the runtime starts that many and ties each to its processor. Where this
    process may use only some of them, by its affinity or a container's quota, it gets as many
    threads as can run, and none is tied to a processor that is not its own.
    """
    if threads is not None:
        return threads
    usable = cpu_threads()
    return usable if usable < (os.cpu_count() or usable) else None


def session_options(threads: int | None, *, spinning: bool) -> Any:
    """Options of every session.

    Memory patterns allocate one block for a whole step: 50 % more memory, no faster. Reuse
    keeps a dead tensor until another one of its shape is allocated: 10 % more, and slower.

    Args:
        threads: of the runtime; `None`: one per processor.
        spinning: whether threads wait for each other by spinning, see `SpinPolicy`.
    """
    options = load_onnxruntime().SessionOptions()
    options.intra_op_num_threads = thread_count(threads) or 0
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    options.enable_mem_pattern = False
    options.enable_mem_reuse = False
    options.log_severity_level = 3
    return options


def baseline_bytes() -> int:
    """Resident memory of this process tree once the runtime is loaded."""
    missing = 0 if "onnxruntime" in sys.modules else RUNTIME_BYTES
    return process_tree_rss_bytes() + missing


def release_free_memory() -> None:
    """Return freed memory to the system.

    The C library keeps much of it, such as a whole state after reading one. Memory of a
    process would then depend on its history, and the runtime's arena would come on top.
    """
    with suppress(AttributeError, OSError, TypeError):  # not glibc
        ctypes.CDLL(None).malloc_trim(0)


def out_of_memory(text: str) -> bool:
    """Whether the message of a native library says that memory cannot be had."""
    return _NO_MEMORY.search(text) is not None


@contextmanager
def native_errors(action: str, advice: str = _SMALLER) -> Iterator[None]:
    """Convert the runtime's exceptions: the only place that does.

    Args:
        action: that fails then, as in "cannot ACTION".
        advice: what to do if there is too little memory.

    Raises:
        NoMemoryError: memory cannot be had.
        EngineError: anything else.
    """
    native = load_onnxruntime().capi.onnxruntime_pybind11_state
    names = (
        "EngineError", "EPFail", "Fail", "InvalidArgument", "InvalidGraph", "InvalidProtobuf",
        "ModelLoaded", "NoModel", "NoSuchFile", "NotImplemented", "RuntimeException",
    )  # fmt: skip
    native_kinds = [getattr(native, name) for name in names]
    try:
        yield
    except (RuntimeError, *native_kinds) as error:  # the first by the training API
        text = f"{runtime_name()} cannot {action}: {error}"
        if out_of_memory(str(error)):
            raise NoMemoryError(f"{text}. {advice}") from error
        raise EngineError(text) from error
    except UnicodeDecodeError as error:  # a message with parts of a damaged graph
        raise EngineError(
            f"{runtime_name()} cannot {action}, and its reason is not text"
        ) from error
