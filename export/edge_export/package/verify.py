"""Prove a written package before it is published: each rung's step against PyTorch.

On every engine of this environment that can train the package, from the initial state: the
loss within 1e-4 relative; every gradient within 1e-4 of its norm plus 1e-7, and so what
optimizer and EMA teacher make of it, and the features of the forward graphs. Two frameworks
that add the same numbers in another order differ by about 1e-6 here.
"""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from edge_export.step.example import example_inputs
from edge_export.step.program import FEATURES_OUTPUT, GLOBAL_VIEWS, Program, Tensors
from edge_runtime.engines import ENGINES, Engine, ForwardGraph, create_engine
from edge_runtime.errors import EngineError, PackageError
from edge_runtime.package import Package
from edge_runtime.package.manifest import WEIGHT, Rung, Schedule
from edge_runtime.package.references import LOSS, NEXT
from edge_runtime.state import EMA, EXP_AVG, State

RELATIVE = 1e-4
ABSOLUTE = 1e-7
ROUNDING = 1e-6  # of a tensor that moves: float32 keeps 1e-7 of a value
# Where two scores of a token policy nearly tie, two frameworks may choose differently, which
# moves the loss more than any tolerance. A wrong graph fails on every batch.
TRIES = 5


def verify(package: Package, program: Program) -> list[str]:
    """Run every rung on every engine; gives the runtimes that did.

    Raises:
        PackageError: a loss or gradient differs; the message says which and by how much.
        EngineError: no engine of this environment can run the package.
    """
    state = package.initial_state()
    engines = [name for name in ENGINES if _installed(name)]
    if not engines:
        create_engine("ort")  # says what to install
    runtimes = []
    for name in engines:
        if name == "ort-training" and package.manifest.official.refused is not None:
            continue
        for rung in package.manifest.rungs:
            if name == "ort" or rung.official is not None:
                runtime = _verify_rung(package, program, rung, name, state)
        runtimes.append(f"{name} on {runtime}")
    _verify_forward_graphs(package, program, state)
    return runtimes


def _installed(name: str) -> bool:
    try:
        create_engine(name)
    except EngineError:
        return False
    return True


def _verify_rung(
    package: Package, program: Program, rung: Rung, engine_name: str, state: State
) -> str:
    for attempt in range(TRIES):
        with create_engine(engine_name) as engine:
            engine.open(package, state)
            problem = _difference(program, rung, engine, state, seed=attempt)
            runtime = engine.runtime
        if problem is None:
            return runtime
    raise PackageError(
        f"rung {rung.id} on engine {engine_name} ({runtime}) differs from PyTorch: {problem}. "
        "No package was written."
    )


def _difference(
    program: Program, rung: Rung, engine: Engine, state: State, *, seed: int
) -> str | None:
    """What differs after one step on one random batch, if anything."""
    # The whole batch at once, also for micro-batches: that they are exact is to be proved.
    policy = program.policy(rung.keep_ratio)
    batch = example_inputs(program, policy, seed=seed)
    hyper = checked_hyper(program.recipe.schedule())
    inputs: dict[str, Tensor] = {
        **{name: torch.from_numpy(value) for name, value in state.items()},
        **batch,
        **{name: torch.tensor(value) for name, value in hyper.items()},
    }
    gradients, metrics = program.gradient(policy, inputs)
    found = engine.step(rung.id, {k: v.numpy() for k, v in batch.items()}, hyper)
    wanted = float(metrics[LOSS])
    if not math.isclose(found[LOSS], wanted, rel_tol=RELATIVE):
        return f"loss {found[LOSS]:.7g}, want {wanted:.7g}"
    after = engine.snapshot()
    # Moments start at zero, so the first one is (1 - beta1) times the gradient.
    own = {
        name: torch.from_numpy(after[EXP_AVG + name]) / (1 - inputs["beta1"])
        for name in gradients
    }
    # From the engine's own gradients: AdamW blows up the rounding noise of those near zero.
    applied = {
        name.removeprefix(NEXT): value - inputs[name.removeprefix(NEXT)]
        for name, value in program.apply(own, inputs).items()
    }
    moved = {name: torch.from_numpy(after[name]) - inputs[name] for name in applied}
    rounding = {name: ROUNDING * float(inputs[name].norm()) for name in applied}
    return _too_far("gradient of", own, gradients, dict.fromkeys(own, ABSOLUTE)) or _too_far(
        "step of", moved, applied, rounding
    )


def _verify_forward_graphs(package: Package, program: Program, state: State) -> None:
    manifest = package.manifest
    images = example_inputs(program, program.policy(1.0))[GLOBAL_VIEWS]  # (V, B, H, W, 3)
    # Three pictures: another number than the graph was traced with.
    runs = [(manifest.embed, manifest.encoder_prefix, images.flatten(0, 1)[:3])]
    runs += [
        (rung.teacher, EMA, images) for rung in manifest.rungs if rung.teacher is not None
    ]
    for graph, prefix, given in runs:
        names = [spec.name for spec in manifest.graphs[graph].inputs if spec.role == WEIGHT]
        weights = {name: state[prefix + name] for name in names}
        with ForwardGraph(package, graph, weights) as forward:
            found = torch.from_numpy(forward.run(given.numpy()))
        tensors = {name: torch.from_numpy(value) for name, value in weights.items()}
        wanted = program.embed(tensors, given.reshape(-1, *given.shape[-3:]))
        made = {FEATURES_OUTPUT: found}
        problem = _too_far("output", made, wanted, dict.fromkeys(made, ABSOLUTE))
        if problem is not None:
            raise PackageError(
                f"{graph} differs from PyTorch: {problem}. No package was written."
            )


def checked_hyper(schedule: Schedule) -> dict[str, float]:
    """Hyper-parameters of the step that is compared: a long one, with bias corrections."""
    return {
        "lr": 0.1,
        "weight_decay": schedule.weight_decay,
        "beta1": schedule.beta1,
        "beta2": schedule.beta2,
        "eps": schedule.eps,
        "step": 3.0,
        "progress": 0.5,
        **({} if schedule.ema_momentum is None else {"ema_momentum": schedule.ema_momentum}),
    }


def _too_far(
    what: str, found: Tensors, wanted: Tensors, absolute: Mapping[str, float]
) -> str | None:
    """The first tensor that is not within the tolerances, if any."""
    for name, value in wanted.items():
        error = float((found[name] - value).norm())
        allowed = RELATIVE * float(value.norm()) + absolute[name]
        if not error <= allowed:
            return f"{what} {name} is off by {error:.3g}, allowed {allowed:.3g}"
    return None
