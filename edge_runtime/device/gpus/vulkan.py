"""The adapters that the Vulkan loader offers, read from the loader itself.

Drivers run inside the process that asks, and a broken one crashes or hangs it: only the child
process of `survey` calls this.
"""

import ctypes
from collections.abc import Iterator

from edge_runtime.device.gpus.gpu import DISCRETE, INTEGRATED, OTHER, SOFTWARE, VIRTUAL, Gpu
from edge_runtime.errors import DeviceError

LOADER = "libvulkan.so.1"
_MOST = 64  # adapters; a driver that counts more is broken
_KINDS = (OTHER, INTEGRATED, DISCRETE, VIRTUAL, SOFTWARE)  # by VkPhysicalDeviceType
_INCOMPLETE, _NO_DRIVER = 5, -9  # of VkResult
_VULKAN_1_1 = 1 << 22 | 1 << 12
# VkStructureType
_APPLICATION, _INSTANCE, _PROPERTIES, _DRIVER = 0, 1, 1000059001, 1000196000
_NVIDIA = 0x10DE

_Name = ctypes.c_char * 256


class _Application(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("name", ctypes.c_char_p),
        ("version", ctypes.c_uint32),
        ("engine", ctypes.c_char_p),
        ("engine_version", ctypes.c_uint32),
        ("api_version", ctypes.c_uint32),
    )


class _Instance(ctypes.Structure):
    _fields_ = (
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("flags", ctypes.c_uint32),
        ("application", ctypes.POINTER(_Application)),
        ("layers", ctypes.c_uint32),
        ("layer_names", ctypes.c_void_p),
        ("extensions", ctypes.c_uint32),
        ("extension_names", ctypes.c_void_p),
    )


class _Driver(ctypes.Structure):
    """VkPhysicalDeviceDriverProperties; stays empty where the driver is older than it."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("id", ctypes.c_int),
        ("name", _Name),
        ("info", _Name),
        ("conformance", ctypes.c_uint8 * 4),
    )


class _Properties(ctypes.Structure):
    """VkPhysicalDeviceProperties2, whose limits nobody reads here."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("next", ctypes.c_void_p),
        ("api_version", ctypes.c_uint32),
        ("driver_version", ctypes.c_uint32),
        ("vendor", ctypes.c_uint32),
        ("device", ctypes.c_uint32),
        ("kind", ctypes.c_uint32),
        ("name", _Name),
        ("limits", ctypes.c_uint64 * 128),  # more than the 540 bytes that are written
    )


def vulkan_gpus() -> list[Gpu]:
    """Every adapter, in the loader's order.

    Raises:
        DeviceError: there is no loader, no driver, or none that knows Vulkan 1.1.
    """
    try:
        loader = ctypes.CDLL(LOADER)
        ask = loader.vkGetPhysicalDeviceProperties2
    except OSError as error:
        raise DeviceError(f"no Vulkan loader: {error}") from error
    except AttributeError as error:
        raise DeviceError(f"{LOADER} is older than Vulkan 1.1") from error
    instance = _create_instance(loader)
    try:
        return [_gpu(ask, adapter) for adapter in _adapters(loader, instance)]
    finally:
        loader.vkDestroyInstance(instance, None)


def _create_instance(loader: ctypes.CDLL) -> ctypes.c_void_p:
    application = _Application(type=_APPLICATION, api_version=_VULKAN_1_1)
    wanted = _Instance(type=_INSTANCE, application=ctypes.pointer(application))
    instance = ctypes.c_void_p()
    result = loader.vkCreateInstance(ctypes.byref(wanted), None, ctypes.byref(instance))
    if result == _NO_DRIVER:
        raise DeviceError(f"{LOADER} finds no Vulkan driver")
    if result:
        raise DeviceError(f"{LOADER} cannot be used: vkCreateInstance returns {result}")
    return instance


def _adapters(loader: ctypes.CDLL, instance: ctypes.c_void_p) -> Iterator[ctypes.c_void_p]:
    count = ctypes.c_uint32(_MOST)
    handles = (ctypes.c_void_p * _MOST)()
    result = loader.vkEnumeratePhysicalDevices(instance, ctypes.byref(count), handles)
    if result not in (0, _INCOMPLETE):
        raise DeviceError(
            f"Vulkan's drivers fail: vkEnumeratePhysicalDevices returns {result}"
        )
    yield from (ctypes.c_void_p(each) for each in handles[: count.value] if each)


def _gpu(ask: "ctypes._NamedFuncPointer", adapter: ctypes.c_void_p) -> Gpu:
    driver = _Driver(type=_DRIVER)
    found = _Properties(type=_PROPERTIES, next=ctypes.addressof(driver))
    ask(adapter, ctypes.byref(found))
    return Gpu(
        name=_text(found.name) or "without a name",
        kind=_KINDS[found.kind] if found.kind < len(_KINDS) else OTHER,
        driver=f"{_text(driver.name)} {_text(driver.info)}".strip() or _version(found),
        api=f"Vulkan {_numbers(found.api_version, 10, 10, 12)}",
    )


def _text(raw: bytes) -> str:
    return " ".join(raw.decode(errors="replace").split())


def _version(found: _Properties) -> str:
    """The driver's version; NVIDIA packs its number in a way of its own."""
    parts = (10, 8, 8, 6) if found.vendor == _NVIDIA else (10, 10, 12)
    return _numbers(found.driver_version, *parts)


def _numbers(packed: int, *bits: int) -> str:
    """The parts of a version of 32 bits, the highest first: "1.4.305"."""
    parts = []
    for width in reversed(bits):
        parts.append(packed & ((1 << width) - 1))
        packed >>= width
    return ".".join(map(str, reversed(parts)))
