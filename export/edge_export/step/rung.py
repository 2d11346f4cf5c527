"""The program of one rung: loss, gradient, update, and the whole step.

Functions take and return tensors by the names of a graph's inputs and outputs; outputs also
have roles (`edge_runtime.package.names`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from torch import Tensor
from torch.func import grad_and_value

from edge_export.border import Border
from edge_export.context import StepContext
from edge_export.declaration import STUDENT, TEACHER, added, differences, disjoint_union
from edge_export.policies import TokenPolicy
from edge_export.step.encoder import Encoded, GroupEncoder
from edge_export.step.optimizer import adamw, ema
from edge_export.vit import Weights
from edge_runtime.errors import ConfigError
from edge_runtime.package.manifest import DrawSpec
from edge_runtime.package.names import (
    BUFFER,
    GRAD,
    LOSS,
    MEAN,
    METRIC,
    NEXT,
    PARAM,
    SELECTION,
    STATE,
    SUM,
    TARGET_PREFIX,
)

if TYPE_CHECKING:
    from edge_export.axes import RungSettings
    from edge_export.step.program import Program

Tensors = Mapping[str, Tensor]


class StepOutputs(NamedTuple):
    """Outputs of the forward pass of a step."""

    metrics: dict[str, Tensor]  # the loss included
    selected: dict[str, Tensor]  # by output name
    buffers: dict[str, Tensor]  # new values by buffer name

    def at_border(self) -> Border:
        """Metrics and selections as graph outputs."""
        return Border().add(METRIC, self.metrics).add(SELECTION, self.selected)


class RungProgram:
    """One rung of a program. The number of images is its micro-batch, if it has one."""

    def __init__(self, program: Program, settings: RungSettings) -> None:
        self.program, self.settings = program, settings
        self.policy = program.policy(settings)
        self.parametrization = program.parametrization(settings)
        declared = {
            "token policy": self.policy.declaration,
            "parametrization": self.parametrization.declaration,
        }
        for part, declaration in declared.items():
            if kinds := differences(program.first_declared[part], declaration):
                raise ConfigError(
                    f"the {part} declares other {' and '.join(kinds)} than on the first "
                    "rung; only draws may differ between rungs."
                )
        self.trained = program.trained_names(settings.trained)
        self.images = settings.micro_batch or program.recipe.batch_size
        self.draws: tuple[DrawSpec, ...] = (
            *program.objective.declaration.draws,
            *self.policy.declaration.draws,
        )
        keep_all = TokenPolicy(self.policy.setting)
        self._encoders = {
            group.name: GroupEncoder(
                program.model,
                group,
                program.grid(group, settings),
                self.policy if group.pruned else keep_all,
                program.self_distillation.taps,
            )
            for group in program.views
        }

    def loss(self, parameters: Weights, inputs: Tensors) -> tuple[Tensor, StepOutputs]:
        """Loss of one batch, and the other outputs of its forward pass.

        Args:
            parameters: of the student, by parameter name.
            inputs: images, targets, draws, hyper-parameters, buffers and teacher, by name;
                the output of a teacher that ran before, if one did.
        """
        buffers = self.program.buffers_of(inputs)
        student = self._weights(parameters, STUDENT, buffers)
        teacher = self._teacher(inputs, buffers)
        encoded = self._encode(student, teacher, inputs)
        step = StepContext(
            weights=student,
            teacher_weights=teacher,
            student={k: e.student for k, e in encoded.items() if e.student is not None},
            teacher={k: e.teacher for k, e in encoded.items() if e.teacher is not None},
            patches={k: each.patches for k, each in encoded.items()},
            targets={
                g.name: inputs[TARGET_PREFIX + g.name] for g in self.program.target_groups
            },
            draws={draw.input: inputs[draw.input] for draw in self.draws},
            hyper={k: inputs[k] for k in self.program.hyper_parameters if k in inputs},
            buffers=buffers,
            recorded={k: each.recorded for k, each in encoded.items()},
        )
        result = self.program.objective.loss(step)
        for part in (self.policy, self.program.self_distillation, self.program.distillation):
            if (term := part.loss(step)) is not None:
                result = added(result, term)
        selected = disjoint_union("selection", *(each.selected for each in encoded.values()))
        metrics = disjoint_union("metric", {LOSS: result.loss}, result.metrics)
        return result.loss, StepOutputs(metrics, selected, dict(result.buffers))

    def student_tokens(self, inputs: Tensors) -> dict[str, tuple[int, ...]]:
        """Student tokens in the attention of each block, by view group."""
        buffers = self.program.buffers_of(inputs)
        parameters = {name: inputs[PARAM + name] for name in self.program.parameters}
        student = self._weights(parameters, STUDENT, buffers)
        encoded = self._encode(student, self._teacher(inputs, buffers), inputs)
        return {name: each.student_tokens for name, each in encoded.items() if each.student}

    def _weights(self, parameters: Weights, branch: str, buffers: Tensors) -> Weights:
        """The weights that a branch computes with, in the dtypes of its products."""
        weights = self.parametrization.weights(parameters, branch, buffers)
        return self.program.precision.weights(weights, self.program.parameters)

    def _teacher(self, inputs: Tensors, buffers: Tensors) -> Weights:
        """Weights of the EMA teacher; none for a method without."""
        names = self.program.teacher_names
        if not names:
            return {}
        parameters = {name: inputs[self.program.teacher_prefix + name] for name in names}
        return self._weights(parameters, TEACHER, buffers)

    def _encode(
        self, student: Weights, teacher: Weights, inputs: Tensors
    ) -> dict[str, Encoded]:
        """Every view group after the last block, by its name."""
        return {
            name: each.encode(student, teacher, inputs)
            for name, each in self._encoders.items()
        }

    def gradient(self, inputs: Tensors) -> tuple[Tensors, StepOutputs]:
        """Gradients of the trained parameters by name, and outputs of the forward pass."""
        parameters = {name: inputs[PARAM + name] for name in self.program.parameters}

        precision = self.program.precision

        def loss(trained: Weights) -> tuple[Tensor, StepOutputs]:
            value, outputs = self.loss({**parameters, **trained}, inputs)
            return precision.scaled(value, inputs), outputs

        trained = {name: parameters[name] for name in self.trained}
        gradients, (_, outputs) = grad_and_value(loss, has_aux=True)(trained)
        return precision.unscaled(gradients, inputs), outputs

    def step(self, inputs: Tensors) -> Border:
        """One training step: metrics, selections and the state that it changes."""
        gradients, outputs = self.gradient(inputs)
        new, metrics = self.update(gradients, outputs.buffers, inputs)
        return outputs.at_border().add(METRIC, metrics).add(STATE, _next(new))

    def accumulate(self, inputs: Tensors) -> Border:
        """A micro-batch: metrics, selections, and sums of gradients and new buffers.

        If the objective allows micro-batches, the loss of a batch is the mean over its
        micro-batches, which have one size; so is its gradient.
        """
        gradients, outputs = self.gradient(inputs)
        share = self.images / self.program.recipe.batch_size
        parts = {
            **{GRAD + name: gradient for name, gradient in gradients.items()},
            **{MEAN + BUFFER + name: value for name, value in outputs.buffers.items()},
        }
        sums = {
            name: inputs[name] + (part if share == 1 else part * share)
            for name, part in parts.items()
        }
        return outputs.at_border().add(SUM, _next(sums))

    def apply(self, inputs: Tensors) -> Border:
        """AdamW and EMA with the sums of `accumulate`: the state that a step changes."""
        gradients = {name: inputs[GRAD + name] for name in self.trained}
        buffers = {
            name: inputs[MEAN + BUFFER + name]
            for name in self.program.buffers
            if MEAN + BUFFER + name in inputs
        }
        new, metrics = self.update(gradients, buffers, inputs)
        return Border().add(METRIC, metrics).add(STATE, _next(new))

    def update(
        self, gradients: Tensors, buffers: Tensors, inputs: Tensors
    ) -> tuple[Tensors, Tensors]:
        """The state after AdamW, the EMA teacher and the buffers, by state name; and metrics.

        The state is the one before if the precision skips the update. The late teacher is not
        part of it: it is the one before this step in any case.
        """
        program = self.program
        new = adamw(
            [program.parameters[name] for name in self.trained],
            gradients,
            inputs,
            groups=program.update_groups,
            exempt_vectors=program.recipe.optimizer.exempt_vectors,
        )
        copied = [name for name in program.teacher_names if name in self.trained]
        new |= ema(copied, {**inputs, **new})
        new |= {BUFFER + name: value for name, value in buffers.items()}
        chosen, metrics = program.precision.select(new, gradients.values(), inputs)
        return {**chosen, **program.late_teacher(inputs)}, metrics


def _next(tensors: Tensors) -> dict[str, Tensor]:
    return {NEXT + name: value for name, value in tensors.items()}
