"""The graphs of a package, lowered from a program, each input with its declared role."""

from collections.abc import Iterable
from typing import NamedTuple

import onnx
import torch
from torch import Tensor

from edge_export.lowering.trace import lower
from edge_export.ort_training import artifacts as official
from edge_export.policies import TokenPolicy
from edge_export.step.example import example_inputs
from edge_export.step.program import (
    ADAMW,
    ENCODER,
    FEATURES_OUTPUT,
    GLOBAL_VIEWS,
    Program,
    Tensors,
)
from edge_runtime.package.manifest import (
    DRAW,
    FEATURES,
    GRADIENT,
    HYPER,
    IMAGES,
    METRIC,
    SELECTION,
    STATE,
    WEIGHT,
    GraphSpec,
    TensorSpec,
)
from edge_runtime.package.references import EMA_MOMENTUM, GRAD, LOSS, NEXT
from edge_runtime.state import EMA, PARAM


class Graph(NamedTuple):
    """A graph file and its description."""

    model: onnx.ModelProto
    spec: GraphSpec


class Inputs:
    """Example tensors of a graph, and the role that each was declared with."""

    def __init__(self) -> None:
        self.tensors: dict[str, Tensor] = {}
        self.roles: dict[str, str] = {}

    def add(self, role: str, tensors: Tensors) -> "Inputs":
        """Declare inputs of one role."""
        self.tensors |= tensors
        self.roles |= dict.fromkeys(tensors, role)
        return self

    def add_batch(self, program: Program, policy: TokenPolicy) -> "Inputs":
        """Declare images and draws of a step."""
        batch = example_inputs(program, policy)
        self.add(IMAGES, {GLOBAL_VIEWS: batch.pop(GLOBAL_VIEWS)})
        return self.add(DRAW, batch)

    def add_hyper(self, names: Iterable[str]) -> "Inputs":
        """Declare scalars; the values of an example do not matter."""
        return self.add(HYPER, {name: torch.tensor(0.5) for name in names})


def step_graph(program: Program, policy: TokenPolicy, state: Tensors) -> Graph:
    """Forward, backward, AdamW and EMA."""
    inputs = Inputs().add(STATE, state).add_batch(program, policy)
    inputs.add_hyper([*_optimizer_hypers(program), *policy.hypers])
    model = lower(lambda given: program.step(policy, given), inputs.tensors, name="step")
    return _described(model, inputs)


def _optimizer_hypers(program: Program) -> tuple[str, ...]:
    """Hyper-parameters of AdamW and of the EMA teacher, if there is one."""
    return (*ADAMW, EMA_MOMENTUM) if program.teacher_names else ADAMW


def accumulate_graph(program: Program, policy: TokenPolicy, state: Tensors) -> Graph:
    """Forward and backward of a micro-batch, its gradients added to those before."""
    used = {k: v for k, v in state.items() if k.startswith((PARAM, EMA))}
    inputs = Inputs().add(STATE, used).add(GRADIENT, _gradients(program, state))
    inputs.add_batch(program, policy).add_hyper(policy.hypers)
    model = lower(
        lambda given: program.accumulate(policy, given), inputs.tensors, name="accumulate"
    )
    return _described(model, inputs)


def apply_graph(program: Program, state: Tensors) -> Graph:
    """AdamW and EMA with the gradients that `accumulate` summed."""
    gradients = _gradients(program, state)
    inputs = Inputs().add(STATE, state).add(GRADIENT, gradients)
    inputs.add_hyper(_optimizer_hypers(program))

    def applied(given: Tensors) -> Tensors:
        return program.apply({key: given[GRAD + key] for key in program.parameters}, given)

    return _described(lower(applied, inputs.tensors, name="apply"), inputs)


def _gradients(program: Program, state: Tensors) -> dict[str, Tensor]:
    # Tensors of their own: tracing takes two inputs that are one tensor for one input.
    return {GRAD + key: torch.zeros_like(state[PARAM + key]) for key in program.parameters}


def official_graphs(
    program: Program, policy: TokenPolicy, state: Tensors
) -> tuple[Graph, Graph, onnx.ModelProto, bytes]:
    """Training, eval and optimizer graph of the official API, and its checkpoint's bytes.

    The descriptions leave out what the API feeds itself: parameters and gradient buffers.
    """
    weights = {name: state[PARAM + name] for name in program.parameters}
    teacher = {EMA + name: state[EMA + name] for name in program.teacher_names}
    inputs = Inputs().add(STATE, teacher).add_batch(program, policy).add_hyper(policy.hypers)

    def loss(given: Tensors) -> Tensors:
        value, selected = program.loss(policy, {k: given[k] for k in weights}, given)
        return {LOSS: value, **selected}

    forward = lower(loss, {**weights, **inputs.tensors}, name="loss", parameters=weights)
    outputs = [value.name for value in forward.graph.output]
    training, evaluation, optimizer, checkpoint = official.artifacts(
        forward, weights, program.recipe.schedule()
    )
    described = [_described(model, inputs, outputs) for model in (training, evaluation)]
    return described[0], described[1], optimizer, checkpoint


def update_graph(program: Program, state: Tensors) -> Graph:
    """The EMA teacher alone."""
    names = [prefix + name for prefix in (PARAM, EMA) for name in program.teacher_names]
    inputs = Inputs().add(STATE, {name: state[name] for name in names})
    inputs.add_hyper([EMA_MOMENTUM])
    return _described(lower(program.update, inputs.tensors, name="update"), inputs)


def teacher_graph(program: Program, policy: TokenPolicy, state: Tensors) -> Graph:
    """The teacher's features of all views, weights as inputs."""
    images = example_inputs(program, policy)[GLOBAL_VIEWS]  # it draws no tokens
    inputs = Inputs().add(WEIGHT, _encoder(program, state, EMA))
    inputs.add(IMAGES, {GLOBAL_VIEWS: images})

    def features(given: Tensors) -> Tensors:
        return program.embed(given, given[GLOBAL_VIEWS].flatten(0, 1))

    return _described(lower(features, inputs.tensors, name="teacher"), inputs)


def embed_graph(program: Program, state: Tensors) -> Graph:
    """Features of any number of pictures, weights as inputs."""
    size, name = program.model.image_size_px, "images"
    inputs = Inputs().add(IMAGES, {name: torch.zeros(2, size, size, 3, dtype=torch.uint8)})
    inputs.add(WEIGHT, _encoder(program, state, PARAM))

    def features(given: Tensors) -> Tensors:
        return program.embed(given, given[name])

    return _described(lower(features, inputs.tensors, name="embed", free_batch=[name]), inputs)


def _encoder(program: Program, state: Tensors, prefix: str) -> dict[str, Tensor]:
    names = [name for name in program.parameters if name.startswith(ENCODER)]
    return {name: state[prefix + name] for name in names}


def _described(
    model: onnx.ModelProto, inputs: Inputs, outputs: Iterable[str] | None = None
) -> Graph:
    """A graph with the roles of its inputs and of its outputs (all, or those named)."""
    named = None if outputs is None else set(outputs)
    spec = GraphSpec(
        inputs=tuple(
            _tensor(value, inputs.roles[value.name])
            for value in model.graph.input
            if value.name in inputs.roles
        ),
        outputs=tuple(
            _tensor(value, _output_role(value.name))
            for value in model.graph.output
            if named is None or value.name in named
        ),
        nodes=len(model.graph.node),
    )
    return Graph(model, spec)


def _output_role(name: str) -> str:
    if name.startswith(NEXT):
        return GRADIENT if name.startswith(NEXT + GRAD) else STATE
    return {LOSS: METRIC, FEATURES_OUTPUT: FEATURES}.get(name, SELECTION)


def _tensor(value: onnx.ValueInfoProto, role: str) -> TensorSpec:
    kind = value.type.tensor_type
    return TensorSpec(
        name=value.name,
        dtype=onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name,
        shape=tuple(None if d.dim_param else d.dim_value for d in kind.shape.dim),
        role=role,
    )
