"""The graphs of a package, lowered from a program, each tensor with its declared role."""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import onnx
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from edge_export.analysis.flops import graph_flops
from edge_export.border import Border
from edge_export.declaration import PeriodicUpdate
from edge_export.lowering.trace import lower
from edge_export.step.example import example_draws, example_images, example_targets
from edge_export.step.optimizer import ema
from edge_export.step.program import Program
from edge_export.step.rung import RungProgram
from edge_runtime.errors import ConfigError
from edge_runtime.package.manifest import GraphSpec, TensorSpec
from edge_runtime.package.names import (
    BUFFER,
    DRAW,
    EMA,
    FEATURES,
    FEATURES_OUTPUT,
    GRAD,
    HYPER,
    IMAGES,
    LATE,
    LOSS,
    MEAN,
    METRIC,
    NEXT,
    PARAM,
    SELECTION,
    STATE,
    SUM,
    TARGET,
    WEIGHT,
)

Tensors = Mapping[str, Tensor]
EMBEDDED = "images"  # input of the embedding graph


class Graph(NamedTuple):
    """A graph file and its description."""

    model: onnx.ModelProto
    spec: GraphSpec


def step_graph(rung: RungProgram, state: Tensors) -> Graph:
    """Forward, backward, AdamW and EMA."""
    return _lowered(rung.step, step_inputs(rung, state), name="step")


def accumulate_graph(rung: RungProgram, state: Tensors) -> Graph:
    """Forward and backward of a micro-batch, added to the sums before.

    Raises:
        ConfigError: the loss changes a buffer that has no mean over micro-batches.
    """
    # Distinct tensors: tracing treats two inputs that are one tensor as one input.
    sums = {GRAD + name: torch.zeros_like(state[PARAM + name]) for name in rung.trained}
    buffers = {name: buffer.initial for name, buffer in rung.program.buffers.items()}
    sums |= {MEAN + BUFFER + name: torch.zeros_like(v) for name, v in buffers.items()}
    inputs = step_inputs(rung, state).add(SUM, sums)
    graph = _lowered(rung.accumulate, inputs, name="accumulate")
    for spec in graph.spec.inputs:
        if spec.role == SUM and not spec.dtype.startswith("float"):
            raise ConfigError(
                f"micro_batches: the loss changes {spec.name.removeprefix(MEAN)!r}, whose "
                f"{spec.dtype} values have no mean over micro-batches."
            )
    return graph


def apply_graph(rung: RungProgram, state: Tensors, accumulate: Graph) -> Graph:
    """AdamW and EMA with the sums of `accumulate`."""
    sums = {
        spec.name: torch.zeros([size or 0 for size in spec.shape])
        for spec in accumulate.spec.inputs
        if spec.role == SUM
    }
    inputs = _hyper(rung.program).add(STATE, state).add(SUM, sums)
    return _lowered(rung.apply, inputs, name="apply")


def periodic_graph(program: Program, update: PeriodicUpdate, state: Tensors) -> Graph:
    """A periodic update of buffers."""

    def updated(given: Tensors) -> Border:
        new = update.update(given)
        return Border().add(STATE, {NEXT + BUFFER + name: v for name, v in new.items()})

    return _lowered(updated, _hyper(program).add(STATE, state), name="periodic")


def teacher_update_graph(program: Program, state: Tensors) -> Graph:
    """The EMA teacher alone, for the official training API."""

    def updated(given: Tensors) -> Border:
        new = {**ema(program.teacher_names, given), **program.late_teacher(given)}
        return Border().add(STATE, {NEXT + name: value for name, value in new.items()})

    return _lowered(updated, _hyper(program).add(STATE, state), name="update")


def loss_graph(rung: RungProgram, state: Tensors) -> Graph:
    """The forward pass alone, for the official training API: parameters are initializers."""
    parameters = {name: state[PARAM + name] for name in rung.program.parameters}
    inputs = step_inputs(rung, {k: v for k, v in state.items() if k.startswith((EMA, LATE))})

    def loss(given: Tensors) -> Border:
        value, outputs = rung.loss({name: given[name] for name in parameters}, given)
        others = {k: v for k, v in outputs.metrics.items() if k != LOSS}
        return Border().add(METRIC, {LOSS: value, **others}).add(SELECTION, outputs.selected)

    return _lowered(loss, inputs, name="loss", parameters=parameters)


def merge_graph(program: Program, state: Tensors) -> Graph:
    """State -> weights of the embedding graph."""

    def merged(given: Tensors) -> Border:
        return Border().add(WEIGHT, program.merge(given))

    return _lowered(merged, Border().add(STATE, state), name="merge")


def embed_graph(program: Program, state: Tensors) -> Graph:
    """Features of any number of images, weights as inputs."""
    size = program.model.image_size_px
    images = torch.zeros(2, size, size, 3, dtype=torch.uint8)
    prefix = program.encoder_prefix
    weights = {name: state[prefix + name] for name in program.encoder_names}
    inputs = Border().add(IMAGES, {EMBEDDED: images}).add(WEIGHT, weights)

    def features(given: Tensors) -> Border:
        return Border().add(FEATURES, {FEATURES_OUTPUT: program.embed(given, given[EMBEDDED])})

    return _lowered(features, inputs, name="embed", free_batch=[EMBEDDED])


def frozen_graph(program: Program, weights: Tensors, images: int) -> Graph:
    """Features of so many images by the frozen encoder, weights as inputs."""
    return _forward_graph(program, program.targets, weights, images, name="frozen_encoder")


def teacher_graph(program: Program, state: Tensors, images: int) -> Graph:
    """The output for so many images of a teacher before the step, weights as inputs."""
    weights = {name: state[EMA + name] for name in program.teacher_names}
    return _forward_graph(program, program.teacher_output, weights, images, name="teacher")


def _forward_graph(
    program: Program,
    function: Callable[[Tensors, Tensor], Tensor],
    weights: Tensors,
    images: int,
    *,
    name: str,
) -> Graph:
    size = program.model.image_size_px
    example = torch.zeros(images, size, size, 3, dtype=torch.uint8)
    inputs = Border().add(IMAGES, {EMBEDDED: example}).add(WEIGHT, weights)

    def features(given: Tensors) -> Border:
        return Border().add(FEATURES, {FEATURES_OUTPUT: function(given, given[EMBEDDED])})

    return _lowered(features, inputs, name=name)


def tokens_per_block(rung: RungProgram, state: Tensors) -> dict[str, tuple[int, ...]]:
    """Student tokens in the attention of each block, by view group.

    The forward pass runs on shapes only, loss included: errors are raised before
    minutes are spent on lowering.

    Raises:
        ConfigError: parts of the recipe do not work together on this rung.
    """
    fake = FakeTensorMode()
    example = step_inputs(rung, state).tensors
    inputs = {name: fake.from_tensor(value) for name, value in example.items()}
    parameters = {name: inputs[PARAM + name] for name in rung.program.parameters}
    try:
        with fake, _without_torch_log():
            _, outputs = rung.loss(parameters, inputs)
            _refuse_common(inputs, outputs.at_border().tensors)
            return rung.student_tokens(inputs)
    except ConfigError as error:
        raise ConfigError(f"rung {rung.settings.id}: {error}") from error
    except (RuntimeError, ValueError, LookupError) as error:
        raise ConfigError(
            f"rung {rung.settings.id} of this recipe cannot be built: {error}. Change the "
            "method, the token policy, or the axis on which this rung differs."
        ) from error


@contextmanager
def _without_torch_log() -> Iterator[None]:
    """Keep torch from printing a traceback of the error that it raises."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    before, log.disabled = log.disabled, True
    try:
        yield
    finally:
        log.disabled = before


def step_inputs(rung: RungProgram, state: Tensors) -> Border:
    """Everything that a step may read; a graph keeps only the inputs that it reads."""
    inputs = _hyper(rung.program).add(STATE, state).add(TARGET, example_targets(rung))
    return inputs.add(IMAGES, example_images(rung)).add(DRAW, example_draws(rung))


def _hyper(program: Program) -> Border:
    """Scalars with arbitrary values, for tracing."""
    return Border().add(HYPER, {name: torch.tensor(0.5) for name in program.hyper_parameters})


def _lowered(
    function: Callable[[Tensors], Border],
    inputs: Border,
    *,
    name: str,
    parameters: Tensors | None = None,
    free_batch: Collection[str] = (),
) -> Graph:
    roles: dict[str, str] = {}

    def outputs(given: Tensors) -> Tensors:
        border = function(given)
        roles.update(border.roles)
        return border.tensors

    example = {**(parameters or {}), **inputs.tensors}
    model = lower(outputs, example, name=name, parameters=parameters, free_batch=free_batch)
    _refuse_common(example, roles)
    return Graph(model, described(model, inputs.roles, roles))


def _refuse_common(inputs: Iterable[str], outputs: Iterable[str]) -> None:
    if common := sorted(set(inputs) & set(outputs)):
        raise ConfigError(
            f"{common[0]!r} is both an input and an output of a step; it needs another name."
        )


def described(
    model: onnx.ModelProto, inputs: Mapping[str, str], outputs: Mapping[str, str]
) -> GraphSpec:
    """The manifest's description of a graph: inputs and outputs with the given roles."""
    return GraphSpec(
        inputs=tuple(
            _tensor(value, inputs[value.name])
            for value in model.graph.input
            if value.name in inputs
        ),
        outputs=tuple(
            _tensor(value, outputs[value.name])
            for value in model.graph.output
            if value.name in outputs
        ),
        nodes=len(model.graph.node),
        flops=graph_flops(model),
    )


def _tensor(value: onnx.ValueInfoProto, role: str) -> TensorSpec:
    kind = value.type.tensor_type
    return TensorSpec(
        name=value.name,
        dtype=onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name,
        shape=tuple(None if d.dim_param else d.dim_value for d in kind.shape.dim),
        role=role,
    )
