"""One training step repeatedly: the batch, the hyper-parameters and the clock.

The same package gives every engine the same batch and the same initial weights, so all of them
must have the same loss in their first step.
"""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edge_runtime.package import Package, open_package
from edge_runtime.package.curves import COUNT
from edge_runtime.package.manifest import Rung
from parts.common import peak_rss_bytes
from parts.gpu import Gpu

Job = Mapping[str, Any]  # engine, package, rung or keep_ratio, threads, warm_up, steps


def open_package_of(job: Job) -> Package:
    """The package of a job."""
    return open_package(Path(job["package"]))


def open_job(job: Job) -> tuple[Package, Rung]:
    """The package of a job and the rung that it measures."""
    package = open_package_of(job)
    if "rung" in job:
        return package, package.rung(job["rung"])
    return package, package.rung_with_keep_ratio(job["keep_ratio"])


def batch_of(package: Package, rung: Rung, seed: int = 0) -> dict[str, NDArray[Any]]:
    """Noise as pictures, and the draws of the rung, by graph input name."""
    generator = np.random.default_rng(seed)
    count = package.manifest.batch_size
    images = {
        f"images.{group.name}": generator.integers(
            0, 256, (len(group.views), count, group.size_px, group.size_px, 3), np.uint8
        )
        for group in package.manifest.views
    }
    # Drawn here, because `edge_runtime.data` would add OpenCV to the measured memory.
    draws = {}
    for draw in rung.draws:
        patches = np.tile(np.arange(draw.population), (draw.views, count, 1))
        draws[draw.input] = np.sort(generator.permuted(patches, axis=-1)[..., : draw.kept])
    return {**images, **draws}


def hyper_of(package: Package, step: int) -> dict[str, float]:
    """Hyper-parameters of a step: the first value of each curve, so the highest rate."""
    curves = package.manifest.hyper_parameters
    return {
        name: float(step) if curve.shape == COUNT else curve.first
        for name, curve in curves.items()
    }


def measured(step: Callable[[int], float], job: Job, gpu: Gpu | None = None) -> dict[str, Any]:
    """Time the steps after the warm-up.

    Args:
        step: trains the step with a number from 1, returns its loss.
        job: has the number of steps.
        gpu: whose energy and memory are read, too; unknown is None.
    """
    losses = [step(number) for number in range(1, job["warm_up"] + 1)]
    before_j, step_ms = gpu.energy_j() if gpu else None, []
    for number in range(job["warm_up"] + 1, job["warm_up"] + job["steps"] + 1):
        begin_s = time.perf_counter()
        step(number)
        step_ms.append(1000 * (time.perf_counter() - begin_s))
    after_j = gpu.energy_j() if gpu else None
    spent_j = None if before_j is None or after_j is None else after_j - before_j
    return {
        "step_ms": step_ms,
        "peak_rss_bytes": peak_rss_bytes(),
        "first_loss": losses[0],
        "gpu_energy_j": None if spent_j is None else spent_j / job["steps"],
        "gpu_bytes": gpu.used_bytes() if gpu else None,
    }
