"""The findings of `edge-train doctor` as text."""

from typing import Any

from edge_runtime.device.gpus import SOFTWARE
from edge_runtime.engines import ENGINES
from edge_runtime.units import bytes_text, duration_text

_INDENT = 14 * " "


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
        *_gpu_rows(facts["gpus"]),
    ]
    findings = [
        facts["pictures"],
        *facts["engines"],
        *facts["devices"],
        *facts["forward_engines"],
        facts["export"],
    ]
    rows += [(finding["part"].split()[0], _finding_text(finding)) for finding in findings]
    lines = [f"{name:<14}{text}" for name, text in rows]
    return "\n".join([*lines, "", conclusion(findings), *facts["traps"]])


def _gpu_rows(gpus: dict[str, Any]) -> list[tuple[str, str]]:
    found = [gpu for survey in gpus.values() for gpu in survey["gpus"]]
    if not found:
        reasons = "; ".join(survey["problem"] for survey in gpus.values())
        return [("gpu", f"none found: {reasons}")]
    texts = [_gpu_text(gpu) for gpu in found]
    return [("gpu", texts[0]), *[("", text) for text in texts[1:]]]


def _gpu_text(gpu: dict[str, Any]) -> str:
    facts = [gpu["name"], gpu["kind"], gpu["driver"] or "driver unknown", gpu["api"]]
    if gpu["compute_capability"]:
        facts.append(f"compute capability {gpu['compute_capability']}")
    return ", ".join(facts)


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
        return f"no: {finding['problem']}".replace("\n", "\n" + _INDENT)
    if finding["part"] == "pictures":
        return f"yes: made {did['views']} views of {did['pictures']} pictures"
    if finding["part"] == "export":
        return "yes: can write training packages"
    if "is_captured" in did:
        return _tensorrt_text(did)
    step = (
        f"yes: {did['runtime']} loaded and trained a step of rung {did['rung']} in "
        f"{duration_text(did['step_s'])}, loss {did['loss']:.4f} as expected, and embedded a "
        f"batch in {duration_text(did['embedding_s'])}"
    )
    if "gpu" not in finding:
        return step
    half = "trains" if did["half_precision"] else "has no float16 and does not train"
    lines = [
        step,
        _adapter_text(finding["gpu"]),
        _placement_text(did["placement"]),
        f"it {half} packages of --precision fp16",
    ]
    return f"\n{_INDENT}".join(lines)


def _tensorrt_text(did: dict[str, Any]) -> str:
    start = "as one CUDA graph" if did["is_captured"] else "without a CUDA graph"
    return (
        f"yes: {did['runtime']} on {did['device']} loaded a graph in "
        f"{duration_text(did['load_s'])} and embedded a batch in "
        f"{duration_text(did['embedding_s'])}, {start}, with features as expected"
    )


def _adapter_text(gpu: dict[str, Any] | None) -> str:
    if gpu is None:
        return "on a GPU whose driver does not give its name"
    slow = ": a processor computes, slower than engine ort does on it without a GPU"
    return f"on {_gpu_text(gpu)}{slow if gpu['kind'] == SOFTWARE else ''}"


def _placement_text(placement: dict[str, Any] | None) -> str:
    if placement is None:
        return "this runtime does not tell which nodes of the step run on it: copies unknown"
    on_cpu = placement["on_cpu"]
    nodes = placement["on_device"] + sum(on_cpu.values())
    text = f"{placement['on_device']} of {nodes} nodes of the step run on it"
    if not on_cpu:
        return f"{text}: no copies inside a step"
    others = ", ".join(f"{count} {operator}" for operator, count in on_cpu.items())
    return f"{text}, and on the CPU {others}: every step copies"


def conclusion(findings: list[dict[str, Any]]) -> str:
    """A conclusion from the findings."""
    working = [finding["part"] for finding in findings if finding["works"]]
    engines = [name for name in ENGINES if name in working]
    devices = [
        finding["part"] for finding in findings if finding["works"] and "gpu" in finding
    ]
    if not engines or "pictures" not in working:
        return "This machine cannot train yet; see the parts above marked no."
    exports = "" if "export" in working else ", with packages from another machine"
    gpus = f", also on {' and '.join(devices)} (--device)" if devices else ""
    return f"This machine can train with {' and '.join(engines)}{gpus}{exports}."
