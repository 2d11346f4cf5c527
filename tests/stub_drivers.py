"""Libraries that stand for GPU drivers, compiled here: no broken one is to be had.

A process finds them through LD_LIBRARY_PATH, in place of the real ones.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

VULKAN, CUDA = "libvulkan.so.1", "libcuda.so.1"

# Two GPUs of a Jetson AGX: one that is integrated, and one in a slot.
CUDA_SOURCE = """
#include <string.h>
int cuInit(unsigned flags) { return INIT; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetCount(int *count) { *count = COUNT; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
    strncpy(name, device ? "RTX A6000" : "Orin\\x1b[2J\\n\\xff", size); return 0; }
int cuDeviceGetAttribute(int *value, int which, int device) {
    *value = which == 18 ? !device : which == 75 ? 8 : which == 76 ? (device ? 6 : 7) : -1;
    return 0; }
"""
# NAMES and KINDS are those of the adapters; BEFORE runs when an instance is created.
VULKAN_SOURCE = """
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
struct properties {
    int type; void *next; uint32_t api, driver, vendor, device, kind; char name[256];
};
static const char *names[] = {NAMES};
static const uint32_t kinds[] = {KINDS};
#define ADAPTERS (sizeof kinds / sizeof kinds[0])
int vkCreateInstance(void *info, void *allocator, void **instance) {
    BEFORE; *instance = names; return RESULT; }
void vkDestroyInstance(void *instance, void *allocator) {}
int vkEnumeratePhysicalDevices(void *instance, uint32_t *count, void **adapters) {
    for (uintptr_t i = 0; i < ADAPTERS && i < *count; i++) adapters[i] = (void *)(i + 1);
    *count = CLAIMED; return 0; }
void vkGetPhysicalDeviceProperties2(void *adapter, struct properties *found) {
    uintptr_t i = (uintptr_t)adapter - 1;
    found->api = 1u << 22 | 3 << 12 | 255; found->vendor = 0x10de;
    found->driver = 540u << 22 | 4 << 14 | 2 << 6;
    found->kind = kinds[i]; strcpy(found->name, names[i]); }
"""
DISCRETE, INTEGRATED, SOFTWARE = 2, 1, 4  # as Vulkan counts them


def cuda(folder: Path, *, count: int = 2, init: int = 0) -> None:
    _compile(folder / CUDA, CUDA_SOURCE, COUNT=str(count), INIT=str(init))


def vulkan(
    folder: Path,
    *adapters: tuple[str, int],
    before: str = "",
    result: int = 0,
    claimed: str = "ADAPTERS",
) -> None:
    """A loader with these adapters; `before` is C, `claimed` how many it says there are."""
    _compile(
        folder / VULKAN,
        VULKAN_SOURCE,
        NAMES=", ".join(f'"{name}"' for name, _ in adapters) or '""',
        KINDS=", ".join(str(kind) for _, kind in adapters) or "0",
        BEFORE=before,
        RESULT=str(result),
        CLAIMED=claimed,
    )


def _compile(library: Path, source: str, **values: str) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    code = library.with_suffix(".c")
    defined = "".join(f"#define {name} {value}\n" for name, value in values.items())
    code.write_text(defined + source)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, code], check=True)
