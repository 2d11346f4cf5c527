"""GPUs: what their drivers say, and which of their files this user may open.

Drivers are asked in a child process: a broken one crashes or hangs there. The child, `main`,
writes what it found, as JSON, to what was its stdout; what drivers print goes to stderr, which
nobody reads.
"""

import ctypes
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
_PR_SET_PDEATHSIG = 1
_CHILD = "from edge_runtime.device.gpus import main; main()"


@cache  # asking takes half a second, and nobody changes a GPU meanwhile
def survey(interface: str) -> Survey:
    """The GPUs of `VULKAN` or `CUDA`; waits `LONGEST_S` at most, and never raises."""
    try:
        with start_errors():
            done = subprocess.run(
                python_command(_CHILD, interface, str(os.getpid())),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                timeout=LONGEST_S,
            )
    except subprocess.TimeoutExpired:
        return _broken(f"a driver of {interface} does not answer in {LONGEST_S:g} s")
    except DeviceError as error:
        return Survey(gpus=(), problem=str(error))
    if done.returncode < 0:
        name = signal.Signals(-done.returncode).name
        return _broken(f"a driver of {interface} crashes ({name})")
    if done.returncode:
        code = f"exit code {done.returncode}"
        return _broken(f"a driver of {interface} ends the process that asks it ({code})")
    try:
        answer = parse_json(done.stdout)
        return structure(Survey, answer, where=interface, error=DeviceError)
    except (ValueError, DeviceError):
        return _broken(f"a driver of {interface} has ended the process that asked it")


def _broken(problem: str) -> Survey:
    return Survey(gpus=(), problem=problem, is_broken=True)


def main() -> None:
    """Ask the interface of the command line; ends with its parent, whatever a driver does."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != int(sys.argv[2]):  # it ended before
        return
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
