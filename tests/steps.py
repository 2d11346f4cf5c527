"""Batches and hyper-parameters of a few steps, for tests of engines."""

import numpy as np
from crops import some_crops

from edge_runtime.data import draw_inputs
from edge_runtime.engines import Batch, Hyper
from edge_runtime.package import Package
from edge_runtime.package.curves import hyper_parameters


def noise_batch(package: Package, rung_id: str, step: int) -> Batch:
    """Random pictures and the draws of the rung; the same step gives the same."""
    manifest, generator = package.manifest, np.random.default_rng(step)
    images = {
        f"images.{group.name}": generator.integers(
            0,
            256,
            (len(group.views), manifest.batch_size, group.size_px, group.size_px, 3),
            dtype=np.uint8,
        )
        for group in manifest.views
    }
    pictures = range(step * manifest.batch_size, (step + 1) * manifest.batch_size)
    draws = draw_inputs(
        package.rung(rung_id).draws,
        seed=0,
        epoch=1,
        pictures=pictures,
        crops=some_crops(manifest.views, pictures),
    )
    return {**images, **draws}


def hyper_of(package: Package, step: int, total_steps: int = 20) -> Hyper:
    """Hyper-parameters of step `step` (from 1) of a run of one epoch."""
    return hyper_parameters(
        package.manifest.hyper_parameters,
        step,
        steps_per_epoch=total_steps,
        total_steps=total_steps,
    )
