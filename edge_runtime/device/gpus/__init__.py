"""GPUs: what their drivers say, and which of their files this user may open.

Drivers are asked in a child process: a broken one crashes or hangs there. The child, `main`,
writes what it found, as JSON, to what was its stdout; what drivers print goes to stderr, which
nobody reads.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import cache

from edge_runtime.device.gpus.access import closed_files
from edge_runtime.device.gpus.cuda import cuda_gpus
from edge_runtime.device.gpus.gpu import KINDS, SOFTWARE, Gpu, Survey
from edge_runtime.device.gpus.memory import card_free_bytes, gpu_memory
from edge_runtime.device.gpus.vulkan import vulkan_gpus
from edge_runtime.device.process import python_command, start_errors
from edge_runtime.errors import DeviceError
from edge_runtime.reading import parse_json
from edge_runtime.schema import structure, unstructure

VULKAN, CUDA = "vulkan", "cuda"
LONGEST_S = 60.0  # drivers answer in a second; emulated machines are a hundred times slower
_ASK: dict[str, Callable[[], list[Gpu]]] = {VULKAN: vulkan_gpus, CUDA: cuda_gpus}
_CHILD = "from edge_runtime.device.gpus import main; main()"


@cache  # asking takes half a second, and nobody changes a GPU meanwhile
def survey(interface: str) -> Survey:
    """The GPUs of `VULKAN` or `CUDA`; waits `LONGEST_S` at most, and never raises."""
    try:
        with start_errors():
            done = subprocess.run(
                python_command(_CHILD, interface), capture_output=True, timeout=LONGEST_S
            )
        if done.returncode:
            raise DeviceError(f"a driver of {interface} {_ending(done.returncode)}")
        answer = parse_json(done.stdout)
        return structure(Survey, answer, where=interface, error=DeviceError)
    except subprocess.TimeoutExpired:
        problem = f"a driver of {interface} does not answer in {LONGEST_S:g} s"
    except ValueError:
        problem = f"a driver of {interface} has ended the process that asked it"
    except DeviceError as error:
        problem = str(error)
    return Survey(gpus=(), problem=problem)


def _ending(code: int) -> str:
    if code < 0:
        return f"crashes ({signal.Signals(-code).name})"
    return f"ends the process that asks it (exit code {code})"


def main() -> None:
    """Ask the interface of the command line."""
    answer_to = os.dup(1)
    os.dup2(2, 1)  # drivers print there
    answer = json.dumps(unstructure(_found(sys.argv[1])))
    with open(answer_to, "w", encoding="utf-8") as out:
        out.write(answer)
    os._exit(0)  # without the destructors of drivers


def _found(interface: str) -> Survey:
    try:
        gpus = tuple(_ASK[interface]())
    except DeviceError as error:
        return Survey(gpus=(), problem=str(error))
    problem = None if gpus else f"the driver of {interface} offers no GPU"
    return Survey(gpus=gpus, problem=problem)


__all__ = [
    "CUDA",
    "KINDS",
    "SOFTWARE",
    "VULKAN",
    "Gpu",
    "Survey",
    "card_free_bytes",
    "closed_files",
    "gpu_memory",
    "survey",
]
