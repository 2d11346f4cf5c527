"""Parts that the rest of edge-train does not know: method, policy, masked weights, engine.

Each uses only the public interfaces. `grown_parts` registers them.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from plain_engine import PLAIN, PlainEngine
from torch import Tensor
from torch.nn.functional import log_softmax, mse_loss
from typing_extensions import override

from edge_export import vit
from edge_export.context import StepContext
from edge_export.declaration import (
    Declaration,
    LossResult,
    ObjectiveDeclaration,
    PeriodicUpdate,
    ViewGroup,
)
from edge_export.objectives import OBJECTIVES
from edge_export.objectives.base import Defaults, Objective
from edge_export.objectives.heads import Head
from edge_export.parameters import Buffer, Parameter, linear
from edge_export.parametrizations import PARAMETRIZATIONS, Parametrization
from edge_export.policies import POLICIES, TokenPolicy
from edge_export.policies.base import Branches, kept_count, take_rows
from edge_export.vit import Attention, Weights
from edge_runtime.engines import ENGINES
from edge_runtime.package.curves import Curve
from edge_runtime.package.manifest import AugmentationSpec, DrawSpec, ModelFacts
from edge_runtime.package.names import BUFFER, PARAM
from edge_runtime.schema import Positive, Probability

VIEW = AugmentationSpec(min_area=0.5)
PROTOTYPES = 12
MASK_EVERY_STEPS = 5
DECODED = "decoded"  # the draw of the pixels that are reconstructed


@dataclass(frozen=True, slots=True, kw_only=True)
class GrownOptions:
    """Options in `[method]`."""

    student_temperature: Positive = 0.1
    centre_momentum: Probability = 0.9


class Grown(Objective):
    """Two global and three smaller local views, a teacher with a centre, a pixel decoder."""

    name = "grown"
    defaults = Defaults(lr_at_256=1e-3, weight_decay=0.1, warmup_epochs=1, ema_momentum=0.95)
    options = GrownOptions

    def __init__(self, model: ModelFacts, options: GrownOptions) -> None:
        self._options, self._heads = options, model.heads
        self._head = Head(name="head", widths=(model.width, 24, PROTOTYPES))
        size_px, pixels = model.image_size_px, model.patch_size_px**2 * 3
        decoded = DrawSpec(input=DECODED, views=2, kept=pixels // 2, population=pixels)
        self.declaration = ObjectiveDeclaration(
            views=(
                ViewGroup(
                    name="global", size_px=size_px, views=(VIEW,) * 2, patch_tokens=True
                ),
                ViewGroup(
                    name="local",
                    size_px=size_px // 2,
                    views=(VIEW,) * 3,
                    pruned=False,
                    teacher=False,
                ),
            ),
            parameters=(
                *self._head.parameters,
                *vit.block_parameters("decoder", model.width),
                *linear("pixels", model.width, pixels),
                # Added to every logit of an image: a softmax does not see it.
                Parameter(name="offset", shape=(1,), init="ones", zero_gradient=True),
            ),
            teacher=(vit.ENCODER, "head."),
            draws=(decoded,),
            buffers=(Buffer(name="centre", initial=torch.zeros(PROTOTYPES)),),
            hyper_parameters={
                "teacher_temperature": Curve(
                    shape="linear", first=0.07, final=0.04, warmup_epochs=1, warmup_from=0.1
                )
            },
        )

    @override
    def loss(self, step: StepContext) -> LossResult:
        centre, momentum = step.buffers["centre"], self._options.centre_momentum
        taught = step.teacher["global"].features
        logits = self._head(step.teacher_weights, taught)  # (V, B, prototypes)
        target = ((logits - centre) / step.hyper["teacher_temperature"]).softmax(dim=-1)
        groups = [step.student[name].features for name in ("global", "local")]
        students = [self._head(step.weights, each) + step.weights["offset"] for each in groups]
        agreement = self._agreement(torch.cat(students), target)
        reconstruction, closeness = self._reconstruction(step), self._closeness(step)
        return LossResult(
            loss=agreement + 0.5 * reconstruction + 0.1 * closeness,
            metrics={
                "agreement": agreement,
                "reconstruction": reconstruction,
                "closeness": closeness,
            },
            buffers={"centre": centre * momentum + logits.mean(dim=(0, 1)) * (1 - momentum)},
        )

    def _agreement(self, students: Tensor, target: Tensor) -> Tensor:
        """Mean cross-entropy over all pairs of different views."""
        predicted = log_softmax(students / self._options.student_temperature, dim=-1)
        terms = [
            -(target[t] * predicted[s]).sum(dim=-1).mean()
            for t in range(len(target))
            for s in range(len(predicted))
            if s != t
        ]
        return torch.stack(terms).mean()

    def _reconstruction(self, step: StepContext) -> Tensor:
        """Half of the pixels of the kept patches, drawn for each view, from their tokens."""
        encoding = step.student["global"]
        tokens = encoding.patch_tokens.flatten(0, 1)  # (S, K, D)
        decoded = vit.block(step.weights, "decoder", self._heads, tokens)
        pixels = take_rows(step.patches["global"].flatten(0, 1), encoding.kept.flatten(0, 1))
        pixels = pixels.transpose(1, 2)  # (S, P, K)
        predicted = vit.affine(step.weights, "pixels", decoded).transpose(1, 2)
        drawn = step.draws[DECODED].flatten(0, 1)  # (S, P / 2)
        return mse_loss(take_rows(predicted, drawn), take_rows(pixels, drawn))

    def _closeness(self, step: StepContext) -> Tensor:
        """Local features towards those of the whole picture, which stay where they are."""
        local, whole = (
            step.student[name].features.mean(dim=0) for name in ("local", "global")
        )
        return mse_loss(local, whole.detach())


class Scored(TokenPolicy):
    """After the first block a trained scorer selects the patch tokens to keep."""

    name = "scored"
    uses_keep_ratio = True

    @property
    @override
    def declaration(self) -> Declaration:
        return Declaration(parameters=linear("scorer", self.setting.model.width, 1))

    @override
    def before_mlp(
        self, block: int, branches: Branches, attention: Mapping[str, Attention]
    ) -> None:
        student = branches.student
        if block or student is None:
            return
        scores = vit.affine(branches.weights, "scorer", student.x[:, 1:])[:, :, 0]  # (S, K)
        branches.recorded["scores"] = scores
        kept = kept_count(self.setting.keep_ratio, scores.shape[1])
        if kept == scores.shape[1]:
            return
        index = scores.detach().topk(kept, dim=1)[1].sort(dim=1)[0]
        student.keep(index)
        gate = torch.sigmoid(take_rows(scores[:, :, None], index))  # gradient to the scorer
        student.x = torch.cat([student.x[:, :1], student.x[:, 1:] * gate], dim=1)
        branches.selected[f"scored.{branches.group.name}"] = index

    @override
    def loss(self, step: StepContext) -> LossResult:
        share = torch.sigmoid(step.recorded["global"]["scores"]).mean()
        return LossResult(
            loss=(share - self.setting.keep_ratio) ** 2, metrics={"share": share}
        )


class Masked(Parametrization):
    """Masks a growing share of the largest matrices' weights, up to half of them."""

    name = "masked"

    @property
    def _names(self) -> list[str]:
        return [p.name for p in self.setting.parameters if p.name.endswith("mlp.fc1.weight")]

    @property
    @override
    def declaration(self) -> Declaration:
        shapes = {p.name: p.shape for p in self.setting.parameters}
        masks = [
            Buffer(name=f"mask.{name}", initial=torch.ones(shapes[name], dtype=torch.bool))
            for name in self._names
        ]
        updates = Buffer(name="mask_updates", initial=torch.zeros((), dtype=torch.int32))
        return Declaration(
            buffers=(*masks, updates),
            hyper_parameters={"sparsity": Curve(shape="linear", first=0.0, final=0.5)},
            periodic=(
                PeriodicUpdate(
                    name="masks", every_steps=MASK_EVERY_STEPS, update=self._update
                ),
            ),
        )

    @override
    def weights(
        self, parameters: Weights, branch: str, buffers: Mapping[str, Tensor]
    ) -> Weights:
        masked = {
            name: parameters[name] * buffers[f"mask.{name}"].to(parameters[name].dtype)
            for name in self._names
            if name in parameters
        }
        return {**parameters, **masked}

    def _update(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        new = {"mask_updates": inputs[f"{BUFFER}mask_updates"] + 1}
        for name in self._names:
            size = inputs[PARAM + name].abs()
            ascending = size.flatten().sort(stable=True)[0]
            rank = torch.round(inputs["sparsity"] * (ascending.shape[0] - 1))
            least = ascending.index_select(0, rank.to(torch.int64).reshape(1))
            new[f"mask.{name}"] = size >= least
        return new


@contextmanager
def grown_parts() -> Iterator[None]:
    """Register the parts during the block."""
    with pytest.MonkeyPatch.context() as patch:
        parts: list[tuple[dict[str, Any], str, Any]] = [
            (OBJECTIVES, Grown.name, Grown),
            (POLICIES, Scored.name, Scored),
            (PARAMETRIZATIONS, Masked.name, Masked),
            (ENGINES, PlainEngine.name, PLAIN),
        ]
        for table, name, part in parts:
            patch.setitem(table, name, part)
        yield
