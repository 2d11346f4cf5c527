"""Every objective and token policy on every engine against PyTorch, step by step.

Tolerances: two frameworks that add the same float32 numbers in another order differ by about
1e-6 relative in these models; 1e-4 allows for other processors and still detects a wrong
term, factor or sign.
"""

from collections.abc import Callable

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference is PyTorch")

from combinations import METHODS_AND_POLICIES, WITHOUT_ARTIFACTS  # noqa: E402
from reference_engine import TorchEngine, program_of, rung_of  # noqa: E402
from selections import forced_selection, largest_gap  # noqa: E402
from steps import hyper_of, noise_batch  # noqa: E402

from edge_runtime.engines import Batch, Engine, Hyper, create_engine  # noqa: E402
from edge_runtime.errors import EngineError  # noqa: E402
from edge_runtime.package import Package  # noqa: E402
from edge_runtime.package.names import (  # noqa: E402
    EMA,
    EXP_AVG,
    METRIC,
    PARAM,
    SELECTION,
    STEP,
)
from edge_runtime.state import Array, State  # noqa: E402

STEPS = 20
RELATIVE, ABSOLUTE = 1e-4, 1e-7
ROUNDING = 1e-6  # relative: float32's, times ten
DEAD = "encoder.blocks.0.mlp"  # with a unit that never fires
TIE = 1e-5  # score gaps below this may be decided either way
COMBINATIONS = [
    pytest.param(method, policy, engine, id=f"{method}-{policy}-{engine}")
    for method, policy in METHODS_AND_POLICIES
    for engine in ("ort", "ort-training")
    if engine == "ort" or method not in WITHOUT_ARTIFACTS
]
Packages = Callable[[str, str], Package]


def engine_or_skip(name: str, package: Package) -> Engine:
    try:
        engine = create_engine(name, threads=2)
    except EngineError as error:
        pytest.skip(str(error))
    if reason := engine.unsupported_reason(package):
        pytest.skip(reason)
    return engine


def state_with_a_dead_unit(package: Package) -> State:
    """The initial state, with one hidden unit of a block far below zero on every input.

    Its outgoing weights have a gradient of exactly zero. If AdamW's eps of 1e-8 becomes 0 (as
    an exporter's optimizer once did), their update is 0/0.
    """
    state = {name: value.copy() for name, value in package.initial_state().items()}
    for prefix in (PARAM, EMA):
        if (name := f"{prefix}{DEAD}.fc1.weight") in state:
            state[name][:, 0] = 0
            state[f"{prefix}{DEAD}.fc1.bias"][0] = -40  # GELU and its slope: exactly 0
    return state


class SelectionOf:
    """What an engine's own graph selects, read from the selection outputs of the graph."""

    def __init__(self, package: Package, rung_id: str, engine: str) -> None:
        import onnxruntime

        self.engine = engine
        rung = package.rung(rung_id)
        path = rung.graphs[STEP]
        if engine == "ort-training":
            assert rung.ort_training is not None
            path = rung.ort_training.eval
        self._spec = package.manifest.graphs[path]
        self.names = [t.name for t in self._spec.outputs if t.role == SELECTION]
        self._session = onnxruntime.InferenceSession(
            str(package.file(path)), providers=["CPUExecutionProvider"]
        )

    def __call__(self, state: State, batch: Batch, hyper: Hyper) -> dict[str, Array]:
        if not self.names:
            return {}
        known = {
            **state,
            **{name.removeprefix(PARAM): state[name] for name in state},
            **batch,
            **{name: np.array(value, np.float32) for name, value in hyper.items()},
        }
        feeds = {tensor.name: known[tensor.name] for tensor in self._session.get_inputs()}
        return dict(zip(self.names, self._session.run(self.names, feeds), strict=True))


def assert_only_ties_differ(
    package: Package, rung_id: str, state: State, given: Batch, found: list[torch.Tensor]
) -> None:
    """Where the reference, after the same earlier choices, chooses other tokens than `found`,
    they have nearly the same scores.
    """
    program = program_of(package)
    inputs = {name: torch.from_numpy(value) for name, value in {**state, **given}.items()}
    weights = {name: inputs[PARAM + name] for name in program.parameters}
    policy, left = package.manifest.token_policy, iter(found)
    with torch.no_grad(), forced_selection(policy, found) as calls:
        rung_of(program, rung_id).loss(weights, inputs)
    for call in calls:
        gap = largest_gap(policy, call, tuple(next(left) for _ in call[1]))
        assert gap < TIE


def reference_step(
    package: Package, rung_id: str, state: State, batch: Batch, hyper: Hyper
) -> tuple[TorchEngine, float]:
    """PyTorch's engine after one step from `state`, and the loss."""
    reference = TorchEngine()
    reference.open(package, state)
    return reference, reference.step(rung_id, batch, hyper).metrics["loss"]


def check_step(
    package: Package, selection: SelectionOf, rung_id: str, state: State, step: int
) -> tuple[State, bool]:
    """One step of both sides from `state`; PyTorch's next state, and whether a tie was met."""
    batch, hyper = noise_batch(package, rung_id, step), hyper_of(package, step, STEPS)
    reference, wanted = reference_step(package, rung_id, state, batch, hyper)
    after = reference.snapshot()
    selected = {name: value.numpy() for name, value in reference.selected.items()}
    found_selection = selection(state, batch, hyper)
    assert found_selection.keys() == selected.keys()
    tie = any((found_selection[name] != selected[name]).any() for name in selected)
    if tie:
        given = {**batch, **{k: np.array(v, np.float32) for k, v in hyper.items()}}
        forced = [torch.from_numpy(rows).long() for rows in found_selection.values()]
        assert_only_ties_differ(package, rung_id, state, given, forced)
        with forced_selection(package.manifest.token_policy, forced):
            reference, wanted = reference_step(package, rung_id, state, batch, hyper)
    with create_engine(selection.engine, threads=2) as engine:
        engine.open(package, state)
        result = engine.step(rung_id, batch, hyper)
        found_state = engine.snapshot()
    assert result.metrics["loss"] == pytest.approx(wanted, rel=RELATIVE)
    gradients = {name: value.numpy() for name, value in reference.gradients.items()}
    for name, allowed in allowed_errors(package, gradients).items():
        # m' = beta1 m + (1 - beta1) g
        moment = found_state[EXP_AVG + name].astype(np.float64)
        before = state[EXP_AVG + name].astype(np.float64)
        got = (moment - hyper["beta1"] * before) / (1 - hyper["beta1"])
        error = np.linalg.norm(got - gradients[name])
        allowed += ROUNDING * np.linalg.norm(before)  # the old moment is subtracted
        assert error <= allowed, f"step {step}: {name} off by {error}, allowed {allowed}"
    return after, tie


def allowed_errors(package: Package, gradients: dict[str, Array]) -> dict[str, float]:
    """The largest norm of each gradient's error.

    A gradient that is zero by construction is the rounding of terms that cancel, which are as
    large as those of other gradients.
    """
    norms = {name: float(np.linalg.norm(value)) for name, value in gradients.items()}
    cancelled, parameters = ROUNDING * max(norms.values()), program_of(package).parameters
    return {
        name: RELATIVE * norm + ABSOLUTE + cancelled * parameters[name].zero_gradient
        for name, norm in norms.items()
    }


@pytest.mark.parametrize(("method", "policy", "engine"), COMBINATIONS)
def test_each_step_from_the_references_state(
    small_package: Packages, method: str, policy: str, engine: str
) -> None:
    package = small_package(method, policy)
    engine_or_skip(engine, package)
    rung_id = package.manifest.rungs[-1].id
    selection = SelectionOf(package, rung_id, engine)
    state, ties = state_with_a_dead_unit(package), 0
    for step in range(1, STEPS + 1):
        state, tie = check_step(package, selection, rung_id, state, step)
        ties += tie
    assert ties <= STEPS // 20
    dead = state[f"{EXP_AVG}{DEAD}.fc2.weight"][0]
    assert not dead.any()  # the zero gradient was there, and stayed zero


@pytest.mark.parametrize(("method", "policy", "engine"), COMBINATIONS)
def test_a_free_run_stays_close_to_the_reference(
    small_package: Packages, method: str, policy: str, engine: str
) -> None:
    package = small_package(method, policy)
    rung_id = package.manifest.rungs[-1].id
    state = state_with_a_dead_unit(package)
    vectors = []
    for runner in (TorchEngine(), engine_or_skip(engine, package)):
        with runner:
            runner.open(package, state)
            for step in range(1, STEPS + 1):
                batch = noise_batch(package, rung_id, step)
                runner.step(rung_id, batch, hyper_of(package, step, STEPS))
            after = runner.snapshot()
        names = sorted(name for name in after if name.startswith((PARAM, EMA)))
        vectors.append(np.concatenate([after[name].ravel() for name in names]))
    wanted, actual = vectors
    moved = np.linalg.norm(wanted - np.concatenate([state[name].ravel() for name in names]))
    assert np.linalg.norm(actual - wanted) <= 1e-3 * np.linalg.norm(wanted)
    assert np.linalg.norm(actual - wanted) <= 0.1 * moved  # and the state has changed


def test_metrics_are_declared(small_package: Packages) -> None:
    package = small_package("simclr", "random")
    for rung in package.manifest.rungs:
        outputs = package.manifest.graphs[rung.graphs[STEP]].outputs
        assert [t.name for t in outputs if t.role == METRIC] == ["loss"]
