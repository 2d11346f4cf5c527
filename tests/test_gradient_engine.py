"""Gradients of a package's own graphs, against PyTorch's; and nothing else changes.

Tolerance as of test_parity.py: two frameworks add the same float32 numbers in another order.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the reference is PyTorch")

from paired_objective import paired_method  # noqa: E402
from reference_engine import program_of, rung_of  # noqa: E402
from steps import hyper_of, noise_batch  # noqa: E402

from edge_runtime.engines import create_engine, gradients  # noqa: E402
from edge_runtime.engines.gradients import GradientEngine  # noqa: E402
from edge_runtime.errors import DivergedError  # noqa: E402
from edge_runtime.package.names import BUFFER, EMA, PARAM  # noqa: E402

RELATIVE = 1e-4  # of the norm of a parameter's gradient


def trained_state(package, rung_id):
    """A state with moments, an old teacher and changed buffers."""
    with create_engine("ort", threads=1) as engine:
        engine.open(package, package.initial_state())
        for step in range(1, 4):
            hyper = {**hyper_of(package, step), "lr": 1e-3}
            engine.step(rung_id, noise_batch(package, rung_id, step), hyper)
        return engine.snapshot()


def gradient_in_torch(package, rung_id, state, batch, hyper):
    inputs = {name: torch.from_numpy(value) for name, value in {**state, **batch}.items()}
    inputs |= {name: torch.tensor(value) for name, value in hyper.items()}
    gradients, _ = rung_of(program_of(package), rung_id).gradient(inputs)
    return {name: value.numpy() for name, value in gradients.items()}


def assert_is_the_gradient(package, rung_id, reference_id, state):
    """Two batches, then the first again: the same, at the same state."""
    whole, hyper = package.rung(reference_id), hyper_of(package, 5)
    batches = [noise_batch(package, whole.id, step) for step in (7, 8, 7)]
    results = []
    with GradientEngine(threads=1) as engine:
        engine.open(package, state)
        for batch in batches:
            gradient = engine.gradient(rung_id, batch, hyper)
            results.append({name: value.copy() for name, value in gradient.items()})
        after = engine.snapshot()
    for actual, batch in zip(results, batches, strict=True):
        wanted = gradient_in_torch(package, reference_id, state, batch, hyper)
        assert actual.keys() == wanted.keys()
        largest = max(np.linalg.norm(value) for value in wanted.values())
        for name, value in wanted.items():
            error = np.linalg.norm(actual[name] - value)
            assert error <= RELATIVE * np.linalg.norm(value) + 1e-7 * largest, name
    for name, value in results[0].items():
        np.testing.assert_array_equal(results[2][name], value, err_msg=name)
    for name, value in state.items():
        if name.startswith((PARAM, EMA, BUFFER)):
            np.testing.assert_array_equal(after[name], value, err_msg=name)


def test_a_teacher_stands_still_and_buffers_are_set_back(small_package) -> None:
    """Method dino has both."""
    package = small_package("dino", "random")
    rung_id = package.manifest.rungs[-1].id
    state = trained_state(package, rung_id)
    assert {EMA, BUFFER} <= {f"{name.partition('.')[0]}." for name in state}
    assert_is_the_gradient(package, rung_id, rung_id, state)


def test_micro_batches_give_the_gradient_of_the_batch(small_package) -> None:
    with paired_method():
        package = small_package("paired", "random")
        (parts,) = (r for r in package.ladder()[-2:] if r.micro_batch)
        whole = parts.id.removesuffix("-m2")
        assert_is_the_gradient(package, parts.id, whole, trained_state(package, whole))


class Overflowing(GradientEngine):
    """The first `left` steps of half precision overflow."""

    left = 2

    def step(self, rung_id, batch, hyper, following=None):
        self.left -= 1
        return super().step(rung_id, batch, hyper)._replace(applied=self.left < 0)


def test_a_step_that_overflows_is_tried_again_and_its_scale_kept(
    small_package, monkeypatch
) -> None:
    """No processor trains in half precision: a buffer of dino stands for the loss's scale."""
    package = small_package("dino", "random")
    rung_id = package.manifest.rungs[-1].id
    state, hyper = trained_state(package, rung_id), hyper_of(package, 5)
    scale, *others = sorted(name for name in state if name.startswith(BUFFER))
    monkeypatch.setattr(gradients, "LOSS_SCALE", scale.removeprefix(BUFFER))
    batch = noise_batch(package, rung_id, 7)
    with Overflowing(threads=1) as engine:
        engine.open(package, state)
        engine.gradient(rung_id, batch, hyper)
        assert engine.left == -1
        after = engine.snapshot()
        assert not np.array_equal(after[scale], state[scale])
        for name in others:
            np.testing.assert_array_equal(after[name], state[name])
        engine.gradient(rung_id, batch, hyper)
        np.testing.assert_array_equal(engine.snapshot()[scale], after[scale])
        monkeypatch.setattr(gradients, "_MOST_TRIES", 3)
        engine.left = 3
        with pytest.raises(DivergedError, match=f"the gradient of rung {rung_id} is not fin"):
            engine.gradient(rung_id, batch, hyper)
