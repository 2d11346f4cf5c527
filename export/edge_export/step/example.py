"""Inputs of one step for tracing and for checks: random images and draws."""

import torch
from torch import Tensor

from edge_export.step.rung import RungProgram
from edge_runtime.package.names import IMAGES_PREFIX, TARGET_PREFIX, TEACHER_PREFIX


def example_images(rung: RungProgram, *, seed: int = 0) -> dict[str, Tensor]:
    """Random images of the rung's batch or micro-batch by input name."""
    generator = torch.Generator().manual_seed(seed)
    images = {}
    for group in rung.program.views:
        size = group.size_px
        shape = (len(group.views), rung.images, size, size, 3)
        images[IMAGES_PREFIX + group.name] = torch.randint(
            0, 256, shape, dtype=torch.uint8, generator=generator
        )
    return images


def example_targets(rung: RungProgram) -> dict[str, Tensor]:
    """Random targets for tracing, of the rung's batch or micro-batch, by input name."""
    program, generator = rung.program, torch.Generator().manual_seed(0)
    widths = {
        TEACHER_PREFIX + group.name: (group, program.teacher_width)
        for group in program.teacher_groups
    }
    if program.frozen is not None:
        for group in program.target_groups:
            widths[TARGET_PREFIX + group.name] = group, program.frozen.width
    return {
        name: torch.randn(len(group.views), rung.images, width, generator=generator)
        for name, (group, width) in widths.items()
    }


def example_draws(rung: RungProgram, *, seed: int = 0) -> dict[str, Tensor]:
    """Random draws for the rung's batch or micro-batch by input name."""
    generator = torch.Generator().manual_seed(seed)
    draws = {}
    for draw in rung.draws:
        noise = torch.rand(draw.views, rung.images, draw.population, generator=generator)
        chosen = noise.argsort(-1)[..., : draw.kept].sort(-1)[0]
        draws[draw.input] = chosen.to(torch.int32)
    return draws
