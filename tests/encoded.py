"""A view group through the encoder of a rung, for tests that look inside a step."""

from edge_export.step.encoder import Encoded, GroupEncoder
from edge_export.step.rung import RungProgram, Tensors
from edge_export.vit import Weights


def encoded(rung: RungProgram, weights: Weights, inputs: Tensors) -> Encoded:
    """The first view group after the last block; the student alone."""
    program = rung.program
    group = program.views[0]
    grid = program.grid(group, rung.settings)
    return GroupEncoder(program.model, group, grid, rung.policy).encode(weights, {}, inputs)
