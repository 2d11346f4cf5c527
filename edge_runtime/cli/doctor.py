"""edge-train doctor: tries what works on this machine.

Each part is tried in a separate process, because a native library that was not built for this
processor may kill the process; this is then reported like any other problem.
"""

import argparse
import importlib.util
import json
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edge_runtime.cli.doctor_text import render_text
from edge_runtime.cli.doctor_traps import find_traps
from edge_runtime.cli.output import show, show_json
from edge_runtime.cli.paths import any_path
from edge_runtime.device import (
    gpus,
    interrupted_mode,
    memory_now,
    prefer_oom_kill,
    python_command,
    require_room,
    start_errors,
)
from edge_runtime.engines import ENGINES, TENSORRT
from edge_runtime.engines.devices import PLUGIN, device_gpu, device_name, installed_devices
from edge_runtime.engines.forward import nvidia_gpu
from edge_runtime.engines.runtime import RUNTIMES
from edge_runtime.engines.tensorrt.api import missing_modules
from edge_runtime.errors import DeviceError, EngineError
from edge_runtime.facts.devices import AUTO, CPU, CUDA
from edge_runtime.units import bytes_text, duration_text
from edge_runtime.version import __version__

PARTS = ("pictures", *ENGINES, "export")
LONGEST_S = 600.0  # emulated machines are a hundred times slower
_LIBRARIES = (
    "numpy", "opencv-python", "opencv-python-headless", "pillow", *RUNTIMES, PLUGIN,
    "tensorrt", "pycuda", "torch", "onnx",
)  # fmt: skip
# Upper bounds of a trial's memory, without the libraries that it shares with this process.
_ENGINE_TRIAL_BYTES = 88 << 20
_TRIAL_BYTES = {
    "pictures": 88 << 20,
    **dict.fromkeys(ENGINES, _ENGINE_TRIAL_BYTES),
    "export": 60 << 20,
}
_GPU_TRIAL_BYTES = 500 << 20  # measured where a processor pretends to be the GPU
_TENSORRT_TRIAL_BYTES = 1 << 30  # not measured: CUDA, TensorRT and its builder
_TENSORRT = f"{TENSORRT} on "  # a part's name, before its GPU
_TORCH_BYTES = 220 << 20
_LOAD_TORCH = ("ort-training", "export")  # where it is installed
_ADVICE = "Give the container more memory, or stop other programs."
_TRY = "from edge_runtime.cli.main import main; sys.exit(main(['doctor', '--try', {part!r}]))"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One part: its result, or why it does not work."""

    part: str
    works: bool
    did: dict[str, Any] | None
    problem: str | None


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print one JSON document")
    parser.add_argument(
        "--board", type=any_path, metavar="FILE", help="a board profile; default: recognised"
    )
    parser.add_argument(
        "--device",
        metavar="NAME",
        default=AUTO,
        help="the only GPU to try: webgpu, cuda or cuda:N; cpu: none; default: auto, every "
        "one whose runtime is installed",
    )
    parser.add_argument("--try", dest="part", help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Try every part that is installed.

    The exit code is 5 without a working engine, or if the GPU that is named does not work.
    """
    if args.part is not None:
        prefer_oom_kill()
        show_json(_trial(args.part)())
        return 0
    facts = collect(args.board, args.device)
    if args.json:
        show_json(facts)
    else:
        show(render_text(facts))
    works = any(finding["works"] for finding in facts["engines"])
    if args.device != AUTO:
        works = works and all(finding["works"] for finding in facts["devices"])
    return 0 if works else EngineError.exit_code


def collect(board_file: Path | None = None, device: str = AUTO) -> dict[str, Any]:
    """The machine, its board and GPUs, the installed versions, and the result of each part.

    Raises:
        ConfigError: the board file is wrong, or the device unknown.
    """
    from edge_runtime.device import machine_facts
    from edge_runtime.schema import unstructure

    versions = installed_versions()
    devices = devices_to_try(device)
    board = board_facts(board_file)
    findings = {part: unstructure(try_part(part)) for part in PARTS}
    surveys = {name: gpus.survey(name) for name in (gpus.VULKAN, gpus.CUDA)}
    on_gpus = [
        {**unstructure(try_part(name)), "gpu": unstructure(device_gpu(device_name(name)))}
        for name in devices
    ]
    return {
        "edge_train": __version__,
        "machine": machine_facts(),
        "board": board,
        "versions": versions,
        "pictures": findings["pictures"],
        "engines": [findings[name] for name in ENGINES],
        "gpus": unstructure(surveys),
        "devices": on_gpus,
        "forward_engines": [unstructure(try_part(part)) for part in tensorrt_parts(device)],
        "export": findings["export"],
        "traps": [
            *find_traps(versions, surveys, on_gpus, gpus.closed_files()),
            *([mode] if (mode := interrupted_mode()) else []),
        ],
    }


def devices_to_try(device: str) -> list[str]:
    """The GPUs to try; "auto": every one whose runtime is installed.

    Raises:
        ConfigError: no name of a device.
    """
    if device == AUTO:
        return installed_devices()
    return [] if device_name(device) == CPU else [device]


def tensorrt_parts(device: str) -> list[str]:
    """The part that tries TensorRT, if it is installed and its GPU may be tried."""
    if "tensorrt" in missing_modules():
        return []
    if device != AUTO and not device_name(device).startswith(CUDA):
        return []
    return [_TENSORRT + nvidia_gpu(CUDA if device == AUTO else device)]


def board_facts(board_file: Path | None) -> dict[str, Any]:
    """The inventory of the board, or why its profile is unknown."""
    from edge_runtime.device import load_board, take_inventory
    from edge_runtime.schema import unstructure

    try:
        return {**unstructure(take_inventory(load_board(board_file))), "problem": None}
    except DeviceError as error:
        return {"problem": str(error)}


def try_part(part: str) -> Finding:
    """Try one part in a separate process, unless it would be killed for memory."""
    try:
        require_room("this trial", trial_bytes(part), _ADVICE)
        command = python_command(_TRY.format(part=part))
        with start_errors():
            done = subprocess.run(
                command,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                timeout=LONGEST_S,
            )
    except DeviceError as error:
        return Finding(part=part, works=False, did=None, problem=str(error))
    except subprocess.TimeoutExpired:
        problem = f"no answer in {duration_text(LONGEST_S)}"
        return Finding(part=part, works=False, did=None, problem=problem)
    if done.returncode == 0 and (did := _answer(done.stdout)) is not None:
        return Finding(part=part, works=True, did=did, problem=None)
    problem = _problem(done.returncode, done.stderr.strip().removeprefix("edge-train: "))
    return Finding(part=part, works=False, did=None, problem=problem)


def _answer(stdout: str) -> dict[str, Any] | None:
    """The line of a trial's result; drivers may print others, or end the process early."""
    for line in stdout.splitlines():
        with suppress(ValueError):
            if isinstance(did := json.loads(line), dict):
                return did
    return None


def trial_bytes(part: str) -> int:
    """The most that a trial adds to what this process holds."""
    loads_torch = part in _LOAD_TORCH and importlib.util.find_spec("torch") is not None
    on_gpu = _TENSORRT_TRIAL_BYTES if part.startswith(_TENSORRT) else _GPU_TRIAL_BYTES
    return _TRIAL_BYTES.get(part, on_gpu) + loads_torch * _TORCH_BYTES


def _problem(code: int, stderr: str) -> str:
    """Why a trial failed."""
    if code >= 0:
        return stderr or "something in its process ended it without an error"
    killed = f"its process was killed by {signal.Signals(-code).name}"
    room_bytes = memory_now().room_bytes
    if code == -signal.SIGKILL and room_bytes is not None:
        killed += (
            f", most likely because it needs more memory than the {bytes_text(room_bytes)} "
            "that there are for it here"
        )
    return f"{killed}. {stderr}".strip()


def installed_versions() -> dict[str, str]:
    """Versions of the installed libraries that are used, by distribution."""
    versions = {}
    for name in _LIBRARIES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def _try_pictures() -> dict[str, Any]:
    from edge_runtime.data import open_source, view_batches
    from edge_runtime.selftest import open_selftest

    manifest = open_selftest().manifest
    with view_batches(
        open_source("digits"),
        manifest.views,
        batch_size=manifest.batch_size,
        seed=0,
        first_step=1,
        last_step=1,
        threads=1,
    ) as batches:
        images = next(batches).images
    views = sum(len(group) * group.shape[1] for group in images.values())
    return {"pictures": manifest.batch_size, "views": views}


def _try_engine(name: str, device: str = CPU) -> dict[str, Any]:
    from edge_runtime.schema import unstructure
    from edge_runtime.selftest import try_engine

    return dict(unstructure(try_engine(name, device=device)))


def _try_tensorrt(device: str) -> dict[str, Any]:
    from edge_runtime.schema import unstructure
    from edge_runtime.selftest import try_tensorrt

    return dict(unstructure(try_tensorrt(device)))


def _try_export() -> dict[str, Any]:
    from edge_runtime.cli.export import load_export

    load_export()
    return {name: version(name) for name in ("torch", "onnx")}


_TRIALS: dict[str, Callable[[], dict[str, Any]]] = {
    "pictures": _try_pictures,
    **{name: partial(_try_engine, name) for name in ENGINES},
    "export": _try_export,
}


def _trial(part: str) -> Callable[[], dict[str, Any]]:
    """How to try a part; what is none of `PARTS` is a device of an engine."""
    if part.startswith(_TENSORRT):
        return partial(_try_tensorrt, part.removeprefix(_TENSORRT))
    return _TRIALS.get(part, partial(_try_engine, "ort", part))
