"""What a training package says of itself: `manifest.json`, format 1.

Plain facts, written by `export` and read by the device. docs/package-format.md explains the
file; the dataclasses here are its schema. Sizes are counts, bytes or FLOPs of one step.
"""

import math
from dataclasses import dataclass, field

import numpy as np

FORMAT = 1

# Roles of graph inputs
STATE = "state"  # a state tensor, by its state name
IMAGES = "images"  # uint8 [views, batch, height, width, 3], RGB
DRAW = "draw"  # random numbers drawn by the host, see `DrawSpec`
HYPER = "hyper"  # float32 scalar, see `edge_runtime.training.schedule`
WEIGHT = "weight"  # a weight of a forward graph, by its name without `param.` or `ema.`
GRADIENT = "gradient"  # float32, sum over micro-batches; `grad.<parameter>`, also an output
# Roles of graph outputs
METRIC = "metric"  # float32 scalar
SELECTION = "selection"  # int64 token indices that a policy kept
FEATURES = "features"  # float32 [pictures, width]


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorSpec:
    """One tensor at the border of a graph, or of the state. A `None` in `shape` is free."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    role: str

    @property
    def size_bytes(self) -> int:
        """Of all elements. A tensor with a free size has none of its own: 0."""
        return math.prod(size or 0 for size in self.shape) * np.dtype(self.dtype).itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphSpec:
    """Inputs and outputs of one graph file, in the file's order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    nodes: int  # a runtime keeps some kilobytes for each


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationSpec:
    """How a view is made of a picture: probabilities in [0, 1], colour strengths of SimCLR."""

    min_area: float
    max_area: float = 1.0
    flip: float = 0.5
    jitter: float = 0.8
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    hue: float = 0.1
    grayscale: float = 0.2
    blur: float = 0.0
    solarize: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewGroup:
    """Views of one size: graph input `images.<name>`, uint8 [views, batch, size, size, 3]."""

    name: str
    size_px: int
    views: tuple[AugmentationSpec, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawSpec:
    """Token indices drawn by the host, per view and picture: int64 [views, batch, kept].

    Each row is a sorted subset of `range(population)`, drawn without replacement.
    """

    input: str
    views: int
    kept: int
    population: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OfficialGraphs:
    """Files of the official training API for one rung, relative to the package."""

    training: str
    eval: str
    optimizer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rung:
    """One point of the ladder, with graphs of its own.

    Either `step` does a whole step, or `accumulate` is run for each micro-batch of the batch
    and then the manifest's `apply` once.
    """

    id: str
    keep_ratio: float
    micro_batch: int | None  # pictures that `accumulate` takes; it divides the batch size
    tokens_per_block: tuple[int, ...]  # student tokens in each block, class token included
    flops: int  # of one step: forward, backward and teacher; multiply and add are two
    peak_activation_bytes: int  # most that tensors beside the state take during a step
    draws: tuple[DrawSpec, ...]
    step: str | None
    accumulate: str | None
    teacher: str | None
    official: OfficialGraphs | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Official:
    """The official artifacts, or why there are none."""

    refused: str | None
    checkpoint: str | None
    update: str | None  # the graph that moves the EMA teacher after the official optimizer


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """The encoder. `tokens` counts the class token."""

    name: str
    image_size_px: int
    patch_size_px: int
    width: int
    depth: int
    heads: int
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderTensor:
    """One encoder tensor at the borders: its name, timm's, and how it is laid out.

    In the state the name stands behind `param.` or `ema.`.

    `layout`: "same"; "transposed" (state [in, out], timm [out, in]); or "patch" (state
    [rows * columns * 3, width], timm [width, 3, rows, columns]).
    """

    name: str
    timm_name: str
    layout: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """Hyper-parameters over the run; `training.schedule` gives each step its own."""

    lr: float
    final_lr: float
    warmup_epochs: float
    weight_decay: float
    final_weight_decay: float
    ema_momentum: float | None
    final_ema_momentum: float | None
    beta1: float
    beta2: float
    eps: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """The whole of `manifest.json`."""

    format: int
    producer: dict[str, str]  # package -> version that wrote it
    recipe: dict[str, object]  # as `docs/recipe.md` describes it, defaults filled in
    method: str
    tokens: str
    batch_size: int  # pictures per step
    model: ModelFacts
    views: tuple[ViewGroup, ...]
    schedule: Schedule
    encoder: tuple[EncoderTensor, ...]
    encoder_prefix: str  # `param.` or `ema.`: whose encoder is evaluated and exported
    embed: str
    state_file: str
    state: tuple[TensorSpec, ...]
    rungs: tuple[Rung, ...]
    apply: str | None  # the optimizer's graph behind `accumulate`, where a rung has that
    official: Official
    graphs: dict[str, GraphSpec]
    sha256: dict[str, str] = field(default_factory=dict)

    @property
    def state_bytes(self) -> int:
        """Size of the whole state."""
        return sum(tensor.size_bytes for tensor in self.state)
