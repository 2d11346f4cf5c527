"""Inputs of one step for tracing and for checks: random pictures and draws."""

import torch
from torch import Tensor

from edge_export.policies import TokenPolicy
from edge_export.step.program import GLOBAL_VIEWS, Program


def example_inputs(
    program: Program, policy: TokenPolicy, *, seed: int = 0
) -> dict[str, Tensor]:
    """Images and draws of the policy's pictures by input name; one seed gives the same."""
    generator = torch.Generator().manual_seed(seed)
    views, size = len(program.views.views), program.views.size_px
    shape = (views, policy.setting.batch_size, size, size, 3)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator)
    made = {GLOBAL_VIEWS: images}
    for draw in policy.draws:
        noise = torch.rand(*shape[:2], draw.population, generator=generator)
        made[draw.input] = noise.argsort(-1)[..., : draw.kept].sort(-1)[0]
    return made
