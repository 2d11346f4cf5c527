"""Whether a device computes in float16, as packages of precision fp16 need."""

from pathlib import Path

import numpy as np

from edge_runtime.engines.devices import Device
from edge_runtime.engines.runtime import native_errors, session_options
from edge_runtime.errors import EngineError

_PROBE = Path(__file__).with_name("half.onnx")  # x float32 [1] -> y = x + x, in float16
_FATAL = 4  # severity of log lines
_NO_SHADER_F16 = "requires f16 but the device does not support it"  # the WebGPU provider's
_CURE = "Export it with --precision fp32"
CPU_REFUSAL = (
    "it is of precision fp16, which processors compute in float32 with conversions, slower "
    f"than fp32. {_CURE}, or use a GPU (--device webgpu or cuda)"
)


def half_refusal(device: Device) -> str | None:
    """Why a device cannot train in half precision; `None`: it has just computed in float16."""
    if device.is_host:
        return CPU_REFUSAL
    options = session_options(1, spinning=False)
    options.log_severity_level = _FATAL  # an error is the answer here
    try:
        with native_errors("compute in float16"):
            session = device.create_session(_PROBE, options)
            session.run(["y"], {"x": np.ones(1, np.float32)})
    except EngineError as error:
        why = "its driver lacks shader-f16" if _NO_SHADER_F16 in str(error) else str(error)
        return (
            f"it is of precision fp16, and device {device.name} has no float16: {why}. "
            f"{_CURE}, or use a GPU and a driver that have it"
        )
    return None
