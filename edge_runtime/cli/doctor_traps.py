"""Known traps of GPUs and runtimes on this machine, each with its cure."""

from collections.abc import Iterator, Mapping
from typing import Any

from edge_runtime.device import gpus
from edge_runtime.engines.devices import PLUGIN
from edge_runtime.engines.runtime import RUNTIMES
from edge_runtime.errors import how_to_install

_VERIFIED = (0, 4, 0)  # the first version of the plugin that was
# Of error messages of the runtime.
_NO_KERNEL, _TOO_OLD = "no kernel image", "below the minimum required version"


def find_traps(
    versions: Mapping[str, str],
    surveys: Mapping[str, gpus.Survey],
    devices: list[dict[str, Any]],
    closed_files: Mapping[str, str],
) -> list[str]:
    """A sentence or two for each.

    Args:
        versions: of the installed distributions.
        surveys: of GPUs, by interface.
        devices: the findings of the trials on GPUs.
        closed_files: that lead to a GPU, and the cure of each; they matter to `devices`.
    """
    traps = list(_of_runtimes(versions))
    for finding in devices:
        traps += _of_trial(finding)
    if devices:
        traps += [f"{path} may not be opened: {cure}." for path, cure in closed_files.items()]
    if PLUGIN in versions:
        traps += _of_vulkan(surveys[gpus.VULKAN])
    return traps


def _of_runtimes(versions: Mapping[str, str]) -> Iterator[str]:
    if len(installed := sorted(versions.keys() & set(RUNTIMES))) > 1:
        yield (
            f"{' and '.join(installed)} overwrite each other: keep one per environment. "
            f"Remove all of them (pip uninstall {' '.join(installed)}), then install one."
        )
    if PLUGIN in versions and _numbers(versions[PLUGIN]) < _VERIFIED:
        verified = ".".join(map(str, _VERIFIED))
        yield (
            f"{PLUGIN} {versions[PLUGIN]} is older than {verified}, the first that was "
            f"verified: {how_to_install('webgpu')}."
        )


def _of_trial(finding: dict[str, Any]) -> Iterator[str]:
    """What the error of a trial means."""
    problem, gpu = finding["problem"] or "", finding["gpu"]
    if _NO_KERNEL in problem:
        capability = gpu["compute_capability"] if gpu else None
        yield (
            f"This onnxruntime-gpu has no code for compute capability {capability or '?'} of "
            "the GPU. PyPI's has none for Orin (8.7) and Thor (11.0): install NVIDIA's wheel "
            "for this JetPack, or train with --device webgpu (docs/gpu.md)."
        )
    if _TOO_OLD in problem:
        yield (
            "The plugin needs a newer ONNX Runtime: pip install --upgrade onnxruntime, on "
            "Python 3.11 or newer (3.10 has none that is new enough)."
        )


def _of_vulkan(survey: gpus.Survey) -> Iterator[str]:
    problem = survey.problem
    if problem is not None:
        yield (
            f"Vulkan cannot be used: {problem}. Install the loader (apt install libvulkan1) "
            "and the GPU's driver (apt install mesa-vulkan-drivers; NVIDIA's comes with its "
            "driver, a Jetson's with L4T); into a container, pass /dev/dri and its files."
        )
    elif all(gpu.is_software for gpu in survey.gpus):
        yield (
            f"Vulkan offers only {survey.gpus[0].name}, a processor that pretends to be a "
            "GPU: --device auto never takes it. The GPU's own Vulkan driver is missing."
        )


def _numbers(version: str) -> tuple[int, ...]:
    """The numbers of a version before anything else: (0, 4, 0) of "0.4.0.dev1"."""
    parts = []
    for part in version.split(".")[:3]:
        if not part.isascii() or not part.isdigit():
            break
        parts.append(int(part))
    return tuple(parts)
