"""Which nodes of a graph run on a device, and which on the CPU beside it, by the runtime."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from edge_runtime.engines.devices import Device
from edge_runtime.engines.runtime import native_errors, session_options
from edge_runtime.package import Package

_RECORD = "session.record_ep_graph_assignment_info"
_CPU = "CPUExecutionProvider"


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where the nodes of a graph run; each that the CPU runs costs copies in every step."""

    on_device: int  # nodes
    on_cpu: dict[str, int]  # operator -> nodes


def placement_of(package: Package, graph: str, device: Device) -> Placement | None:
    """Load a graph to see where its nodes go.

    Returns:
        `None` where the runtime is too old to say it.

    Raises:
        EngineError: the runtime cannot load it.
    """
    options = session_options(None, spinning=False)
    options.add_session_config_entry(_RECORD, "1")
    path = package.file(graph)
    with native_errors(f"load {path}"):
        session: Any = device.create_session(path, options)
        if not hasattr(session, "get_provider_graph_assignment_info"):
            return None
        parts = [
            (part.ep_name, node.op_type)
            for part in session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        ]
    on_cpu = Counter(operator for provider, operator in parts if provider == _CPU)
    return Placement(
        on_device=len(parts) - on_cpu.total(), on_cpu=dict(sorted(on_cpu.items()))
    )
