"""The GPUs that NVIDIA's driver offers to CUDA, read from the driver itself.

Needs neither CUDA's libraries nor nvidia-ml-py, and counts as ONNX Runtime does: in the order
and with the numbers that CUDA_VISIBLE_DEVICES gives. Only the child process of `survey` calls
this.
"""

import ctypes
from pathlib import Path

from edge_runtime.device.files import sysfs, text
from edge_runtime.device.gpus.gpu import DISCRETE, INTEGRATED, Gpu
from edge_runtime.errors import DeviceError

DRIVER = "libcuda.so.1"
_MOST = 64
_INTEGRATED, _MAJOR, _MINOR = 18, 75, 76  # of CUdevice_attribute
_NO_GPU = 100  # of CUresult


def cuda_gpus(root: Path = Path("/")) -> list[Gpu]:
    """Every GPU, in CUDA's order.

    Raises:
        DeviceError: there is no driver, or it fails.
    """
    try:
        driver = ctypes.CDLL(DRIVER)
    except OSError as error:
        raise DeviceError(f"no NVIDIA driver: {error}") from error
    count, version = ctypes.c_int(), ctypes.c_int()
    if (code := _call(driver, "cuInit", 0)) == _NO_GPU:
        return []
    _check("cuInit", code)
    _require(driver, "cuDriverGetVersion", ctypes.byref(version))
    _require(driver, "cuDeviceGetCount", ctypes.byref(count))
    api = f"CUDA {version.value // 1000}.{version.value % 1000 // 10}"
    number = text(sysfs(root) / "module/nvidia/version")
    name = None if not number else f"NVIDIA {number}"
    return [_gpu(driver, index, name, api) for index in range(min(count.value, _MOST))]


def _gpu(driver: ctypes.CDLL, index: int, driver_name: str | None, api: str) -> Gpu:
    device, name = ctypes.c_int(), ctypes.create_string_buffer(256)
    _require(driver, "cuDeviceGet", ctypes.byref(device), index)
    _require(driver, "cuDeviceGetName", name, len(name), device)
    integrated, major, minor = (
        _attribute(driver, device, which) for which in (_INTEGRATED, _MAJOR, _MINOR)
    )
    return Gpu(
        name=" ".join(name.value.decode(errors="replace").split()) or "without a name",
        kind=INTEGRATED if integrated else DISCRETE,
        driver=driver_name,
        api=api,
        compute_capability=f"{major}.{minor}",
    )


def _attribute(driver: ctypes.CDLL, device: ctypes.c_int, which: int) -> int:
    value = ctypes.c_int()
    _require(driver, "cuDeviceGetAttribute", ctypes.byref(value), which, device)
    return value.value


def _require(driver: ctypes.CDLL, function: str, *arguments: object) -> None:
    _check(function, _call(driver, function, *arguments))


def _check(function: str, code: int) -> None:
    if code:
        raise DeviceError(f"NVIDIA's driver fails: {function} returns {code}")


def _call(driver: ctypes.CDLL, function: str, *arguments: object) -> int:
    try:
        return int(getattr(driver, function)(*arguments))
    except AttributeError as error:
        raise DeviceError(f"{DRIVER} is not NVIDIA's driver: no {function}") from error
