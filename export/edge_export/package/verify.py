"""Verify a written package before it is published: every graph against PyTorch.

Each rung takes one step on every engine of this environment that can train the package, from
the initial state. Metrics are compared within 1e-4 relative; every gradient within 1e-4 of its
norm plus 1e-7, and in the same way the results of optimizer and EMA teacher, new buffers, and
the features of the forward graphs. State that a rung does not train must be bit-equal. Two
frameworks that add the same numbers in different order differ by about 1e-6 here. Half
precision is verified in float32: see `edge_export.package.widened`.
"""

import math
from collections.abc import Callable, Mapping
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor

from edge_export.axes import RungSettings
from edge_export.package.widened import in_float32
from edge_export.package.writer import Stage
from edge_export.step.encoder import by_view
from edge_export.step.example import example_draws, example_images
from edge_export.step.program import Program
from edge_export.step.rung import RungProgram
from edge_runtime.engines import (
    ENGINES,
    Engine,
    create_engine,
    create_forward_engine,
    encoder_weights,
)
from edge_runtime.errors import EngineError, PackageError
from edge_runtime.package import Package
from edge_runtime.package.curves import hyper_parameters
from edge_runtime.package.manifest import Rung
from edge_runtime.package.names import (
    BUFFER,
    EXP_AVG,
    FEATURES_OUTPUT,
    IMAGES,
    IMAGES_PREFIX,
    TARGET_PREFIX,
    TEACHER_PREFIX,
)
from edge_runtime.state import State

RELATIVE = 1e-4
ABSOLUTE = 1e-7
ROUNDING = 1e-6  # of a tensor that changes: float32 has a relative precision of 1e-7
# Gradient of a parameter that the loss does not depend on, over the largest of all gradients
NO_GRADIENT = 1e-5
# Where two scores of a token policy nearly tie, two frameworks may choose differently, which
# moves the loss more than any tolerance. A wrong graph fails on every batch.
TRIES = 5
ORT_TRAINING = "ort-training"

Tensors = Mapping[str, Tensor]


def verify(package: Package, program: Program, stage: Stage = nullcontext) -> None:
    """Run every rung on every engine, and every other graph.

    The artifacts of `ort-training` are left to `artifacts_problem`: a package is complete
    without them.

    Raises:
        PackageError: a result differs; the message says which and by how much.
        EngineError: no engine of this environment can run the package.
    """
    verify_rungs(package, program, stage)
    with stage("verification of other graphs"):
        verify_other_graphs(package, program)


def verify_rungs(package: Package, program: Program, stage: Stage = nullcontext) -> None:
    """A step of every rung of the manifest on every engine, with its whole batch.

    Raises:
        PackageError: a result differs.
        EngineError: no engine of this environment can run the package.
    """
    engines = [name for name in ENGINES if name != ORT_TRAINING and _installed(name)]
    if not engines:
        create_engine("ort")  # raises with installation instructions
    with in_float32(package, program) as (wide, same):
        for name in engines:
            _verify_engine(wide, same, name, stage)


def verify_other_graphs(package: Package, program: Program) -> None:
    """Every graph besides steps: periodic updates, merge, embedding, encoders before a step.

    Raises:
        PackageError: a result differs.
        EngineError: no runtime is installed.
    """
    state = package.initial_state()
    with in_float32(package, program) as (wide, same):
        _verify_periodic(wide, same, state)
        _verify_forward(wide, same, state)
        _verify_frozen(wide, same)
        _verify_teacher(wide, same, state)


def artifacts_problem(
    package: Package, program: Program, stage: Stage = nullcontext
) -> str | None:
    """Why the artifacts of `ort-training` cannot be published, if they cannot.

    ONNX Runtime builds the backward pass itself, and does so wrongly where a loss stops a
    gradient: a detached tensor leaves no trace in a forward graph.
    """
    if package.manifest.ort_training.refused is not None or not _installed(ORT_TRAINING):
        return None
    try:
        _verify_engine(package, program, ORT_TRAINING, stage)
    except (PackageError, EngineError) as error:
        return f"the gradients of ONNX Runtime's own backward pass are not PyTorch's: {error}"
    return None


def _verify_engine(package: Package, program: Program, name: str, stage: Stage) -> None:
    engine, state = create_engine(name), package.initial_state()
    for rung in package.manifest.rungs:
        if engine.unsupported_reason(package, rung) is None:
            with stage(f"verification of {rung.id} on {name}"):
                _verify_rung(package, program.bind(_whole(rung)), rung, name, state)


def _whole(rung: Rung) -> RungSettings:
    """The rung on the whole batch at once: micro-batches must give the same."""
    return RungSettings(
        id=rung.id,
        keep_ratio=rung.keep_ratio,
        patch_size_px=rung.patch_size_px,
        trained=rung.trained,
        micro_batch=None,
    )


def _installed(name: str) -> bool:
    try:
        create_engine(name)
    except EngineError:
        return False
    return True


def _verify_rung(
    package: Package, program: RungProgram, rung: Rung, engine_name: str, state: State
) -> None:
    frozen = frozen_tensors(package)
    for attempt in range(TRIES):
        with create_engine(engine_name) as engine:
            engine.open(package, state)
            problem = _difference(program, rung, engine, state, frozen, seed=attempt)
            runtime = engine.runtime
        if problem is None:
            return
    raise PackageError(
        f"rung {rung.id} on engine {engine_name} ({runtime}) differs from PyTorch: {problem}"
    )


def frozen_tensors(package: Package) -> dict[str, Tensor]:
    """The weights of the frozen encoder, by name; empty if there is none."""
    return {name: torch.from_numpy(v) for name, v in package.frozen_weights().items()}


def _difference(
    rung: RungProgram,
    described: Rung,
    engine: Engine,
    state: State,
    frozen: Tensors,
    *,
    seed: int,
) -> str | None:
    """The first difference after one step on one random batch, if any."""
    batch = {**example_images(rung, seed=seed), **example_draws(rung, seed=seed)}
    inputs = {**_inputs(rung.program, state), **batch}
    inputs |= targets_of(rung.program, frozen, batch)
    inputs |= teacher_outputs(rung.program, inputs)
    gradients, outputs = rung.gradient(inputs)
    hyper = checked_hyper(rung.program)
    result = engine.step(described.id, {k: v.numpy() for k, v in batch.items()}, hyper)
    after = engine.snapshot()
    # Moments start at zero, so the first one is (1 - beta1) times the gradient.
    own = {
        name: torch.from_numpy(after[EXP_AVG + name]) / (1 - inputs["beta1"])
        for name in gradients
    }
    # From the engine's own gradients: AdamW amplifies the rounding of those near zero.
    new, metrics = rung.update(own, outputs.buffers, inputs)
    return (
        _wrong_metric(result.metrics, {**outputs.metrics, **metrics})
        or _too_far("gradient of", own, gradients, _least_allowed(rung.program, own))
        or _no_gradient(rung.program, own)
        or _wrong_state(after, inputs, new, state)
    )


def targets_of(program: Program, frozen: Tensors, images: Tensors) -> dict[str, Tensor]:
    """The targets of a batch by input name, which engines compute themselves."""
    targets = {}
    for group in program.target_groups:
        views = images[IMAGES_PREFIX + group.name]
        with torch.no_grad():
            features = program.targets(frozen, views.flatten(0, 1))
        targets[TARGET_PREFIX + group.name] = by_view(features, len(views))
    return targets


def teacher_outputs(program: Program, inputs: Tensors) -> dict[str, Tensor]:
    """The outputs of a teacher before the step, by input name; engines compute them, too.

    Args:
        program: whose teacher may be a part of the step instead: then there are none.
        inputs: state and images, by name.
    """
    parameters = {
        name: inputs[program.teacher_prefix + name] for name in program.teacher_names
    }
    outputs = {}
    for group in program.teacher_groups:
        views = inputs[IMAGES_PREFIX + group.name]
        with torch.no_grad():
            output = program.teacher_output(parameters, views.flatten(0, 1))
        outputs[TEACHER_PREFIX + group.name] = by_view(output, len(views))
    return outputs


def _wrong_metric(given: Mapping[str, float], expected: Tensors) -> str | None:
    """The first metric that differs from PyTorch's, if any."""
    for name, value in expected.items():
        if not math.isclose(given[name], float(value), rel_tol=RELATIVE, abs_tol=ABSOLUTE):
            return f"{name} is {given[name]:.7g}, expected {float(value):.7g}"
    return None


def _wrong_state(
    after: State, inputs: Tensors, expected: Tensors, before: State
) -> str | None:
    """The first difference of the new state from PyTorch's, from the same gradients."""
    for name, value in before.items():
        if name not in expected and not np.array_equal(after[name], value):
            return f"{name} changed, and the rung does not train it"
    exact = {n: v for n, v in expected.items() if not v.dtype.is_floating_point}
    for name, tensor in exact.items():
        if not np.array_equal(after[name], tensor.numpy()):
            return f"{name} has other values"
    steps = {n: v - inputs[n] for n, v in expected.items() if n not in exact}
    moved = {name: torch.from_numpy(after[name]) - inputs[name] for name in steps}
    rounding = {name: ROUNDING * float(inputs[name].norm()) + ABSOLUTE for name in steps}
    return _too_far("step of", moved, steps, rounding)


def _no_gradient(program: Program, gradients: Tensors) -> str | None:
    """A parameter with a gradient that is declared to have none, if any."""
    allowed = _least_allowed(program, gradients)
    for name, value in gradients.items():
        norm = float(value.norm())
        if program.parameters[name].zero_gradient and norm > allowed[name]:
            return f"gradient of {name} is {norm:.3g}, but it is declared to have none"
    return None


def _least_allowed(program: Program, gradients: Tensors) -> dict[str, float]:
    """The rounding errors of gradients that are allowed, however small these are.

    A gradient that is zero by construction is rounding alone, of terms that cancel.
    """
    rounding = NO_GRADIENT * max(float(value.norm()) for value in gradients.values())
    return {
        name: rounding if program.parameters[name].zero_gradient else ABSOLUTE
        for name in gradients
    }


def _verify_periodic(package: Package, program: Program, state: State) -> None:
    """Every periodic graph, from the initial state."""
    declared, hyper = program.declaration.periodic, checked_hyper(program)
    for periodic, update in zip(package.manifest.periodic, declared, strict=True):
        expected = update.update(_inputs(program, state))
        with create_engine("ort") as engine:
            engine.open(package, state)
            engine.run_periodic(periodic.graph, hyper)
            after = engine.snapshot()
        given = {name: torch.from_numpy(after[BUFFER + name]) for name in expected}
        _refuse(periodic.graph, given, expected)


def _verify_forward(package: Package, program: Program, state: State) -> None:
    """The merge graph, if any, and the embedding graph with its weights."""
    manifest, size_px = package.manifest, program.model.image_size_px
    arrays = encoder_weights(package, state)
    weights = {name: torch.from_numpy(value) for name, value in arrays.items()}
    _refuse(manifest.merge or manifest.embed, weights, program.merge(_inputs(program, state)))
    # Three images: not the number that the graph was traced with.
    images = np.random.default_rng(0).integers(0, 256, (3, size_px, size_px, 3), np.uint8)
    with create_forward_engine() as engine:
        engine.open(package, manifest.embed, arrays)
        features = torch.from_numpy(engine.run(images))
    expected = program.embed(weights, torch.from_numpy(images))
    _refuse(manifest.embed, {FEATURES_OUTPUT: features}, {FEATURES_OUTPUT: expected})


def _verify_frozen(package: Package, program: Program) -> None:
    """The graph of the frozen encoder, if any, with the weights of the package."""
    if (encoder := package.manifest.frozen_encoder) is not None:
        _verify_encoder(package, encoder.graph, package.frozen_weights(), program.targets)


def _verify_teacher(package: Package, program: Program, state: State) -> None:
    """The graph of a teacher before the step, if any, with the weights of a state."""
    if (teacher := package.manifest.teacher_first) is not None:
        weights = {name: state[teacher.prefix + name] for name in program.teacher_names}
        _verify_encoder(package, teacher.graph, weights, program.teacher_output)


def _verify_encoder(
    package: Package,
    graph: str,
    weights: State,
    function: Callable[[dict[str, Tensor], Tensor], Tensor],
) -> None:
    (shape,) = (s.shape for s in package.manifest.graphs[graph].inputs if s.role == IMAGES)
    sizes = [size or 1 for size in shape]
    images = np.random.default_rng(0).integers(0, 256, sizes, np.uint8)
    with create_forward_engine() as engine:
        engine.open(package, graph, weights)
        features = torch.from_numpy(engine.run(images))
    tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
    with torch.no_grad():
        expected = function(tensors, torch.from_numpy(images))
    _refuse(graph, {FEATURES_OUTPUT: features}, {FEATURES_OUTPUT: expected})


def _refuse(graph: str, given: Tensors, expected: Tensors) -> None:
    """Refuse a graph whose outputs are not PyTorch's."""
    # As float64, so that integers and masks are compared, too
    given = {name: value.double() for name, value in given.items()}
    expected = {name: value.double() for name, value in expected.items()}
    problem = _too_far("output", given, expected, dict.fromkeys(expected, ABSOLUTE))
    if problem is not None:
        raise PackageError(f"{graph} differs from PyTorch: {problem}. No package was written.")


def _inputs(program: Program, state: State) -> dict[str, Tensor]:
    """State and hyper-parameters of the compared step, by input name."""
    return {
        **{name: torch.from_numpy(value) for name, value in state.items()},
        **{name: torch.tensor(value) for name, value in checked_hyper(program).items()},
    }


def checked_hyper(program: Program) -> dict[str, float]:
    """Hyper-parameters of the compared step, in the middle of a run."""
    hyper = hyper_parameters(
        program.hyper_parameters, step=3, steps_per_epoch=4, total_steps=4
    )
    return {**hyper, "lr": 0.1}


def _too_far(
    what: str, given: Tensors, expected: Tensors, absolute: Mapping[str, float]
) -> str | None:
    """The first tensor outside the tolerances, if any."""
    for name, value in expected.items():
        error = float((given[name] - value).norm())
        allowed = RELATIVE * float(value.norm()) + absolute[name]
        if not error <= allowed:
            return f"{what} {name} is off by {error:.3g}, allowed {allowed:.3g}"
    return None
