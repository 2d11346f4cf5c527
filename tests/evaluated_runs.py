"""Runs with checkpoints of the tiny encoder, and pictures of two colours to evaluate them."""

from dataclasses import replace

import cv2
import numpy as np
from tiny_encoder import SIZE_PX, make_state
from training_fakes import INFO, SETTINGS, SPENT

from edge_runtime.records import RunWriter, create_run, open_run
from edge_runtime.records.totals import Losses

CHANNELS = {"blue": 0, "red": 2}


def make_run(folder, package, *steps):
    """A run folder with a checkpoint after each of the steps."""
    settings = replace(SETTINGS, package_digest=package.digest)
    info = replace(INFO, settings=settings, package_path=str(package.path))
    create_run(folder, info)
    for step in steps:
        save_checkpoint(folder, step, make_state(step))
    return folder


def save_checkpoint(folder, step, state):
    with RunWriter(open_run(folder)) as writer:
        writer.save(state, step=step, epoch=0, spent=SPENT, losses=Losses())


def write_colours(folder, count):
    """`count` pictures of noise in `blue`, and as many in `red`."""
    rng = np.random.default_rng(count)
    for colour, channel in CHANNELS.items():
        (folder / colour).mkdir(parents=True)
        for number in range(count):
            image = rng.integers(0, 100, (SIZE_PX, SIZE_PX, 3), dtype=np.uint8)
            image[..., channel] += 100
            cv2.imwrite(str(folder / colour / f"{number}.png"), image)
