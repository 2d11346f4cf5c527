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
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from edge_runtime.cli.output import show, show_json
from edge_runtime.cli.paths import any_path
from edge_runtime.device import (
    memory_now,
    prefer_oom_kill,
    python_command,
    require_room,
    start_errors,
)
from edge_runtime.engines import ENGINES
from edge_runtime.errors import DeviceError, EngineError
from edge_runtime.units import bytes_text, duration_text
from edge_runtime.version import __version__

# The distribution that brings a device of engine ort beside the CPU.
DEVICES = {"webgpu": "onnxruntime-ep-webgpu", "cuda": "onnxruntime-gpu"}
PARTS = ("pictures", *ENGINES, *DEVICES, "export")
LONGEST_S = 600.0  # emulated machines are a hundred times slower
_RUNTIMES = ("onnxruntime", DEVICES["cuda"], "onnxruntime-training-cpu")
_LIBRARIES = (
    "numpy", "opencv-python", "opencv-python-headless", "pillow", *_RUNTIMES,
    DEVICES["webgpu"], "torch", "onnx",
)  # fmt: skip
# Upper bounds of a trial's memory, without the libraries that it shares with this process.
_TRIAL_BYTES = {"pictures": 82 << 20, "export": 60 << 20}
_ENGINE_TRIAL_BYTES = 82 << 20
_GPU_TRIAL_BYTES = 500 << 20  # measured where a processor pretends to be the GPU
_TORCH_BYTES = 200 << 20
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
    parser.add_argument("--try", dest="part", choices=PARTS, help=argparse.SUPPRESS)


def run(args: argparse.Namespace) -> int:
    """Try every part that is installed; without a working engine the exit code is 5."""
    if args.part is not None:
        prefer_oom_kill()
        show_json(_TRIALS[args.part]())
        return 0
    facts = collect(args.board)
    if args.json:
        show_json(facts)
    else:
        show(render_text(facts))
    works = any(finding["works"] for finding in facts["engines"])
    return 0 if works else EngineError.exit_code


def collect(board_file: Path | None = None) -> dict[str, Any]:
    """The machine, its board, the installed versions, and the result of each part.

    Raises:
        ConfigError: the board file is wrong.
    """
    from edge_runtime.device import machine_facts
    from edge_runtime.schema import unstructure

    board = board_facts(board_file)
    versions = installed_versions()
    devices = [name for name, distribution in DEVICES.items() if distribution in versions]
    parts = [part for part in PARTS if part not in DEVICES or part in devices]
    findings = {part: unstructure(try_part(part)) for part in parts}
    return {
        "edge_train": __version__,
        "machine": machine_facts(),
        "board": board,
        "versions": versions,
        "pictures": findings["pictures"],
        "engines": [findings[name] for name in ENGINES],
        "devices": [findings[name] for name in devices],
        "export": findings["export"],
    }


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
            done = subprocess.run(command, capture_output=True, text=True, timeout=LONGEST_S)
    except DeviceError as error:
        return Finding(part=part, works=False, did=None, problem=str(error))
    except subprocess.TimeoutExpired:
        problem = f"no answer in {duration_text(LONGEST_S)}"
        return Finding(part=part, works=False, did=None, problem=problem)
    if done.returncode == 0:
        return Finding(
            part=part, works=True, did=json.loads(done.stdout.splitlines()[-1]), problem=None
        )
    problem = _problem(done.returncode, done.stderr.strip().removeprefix("edge-train: "))
    return Finding(part=part, works=False, did=None, problem=problem)


def trial_bytes(part: str) -> int:
    """The most that a trial adds to what this process holds."""
    loads_torch = part in _LOAD_TORCH and importlib.util.find_spec("torch") is not None
    engine_bytes = _GPU_TRIAL_BYTES if part in DEVICES else _ENGINE_TRIAL_BYTES
    return _TRIAL_BYTES.get(part, engine_bytes) + loads_torch * _TORCH_BYTES


def _problem(code: int, stderr: str) -> str:
    """Why a trial failed."""
    if code >= 0:
        return stderr
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


def _try_engine(name: str, device: str = "cpu") -> dict[str, Any]:
    from edge_runtime.schema import unstructure
    from edge_runtime.selftest import try_engine

    return dict(unstructure(try_engine(name, device=device)))


def _try_export() -> dict[str, Any]:
    from edge_runtime.cli.export import load_export

    load_export()
    return {name: version(name) for name in ("torch", "onnx")}


_TRIALS: dict[str, Callable[[], dict[str, Any]]] = {
    "pictures": _try_pictures,
    **{name: partial(_try_engine, name) for name in ENGINES},
    **{device: partial(_try_engine, "ort", device) for device in DEVICES},
    "export": _try_export,
}


def render_text(facts: dict[str, Any]) -> str:
    """The findings as text."""
    machine, versions = facts["machine"], facts["versions"]
    memory = machine["memory_bytes"]
    hardware = [
        machine["cpu_model"] or machine["machine"],
        f"{machine['logical_cpus']} processors",
        "memory unknown" if memory is None else bytes_text(memory),
    ]
    system = [machine["os"] or "unknown system", f"kernel {machine['kernel']}"]
    rows = [
        ("edge-train", f"{facts['edge_train']} on Python {machine['python']}"),
        ("machine", ", ".join(hardware)),
        ("system", ", ".join(system)),
        *_board_rows(facts["board"]),
        ("installed", ", ".join(f"{name} {number}" for name, number in versions.items())),
    ]
    findings = [facts["pictures"], *facts["engines"], *facts["devices"], facts["export"]]
    rows += [(finding["part"], _finding_text(finding)) for finding in findings]
    return "\n".join(
        [f"{name:<14}{text}" for name, text in rows] + ["", conclusion(findings, versions)]
    )


def _board_rows(board: dict[str, Any]) -> list[tuple[str, str]]:
    if board["problem"]:
        return [("board", f"unknown: {board['problem']}")]
    exists, available = board["memory_limit_bytes"], board["memory_available_bytes"]
    known = {zone: c for zone, c in board["temperatures_c"].items() if c is not None}
    degrees = [f"{c:.1f} °C {zone}" for zone, c in known.items()]
    heat = {True: "throttled now", False: "not throttled", None: "throttling unknown"}
    return [
        ("board", f"{board['name']} ({board['board']})"),
        *([("", board["note"])] if board["note"] else []),
        ("power mode", board["power_mode"] or "none known"),
        ("memory", f"{_bytes(exists)} for this program, {_bytes(available)} of it free"),
        ("power", _power_text(board["sensor"])),
        *[("", line) for line in _sensor_lines(board)],
        ("temperature", f"{', '.join(degrees) or 'unknown'}; {heat[board['throttled']]}"),
        *[("", f"{zone} is unknown: {why}") for zone, why in board["unknown_zones"].items()],
    ]


def _bytes(size_bytes: int | None) -> str:
    return "unknown" if size_bytes is None else bytes_text(size_bytes)


def _power_text(sensor: dict[str, Any] | None) -> str:
    if sensor is None:
        return "unknown: no sensor works here, and the board file has no values to estimate it"
    total = " + ".join(sensor["total"]) or "unknown, only its rails"
    estimate = ", derived, not a power reading" if sensor["is_estimate"] else ""
    return (
        f"{_watts(sensor['total_w'])} by the {sensor['description']}; total: {total}{estimate}"
    )


def _sensor_lines(board: dict[str, Any]) -> list[str]:
    """The rails; and why no better sensor was chosen, unless the total is measured."""
    sensor = board["sensor"]
    rails = sensor["rails_w"].items() if sensor else ()
    lines = [", ".join(f"{rail} {_watts(power_w)}" for rail, power_w in rails)]
    if sensor is None or sensor["is_estimate"] or not sensor["total"]:
        lines += [f"{name}: {why}" for name, why in board["better_sensors"].items()]
    lines += board["unused_monitors"]
    return [line for line in lines if line]


def _watts(power_w: float | None) -> str:
    return "? W" if power_w is None else f"{power_w:.2f} W"


def _finding_text(finding: dict[str, Any]) -> str:
    did = finding["did"]
    if did is None:
        return f"no: {finding['problem']}".replace("\n", "\n" + 14 * " ")
    if finding["part"] == "pictures":
        return f"yes: made {did['views']} views of {did['pictures']} pictures"
    if finding["part"] == "export":
        return "yes: can write training packages"
    return (
        f"yes: {did['runtime']} loaded and trained a step of rung {did['rung']} in "
        f"{duration_text(did['step_s'])}, loss {did['loss']:.4f} as expected, and embedded a "
        f"batch in {duration_text(did['embedding_s'])}"
    )


def conclusion(findings: list[dict[str, Any]], versions: dict[str, str]) -> str:
    """A conclusion from the findings."""
    working = [finding["part"] for finding in findings if finding["works"]]
    engines = [name for name in ENGINES if name in working]
    devices = [name for name in DEVICES if name in working]
    lines = []
    if engines and "pictures" in working:
        exports = "" if "export" in working else ", with packages from another machine"
        gpus = f", also on {' and '.join(devices)} (--device)" if devices else ""
        lines.append(f"This machine can train with {' and '.join(engines)}{gpus}{exports}.")
    else:
        lines.append("This machine cannot train yet; see the parts above marked no.")
    if len(runtimes := [name for name in _RUNTIMES if name in versions]) > 1:
        lines.append(
            f"{' and '.join(runtimes)} overwrite each other: keep one per environment."
        )
    return "\n".join(lines)
