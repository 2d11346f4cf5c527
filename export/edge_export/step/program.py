"""What the graphs compute, as torch functions of named tensors.

Everything a package runs is lowered from the functions here: `gradient` and `apply` (a step is
one after the other), `accumulate` (a micro-batch's gradient on top of a sum), `update` (the
teacher alone, for the official API) and `embed` (no gradient). PyTorch runs the same functions
when a package is verified.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.func import grad_and_value

from edge_export import vit
from edge_export.objectives import objective_named
from edge_export.parameters import Parameter, initial_values
from edge_export.policies import Setting, TokenPolicy, policy_named
from edge_export.policies.base import Branches, embed_all
from edge_export.recipe import Recipe
from edge_export.vit import Weights
from edge_runtime.package.manifest import ModelFacts, ViewGroup
from edge_runtime.package.references import EMA_MOMENTUM, GRAD, LOSS, NEXT
from edge_runtime.state import EMA, EXP_AVG, EXP_AVG_SQ, PARAM

Tensors = Mapping[str, Tensor]

ENCODER = "encoder."
GLOBAL_VIEWS = "images.global"
FEATURES_OUTPUT = "features"
ADAMW = ("lr", "weight_decay", "beta1", "beta2", "eps", "step")  # hyper-parameters


class Program:
    """A recipe bound to its objective and model; rungs differ in the policy alone."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.model: ModelFacts = recipe.facts()
        self.objective = objective_named(recipe.method.name)
        self.method_options: Any = recipe.method_options()
        self.views = ViewGroup(
            name="global",
            size_px=self.model.image_size_px,
            views=recipe.views(),
        )
        encoder = vit.encoder_parameters(self.model)
        heads = self.objective.heads(self.model.width, self.method_options)
        self.parameters: dict[str, Parameter] = {
            **{ENCODER + parameter.name: parameter for parameter in encoder},
            **{parameter.name: parameter for parameter in heads},
        }
        self.teacher_names = tuple(
            name for name in self.parameters if name.startswith(self.objective.teacher_parts)
        )

    def policy(self, keep_ratio: float, pictures: int | None = None) -> TokenPolicy:
        """The token policy of one rung, for the whole batch or for so many pictures."""
        setting = Setting(
            model=self.model,
            keep_ratio=keep_ratio,
            views=len(self.views.views),
            batch_size=pictures or self.recipe.batch_size,
            has_teacher=bool(self.teacher_names),
            options=self.recipe.token_options(),
        )
        return policy_named(self.recipe.tokens.name)(setting)

    def initial_state(self) -> dict[str, Tensor]:
        """State before the first step: fresh weights, the teacher a copy, moments zero."""
        declared = tuple(self.parameters.values())
        values = initial_values(declared, self.recipe.seed)
        weights = {key: values[parameter.name] for key, parameter in self.parameters.items()}
        return {
            **{PARAM + key: value for key, value in weights.items()},
            **{EMA + key: weights[key].clone() for key in self.teacher_names},
            **{EXP_AVG + key: torch.zeros_like(value) for key, value in weights.items()},
            **{EXP_AVG_SQ + key: torch.zeros_like(value) for key, value in weights.items()},
        }

    def loss(
        self, policy: TokenPolicy, weights: Weights, inputs: Tensors
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch, and what the policy selected.

        Args:
            policy: of the rung.
            weights: the trained parameters by name.
            inputs: images, draws, hyper-parameters and, by state name, the teacher.
        """
        images = inputs[GLOBAL_VIEWS]  # (V, B, height, width, 3)
        views = images.shape[:2]
        patches = vit.cut_patches(images.flatten(0, 1), self.model.patch_size_px)
        student = _part(weights, ENCODER)
        teacher = {key: inputs[EMA + key] for key in self.teacher_names}
        teacher_encoder = _part(teacher, ENCODER)
        branches = Branches(
            policy.embed_student(student, patches, inputs),
            embed_all(teacher_encoder, patches) if teacher else None,
        )
        selected = self._encode(policy, branches, student, teacher_encoder, inputs)
        taught = branches.teacher
        loss = self.objective.loss(
            weights,
            teacher or None,
            vit.features(student, branches.student).reshape(*views, -1),
            None
            if taught is None
            else vit.features(teacher_encoder, taught).reshape(*views, -1),
            self.method_options,
        )
        return loss, selected

    def _encode(
        self,
        policy: TokenPolicy,
        branches: Branches,
        student: Weights,
        teacher: Weights,
        inputs: Tensors,
    ) -> dict[str, Tensor]:
        """Run all blocks on both branches; they end as the class token alone."""
        selected: dict[str, Tensor] = {}
        for block in range(self.model.depth):
            selected |= policy.before_block(block, branches, inputs)
            branches.student = self._attend(student, block, branches.student)
            if branches.teacher is not None:
                branches.teacher = self._attend(teacher, block, branches.teacher)
            selected |= policy.before_mlp(block, branches, inputs)
            branches.student = vit.feed_forward(student, block, branches.student)
            if branches.teacher is not None:
                branches.teacher = vit.feed_forward(teacher, block, branches.teacher)
        return selected

    def _attend(self, weights: Weights, block: int, tokens: Tensor) -> Tensor:
        # Features are the class token's, so behind the last attention no other token matters.
        queries = 1 if block == self.model.depth - 1 else None
        return vit.attend(weights, block, self.model.heads, tokens, queries=queries)

    def gradient(self, policy: TokenPolicy, inputs: Tensors) -> tuple[Tensors, Tensors]:
        """Gradients by parameter name; the loss and the selections by output name."""

        def loss(weights: Tensors) -> tuple[Tensor, dict[str, Tensor]]:
            return self.loss(policy, weights, inputs)

        weights = {key: inputs[PARAM + key] for key in self.parameters}
        gradients, (value, selected) = grad_and_value(loss, has_aux=True)(weights)
        return gradients, {LOSS: value, **selected}

    def accumulate(self, policy: TokenPolicy, inputs: Tensors) -> dict[str, Tensor]:
        """A micro-batch's loss and selections, and the sum of gradients with its share.

        The loss of a batch is the mean over its micro-batches, which are of one size, where
        the objective allows micro-batches at all; so is its gradient.
        """
        gradients, metrics = self.gradient(policy, inputs)
        share = policy.setting.batch_size / self.recipe.batch_size
        made = dict(metrics)
        for key, gradient in gradients.items():
            part = gradient if share == 1 else gradient * share
            made[NEXT + GRAD + key] = inputs[GRAD + key] + part
        return made

    def apply(self, gradients: Tensors, inputs: Tensors) -> dict[str, Tensor]:
        """AdamW as PyTorch defines it, then the teacher: new state by output name.

        Algebra is arranged for few passes over memory: with c1, c2 the bias corrections,
        m/c1 / (sqrt(v/c2) + eps) = sqrt(c2)/c1 * m / (sqrt(v) + eps sqrt(c2)).
        """
        lr, decay, beta1, beta2, eps, step = (inputs[name] for name in ADAMW)
        root2 = torch.sqrt(1 - torch.pow(beta2, step))
        rate, tiny = lr * root2 / (1 - torch.pow(beta1, step)), eps * root2
        one1, one2, shrink = 1 - beta1, 1 - beta2, 1 - lr * decay
        made: dict[str, Tensor] = {}
        for key, parameter in self.parameters.items():
            value, gradient = inputs[PARAM + key], gradients[key]
            m = inputs[EXP_AVG + key] * beta1 + gradient * one1
            v = inputs[EXP_AVG_SQ + key] * beta2 + gradient * gradient * one2
            kept = value * shrink if self._decays(parameter) else value
            made[NEXT + PARAM + key] = kept - m / (torch.sqrt(v) + tiny) * rate
            made[NEXT + EXP_AVG + key] = m
            made[NEXT + EXP_AVG_SQ + key] = v
        new = {PARAM + key: made[NEXT + PARAM + key] for key in self.teacher_names}
        return made | self.update({**inputs, **new})

    def _decays(self, parameter: Parameter) -> bool:
        return parameter.is_matrix or not self.recipe.optimizer.exempt_vectors

    def update(self, inputs: Tensors) -> dict[str, Tensor]:
        """The EMA teacher after the parameters moved: new state by output name."""
        made = {}
        for key in self.teacher_names:
            momentum, old = inputs[EMA_MOMENTUM], inputs[EMA + key]
            made[NEXT + EMA + key] = old * momentum + inputs[PARAM + key] * (1 - momentum)
        return made

    def step(self, policy: TokenPolicy, inputs: Tensors) -> dict[str, Tensor]:
        """One training step: metrics, selections and the new state by output name."""
        gradients, metrics = self.gradient(policy, inputs)
        return {**metrics, **self.apply(gradients, inputs)}

    def embed(self, weights: Weights, pictures: Tensor) -> dict[str, Tensor]:
        """Features (R, D) of pictures (R, height, width, 3) uint8; weights by their names."""
        encoder = _part(weights, ENCODER)
        tokens = embed_all(encoder, vit.cut_patches(pictures, self.model.patch_size_px))
        for block in range(self.model.depth):
            tokens = vit.feed_forward(encoder, block, self._attend(encoder, block, tokens))
        return {FEATURES_OUTPUT: vit.features(encoder, tokens)}


def _part(weights: Weights, prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in weights.items() if k.startswith(prefix)}
