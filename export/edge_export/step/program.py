"""A recipe as a program: the parts of a step, bound for each rung.

Everything a package runs is lowered from the functions of `RungProgram` and `Program`;
PyTorch runs the same functions when a package is verified.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import cached_property
from itertools import chain

import torch
from torch import Tensor

from edge_export import vit
from edge_export.axes import RungSettings, trained_names
from edge_export.declaration import STUDENT, TEACHER, Declaration, ViewGroup, merged
from edge_export.objectives import Distillation, SelfDistillation, objective_named
from edge_export.parameters import Buffer, Parameter, initial_values
from edge_export.parametrizations import (
    Parametrization,
    ParametrizationSetting,
    parametrization_named,
)
from edge_export.patches import PatchGrid
from edge_export.policies import TokenPolicy
from edge_export.recipe import Recipe
from edge_export.step.encoder import GroupEncoder
from edge_export.step.optimizer import update_groups
from edge_export.step.precision import Precision, precision_named
from edge_export.step.rung import RungProgram
from edge_export.vit import Weights
from edge_runtime.errors import ConfigError
from edge_runtime.package.curves import Curve
from edge_runtime.package.manifest import ModelFacts
from edge_runtime.package.names import (
    BUFFER,
    EMA,
    EXP_AVG,
    EXP_AVG_SQ,
    LATE,
    PARAM,
    UPDATES,
)


class Program:
    """The common part of all rungs of a recipe."""

    def __init__(self, recipe: Recipe, precision: Precision | None = None) -> None:
        """Bind the parts of the recipe.

        Args:
            recipe: checked.
            precision: of the steps; `None`: the recipe's.

        Raises:
            ConfigError: two parts use one name, or cannot be combined; no teacher to evaluate.
        """
        self.recipe = recipe
        self.model: ModelFacts = recipe.facts()
        self.objective = objective_named(recipe.method.name)(
            self.model, recipe.method_options()
        )
        self.views: tuple[ViewGroup, ...] = recipe.augmented(self.objective.declaration.views)
        self.settings: tuple[RungSettings, ...] = recipe.rungs()
        self.precision = precision or precision_named(recipe.precision)
        # Steps by which a teacher that runs before a step is late; None: it is part of steps
        self.teacher_delay: int | None = recipe.method.teacher_delay
        self.frozen: ModelFacts | None = recipe.frozen_facts()
        # Terms of the loss beside the objective's and the policy's
        self.self_distillation = SelfDistillation(self.model, recipe.self_distillation.weight)
        self.distillation = Distillation(self.model, self.frozen, recipe.distillation.weight)
        first = self.settings[0]
        policy = self.policy(first)
        of_policy = replace(policy.declaration, draws=())  # they differ by rung
        # Made here, since a trace must not compute the matrices of patch grids
        keep_all = TokenPolicy(policy.setting)
        self._embedding_encoder = _without_pruning(self.model, keep_all)
        self._frozen_encoder = (
            None if self.frozen is None else _without_pruning(self.frozen, keep_all)
        )
        self._teacher_encoder = _without_pruning(self.model, policy.teacher_recorder())
        # Numbers that a teacher before the step gives for an image
        self.teacher_width = self.model.width * (
            1 + len(policy.recorded_blocks) * self.model.tokens
        )
        self._declared = merged(
            Declaration(parameters=self._encoder_parameters()),
            self.objective.declaration,
            of_policy,
            # Last: initial values of encoder and method stay the same
            self.self_distillation.declaration,
            self.distillation.declaration,
        )
        of_weights = self.parametrization(first).declaration
        if self.teacher_delay is not None and of_weights.buffers:
            raise ConfigError(
                f"method.teacher_delay: parametrization {recipe.parametrization.name!r} needs "
                "buffers of the step, which the teacher's own graph does not have. Leave out "
                "one of the two."
            )
        self.declaration = merged(self._declared, of_weights, self.precision.declaration)
        # By part: what it declares on the first rung, and must declare on the others
        self.first_declared = {"token policy": of_policy, "parametrization": of_weights}
        self.parameters: dict[str, Parameter] = {
            parameter.name: parameter for parameter in self.declaration.parameters
        }
        self.buffers: dict[str, Buffer] = {
            buffer.name: buffer for buffer in self.declaration.buffers
        }
        copied = self.objective.declaration.teacher
        self.teacher_names = tuple(
            name for name in self.parameters if copied and name.startswith(copied)
        )
        if self.encoder_prefix == EMA and not set(self.encoder_names) <= set(
            self.teacher_names
        ):
            raise ConfigError(
                f"method {recipe.method.name} declares that the teacher's encoder is "
                "evaluated, and its teacher copies only part of the encoder."
            )

    def _encoder_parameters(self) -> tuple[Parameter, ...]:
        """The encoder's parameters, those that the method's loss does not depend on marked."""
        # What the method's own head cancels, that of distillation does not
        unused = self.objective.declaration.zero_gradient if self.frozen is None else ()
        parameters = vit.encoder_parameters(self.model)
        return tuple(replace(each, zero_gradient=each.name in unused) for each in parameters)

    @cached_property
    def hyper_parameters(self) -> dict[str, Curve]:
        """Every hyper-parameter of a step with its curve.

        Raises:
            ConfigError: a part uses a name of the optimizer.
        """
        of_optimizer = Declaration(
            hyper_parameters=self.recipe.optimizer_curves(has_teacher=bool(self.teacher_names))
        )
        return dict(merged(of_optimizer, self.declaration).hyper_parameters)

    @cached_property
    def update_groups(self) -> dict[str, str | None]:
        """The update counter of each parameter, see `optimizer.update_groups`."""
        labels = dict.fromkeys(settings.trained for settings in self.settings)
        return update_groups(
            self.parameters,
            {label: self.trained_names(label) for label in labels},
            may_skip=self.precision.may_skip,
        )

    def trained_names(self, trained: str) -> tuple[str, ...]:
        """Names of the parameters that a rung with this `trained` field updates."""
        return trained_names(self.parameters.values(), trained, self.model)

    def grid(self, group: ViewGroup, settings: RungSettings) -> PatchGrid:
        """The patch grid of a view group on a rung; the model's for groups without pruning."""
        size_px = settings.patch_size_px if group.pruned else self.model.patch_size_px
        return PatchGrid(self.model, size_px=group.size_px, patch_size_px=size_px)

    def policy(self, settings: RungSettings) -> TokenPolicy:
        """The token policy of a rung."""
        return self.recipe.token_policy(self.objective.declaration, settings)

    def parametrization(self, settings: RungSettings) -> Parametrization:
        """The parametrization of a rung."""
        return parametrization_named(self.recipe.parametrization.name)(
            ParametrizationSetting(
                model=self.model,
                parameters=self._declared.parameters,
                rung=settings,
                seed=self.recipe.seed,
                options=self.recipe.parametrization_options(),
            )
        )

    def bind(self, settings: RungSettings) -> RungProgram:
        """The program of a rung.

        Raises:
            ConfigError: the parts of the recipe do not work together on this rung.
        """
        try:
            return RungProgram(self, settings)
        except ConfigError as error:
            raise ConfigError(f"rung {settings.id}: {error}") from error

    def initial_state(self) -> dict[str, Tensor]:
        """State before the first step: fresh weights, a copy as teacher, zero moments."""
        weights = initial_values(self.parameters.values(), self.recipe.seed)
        return dict(chain.from_iterable(self._state_of(weights)))

    def _state_of(self, weights: Weights) -> Iterator[list[tuple[str, Tensor]]]:
        yield [(PARAM + name, value) for name, value in weights.items()]
        for prefix in dict.fromkeys((EMA, self.teacher_prefix)):
            yield [(prefix + name, weights[name].clone()) for name in self.teacher_names]
        trained = {n for each in self.settings for n in self.trained_names(each.trained)}
        moments = {name: value for name, value in weights.items() if name in trained}
        for prefix in (EXP_AVG, EXP_AVG_SQ):
            yield [(prefix + name, torch.zeros_like(v)) for name, v in moments.items()]
        yield [(BUFFER + name, buffer.initial) for name, buffer in self.buffers.items()]
        groups = dict.fromkeys(group for group in self.update_groups.values() if group)
        yield [(UPDATES + group, torch.zeros(())) for group in groups]

    def buffers_of(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The buffers among the inputs of a graph, by buffer name."""
        return {
            name: inputs[BUFFER + name] for name in self.buffers if BUFFER + name in inputs
        }

    @property
    def encoder_prefix(self) -> str:
        """Prefix in the state of the encoder that is evaluated and exported."""
        return {STUDENT: PARAM, TEACHER: EMA}[self.objective.declaration.evaluated]

    @property
    def encoder_names(self) -> tuple[str, ...]:
        """Names of the encoder's parameters."""
        return tuple(p.name for p in vit.encoder_parameters(self.model))

    def merge(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """State -> the evaluated encoder's transformed weights, by parameter name."""
        branch, prefix = self.objective.declaration.evaluated, self.encoder_prefix
        parameters = {
            name: inputs[prefix + name] for name in self.parameters if prefix + name in inputs
        }
        parametrization = self.parametrization(self.settings[0])
        weights = parametrization.merged(parameters, branch, self.buffers_of(inputs))
        return {name: weights[name] for name in self.encoder_names}

    def embed(self, weights: Weights, images: Tensor) -> Tensor:
        """Features (R, D) of images (R, height, width, 3) uint8, without pruning.

        In float32 whatever the precision of the steps: any processor can evaluate a run.
        """
        return self._embedding_encoder.features(weights, images)

    @property
    def teacher_prefix(self) -> str:
        """Prefix in the state of the teacher that a step learns from."""
        return LATE if self.teacher_delay else EMA

    def late_teacher(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The teacher before a step, to learn from in the next one; by state name."""
        names = self.teacher_names if self.teacher_delay else ()
        return {LATE + name: inputs[EMA + name] for name in names}

    @property
    def teacher_groups(self) -> tuple[ViewGroup, ...]:
        """View groups that a teacher before the step encodes; none if it is part of steps."""
        groups = [group for group in self.views if group.teacher]
        return () if self.teacher_delay is None else tuple(groups)

    def teacher_output(self, parameters: Weights, images: Tensor) -> Tensor:
        """A teacher before the step: images (S, height, width, 3) uint8 -> (S, E) float32.

        Args:
            parameters: all of the teacher, by parameter name.
            images: of one view group.
        """
        parametrization = self.parametrization(self.settings[0])
        weights = parametrization.merged(parameters, TEACHER, {})
        return self._teacher_encoder.features(weights, images)

    @property
    def target_groups(self) -> tuple[ViewGroup, ...]:
        """View groups with targets: those of the images' size that the student encodes."""
        size_px = self.model.image_size_px
        groups = [group for group in self.views if group.student and group.size_px == size_px]
        return () if self.frozen is None else tuple(groups)

    def targets(self, weights: Weights, images: Tensor) -> Tensor:
        """Features by the frozen encoder: (S, height, width, 3) uint8 -> (S, E) float32."""
        assert self._frozen_encoder is not None  # there are target groups
        return self._frozen_encoder.features(weights, images)


def _without_pruning(model: ModelFacts, policy: TokenPolicy) -> GroupEncoder:
    """The encoder of a forward graph; its policy keeps all tokens."""
    size_px = model.image_size_px
    grid = PatchGrid(model, size_px=size_px, patch_size_px=model.patch_size_px)
    group = ViewGroup(name="images", size_px=size_px, views=(), teacher=False)
    return GroupEncoder(model, group, grid, policy)
