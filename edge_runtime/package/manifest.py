"""The manifest of a training package: `manifest.json`, format 5.

Plain facts, written by the export and read on the device. docs/package-format.md explains the
file; the dataclasses here are its schema. Sizes are counts, bytes or FLOPs of one step.
"""

import math
from dataclasses import dataclass, field
from typing import Annotated

import numpy as np

from edge_runtime.package.curves import Curve
from edge_runtime.package.names import EMA, FEATURES, LATE, NEXT, STATE, WEIGHT
from edge_runtime.schema import (
    Bytes,
    NonNegativeInt,
    PositiveInt,
    Probability,
    Range,
    Share,
)

FORMAT = 5

Hue = Annotated[float, Range(ge=0, le=0.5)]  # in turns of the colour circle
Strength = Annotated[float, Range(ge=0, le=10)]  # of a change of colour; 1 is all of it
Pixels = Annotated[int, Range(ge=1, le=16_384)]  # along the side of a square
Size = Annotated[int, Range(ge=1, le=2**40)]  # of a tensor, along one axis
Width = Annotated[int, Range(ge=1, le=65_536)]
Depth = Annotated[int, Range(ge=1, le=1000)]
Batch = Annotated[int, Range(ge=1, le=1_000_000)]  # pictures
Power = Annotated[float, Range(ge=0, le=10)]
PixelStd = Annotated[float, Range(ge=1e-3, le=1)]
TeacherDelay = Annotated[int, Range(ge=0, le=1)]  # steps


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """A graph input or output, or a state tensor. A `None` in `shape` is a free size."""

    name: str
    dtype: str
    shape: tuple[Size | None, ...]
    role: str

    @property
    def size_bytes(self) -> int:
        """Of all elements; 0 if a size is free."""
        return math.prod(size or 0 for size in self.shape) * np.dtype(self.dtype).itemsize

    @property
    def row_bytes(self) -> int:
        """Of one row, along the first axis; 0 if another size is free."""
        sizes = (size or 0 for size in self.shape[1:])
        return math.prod(sizes) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSpec:
    """Inputs and outputs of one graph file, in the file's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nodes: NonNegativeInt  # a runtime needs some kilobytes for each
    # Of its matrix products in one run; multiply-add counts as two. None: a size is unknown.
    flops: NonNegativeInt | None

    @property
    def features(self) -> TensorSpec:
        """The output of a forward graph: [images, width]."""
        (spec,) = (tensor for tensor in self.outputs if tensor.role == FEATURES)
        return spec


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationSpec:
    """Augmentation of a view: probabilities in [0, 1], colour strengths of SimCLR."""

    min_area: Share
    max_area: Share = 1.0
    flip: Probability = 0.5
    jitter: Probability = 0.8
    brightness: Strength = 0.4
    contrast: Strength = 0.4
    saturation: Strength = 0.4
    hue: Hue = 0.1
    grayscale: Probability = 0.2
    blur: Probability = 0.0
    solarize: Probability = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewGroup:
    """Views of one size: graph input `images.<name>`, uint8 [views, batch, size, size, 3]."""

    name: str
    size_px: Pixels
    views: tuple[AugmentationSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NonOverlap:
    """Patches of a second view that are drawn apart from those of the first.

    They are drawn one after the other, each with a probability proportional to the share of
    its area in the picture that no drawn patch of the first view shows, to the power `power`;
    those without such a share come last, all with the same probability.
    """

    group: str  # the view group, of two views
    power: Power


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawSpec:
    """Token indices drawn by the host, per view and picture: int32 [views, batch, kept].

    Each row is a sorted subset of `range(population)`, drawn without replacement.
    """

    input: str
    views: PositiveInt
    kept: PositiveInt
    population: PositiveInt
    non_overlap: NonOverlap | None = None  # None: uniformly, in each view


@dataclass(frozen=True, slots=True, kw_only=True)
class OrtTrainingGraphs:
    """Files of the official training API for one rung, relative to the package."""

    training: str
    eval: str
    optimizer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One point of the ladder, with its graphs.

    `graphs` names its files by kind: either `step`, which does a whole step, or `accumulate`,
    which is run for each micro-batch of the batch, and `apply`, which is run once afterwards.
    A state tensor that they do not return is unchanged.
    """

    id: str
    keep_ratio: Share
    patch_size_px: Pixels
    # Parameters that its steps change: "all", "last-2" for the last 2 blocks, "biases" with
    # norms, or "lora-8" for low-rank factors of rank 8; and what is not part of the encoder
    trained: str
    # Images that `accumulate` takes; divides the batch size. None: `step` takes them all
    micro_batch: Batch | None
    # Student tokens in the attention of each block, class token included, by view group
    tokens_per_block: dict[str, tuple[PositiveInt, ...]]
    flops: PositiveInt  # of one step
    # Memory of tensors beside the state during a step: their peak, and the largest again
    peak_activation_bytes: Bytes
    draws: tuple[DrawSpec, ...]
    graphs: dict[str, str]
    ort_training: OrtTrainingGraphs | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PeriodicGraph:
    """A graph that changes buffers after every `every_steps` steps."""

    graph: str
    every_steps: PositiveInt


@dataclass(frozen=True, slots=True, kw_only=True)
class FrozenEncoder:
    """A frozen encoder from a file, whose features of the views a step learns.

    They are the graph inputs `target.<view group>`, computed before each step: the whole
    views, whatever the token policy drops.
    """

    graph: str  # images [n, size, size, 3] -> features [n, width]; n divides the batch size
    weights_file: str  # the graph's inputs of role `weight`, by name
    groups: tuple[str, ...]  # of views


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherFirst:
    """The encoder of the EMA teacher as a graph of its own, which runs before a step.

    Its features are the graph inputs `teacher.<view group>`: of the whole views, whatever the
    token policy drops. Step t takes those by the teacher after step t - 1 - `delay`, or by the
    initial one. With a delay of 1 the graph may run while the step before does.
    """

    graph: str  # images [n, size, size, 3] -> features [n, width]; n divides the batch size
    delay: TeacherDelay
    groups: tuple[str, ...]  # of views

    @property
    def prefix(self) -> str:
        """Prefix in the state of the graph's weights for the next step."""
        return LATE if self.delay else EMA


@dataclass(frozen=True, slots=True, kw_only=True)
class OrtTraining:
    """Artifacts of the official on-device training API, or why there are none."""

    refused: str | None
    checkpoint: str | None
    update: (
        str | None
    )  # the graph that updates the EMA teacher after the ort-training optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The encoder. `tokens` counts the class token.

    `features` is its output for an image: "class-token", or "mean-patches", the mean of the
    patch tokens.

    A pixel of a channel, in [0, 1], becomes (pixel - `mean`) / `std` before it is cut into
    patches; every graph of the package does this itself.
    """

    name: str
    image_size_px: Pixels
    patch_size_px: Pixels
    width: Width
    depth: Depth
    heads: Width
    tokens: PositiveInt
    features: str
    mean: tuple[Probability, ...]  # of red, green, blue
    std: tuple[PixelStd, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderTensor:
    """One encoder tensor: its name, timm's name, and its layout.

    In the state, the name has the prefix `param.` or `ema.`.

    `layout`: "same"; "transposed" (state [in, out], timm [out, in]); or "patch" (state
    [rows * columns * 3, width], timm [width, 3, rows, columns]).
    """

    name: str
    timm_name: str
    layout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The content of `manifest.json`."""

    format: int
    producer: dict[str, str]  # package -> version that wrote it
    recipe: dict[str, object]  # see `docs/recipe.md`; defaults are filled in
    method: str
    token_policy: str
    parametrization: str
    precision: str  # of the matrix products of a step: "fp32" or "fp16"
    batch_size: Batch  # pictures per step
    model: ModelFacts
    views: tuple[ViewGroup, ...]
    hyper_parameters: dict[str, Curve]  # by the name of the graph input
    encoder: tuple[EncoderTensor, ...]
    encoder_prefix: str  # `param.` or `ema.`: whose encoder is evaluated and exported
    embed: str
    # State -> weights of the embedding graph, if these are not the parameters themselves
    merge: str | None
    state_file: str
    state: tuple[TensorSpec, ...]
    rungs: tuple[Rung, ...]
    periodic: tuple[PeriodicGraph, ...]
    ort_training: OrtTraining
    frozen_encoder: FrozenEncoder | None = None
    teacher_first: TeacherFirst | None = None  # None: the step graphs contain the teacher
    graphs: dict[str, GraphSpec]
    sha256: dict[str, str] = field(default_factory=dict)

    @property
    def state_bytes(self) -> int:
        """Size of the whole state."""
        return sum(tensor.size_bytes for tensor in self.state)

    @property
    def frozen_weights(self) -> tuple[TensorSpec, ...]:
        """Weights of the frozen encoder, if there is one."""
        return () if self.frozen_encoder is None else self._weights(self.frozen_encoder.graph)

    @property
    def teacher_weights(self) -> tuple[TensorSpec, ...]:
        """Weights of the teacher's own graph, if there is one."""
        return () if self.teacher_first is None else self._weights(self.teacher_first.graph)

    @property
    def forward_weight_bytes(self) -> int:
        """Size of the weights that forward engines keep while a run trains."""
        return sum(spec.size_bytes for spec in (*self.frozen_weights, *self.teacher_weights))

    @property
    def forward_graphs(self) -> tuple[str, ...]:
        """Graphs that forward engines run while a run trains."""
        return tuple(
            each.graph
            for each in (self.frozen_encoder, self.teacher_first)
            if each is not None
        )

    @property
    def batch_bytes(self) -> int:
        """Size of the images of a batch."""
        return self.batch_size * sum(
            len(group.views) * group.size_px**2 * 3 for group in self.views
        )

    def _weights(self, graph: str) -> tuple[TensorSpec, ...]:
        return tuple(spec for spec in self.graphs[graph].inputs if spec.role == WEIGHT)

    def is_graph(self, name: str) -> bool:
        """Whether a file of the package is a graph."""
        return name in self.graphs or name in self.training_models()

    def training_models(self) -> set[str]:
        """Files of the official training API that are graphs."""
        artifacts = [rung.ort_training for rung in self.rungs if rung.ort_training is not None]
        return {
            name for each in artifacts for name in (each.training, each.eval, each.optimizer)
        }

    def token_blocks(self, rung: Rung) -> int:
        """Student tokens of one step, summed over blocks, views and images."""
        views = {group.name: len(group.views) for group in self.views}
        tokens = sum(views[name] * sum(row) for name, row in rung.tokens_per_block.items())
        return self.batch_size * tokens

    def changed_state(self, rung: Rung) -> set[str]:
        """Names of the state tensors that a step of the rung changes."""
        outputs = [spec for path in rung.graphs.values() for spec in self.graphs[path].outputs]
        return {spec.name.removeprefix(NEXT) for spec in outputs if spec.role == STATE}
