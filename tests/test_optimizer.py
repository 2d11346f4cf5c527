"""AdamW of a step against torch.optim.AdamW, and its EMA teacher against the definition.

Everything is float64. The step arranges the same algebra for few passes over memory, so only
rounding differs: 1e-12 relative to the largest number of a tensor.
"""

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="torch.optim.AdamW is the reference")

from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.package.names import EMA, EXP_AVG, EXP_AVG_SQ, PARAM, UPDATES  # noqa: E402

STEPS = 7
TOLERANCE = 1e-12
BETA1, BETA2, EPS = 0.9, 0.95, 1e-8
ZERO = "projector.1.weight"  # its gradient is exactly zero in every step
SMALL = "predictor.0.weight"  # its gradient is about as large as eps
PAUSED = "encoder.blocks.0.mlp.fc1.weight"  # its gradient is zero from the second step on


def make_program(exempt_vectors, *, depth=1, trained=("all",)):
    """MoCo v3 with one block: matrices, vectors, tokens, and a teacher of some of them."""
    return Program(
        make_recipe(
            {
                "model": {
                    "image_size": 8,
                    "patch_size": 4,
                    "depth": depth,
                    "width": 8,
                    "heads": 2,
                },
                "method": {"name": "mocov3", "projector_width": 6, "projector_out": 4},
                "optimizer": {"exempt_vectors": exempt_vectors},
                "keep_ratios": [0.5],
                "trained": list(trained),
                "batch_size": 4,
            },
            where="test",
        )
    )


def next_state(program, gradients, state, hyper):
    """The next state by name: the only place that calls the tested code."""
    (settings,) = program.settings
    return program.bind(settings).update(gradients, {}, {**state, **hyper})[0]


def hyper_of(step):
    """Hyper-parameters of a step, all but the betas and eps different in each."""
    values = {
        "lr": 1e-3 * step,
        "weight_decay": 0.3 / step,
        "beta1": BETA1,
        "beta2": BETA2,
        "eps": EPS,
        "step": step,
        "ema_momentum": 0.9 + 0.01 * step,
    }
    return {name: torch.tensor(value, dtype=torch.float64) for name, value in values.items()}


def gradients_of(parameters, step):
    generator = torch.Generator().manual_seed(step)
    factors = {ZERO: 0.0, SMALL: EPS, PAUSED: float(step == 1)}
    return {
        name: factors.get(name, 1.0)
        * torch.randn(value.shape, generator=generator, dtype=torch.float64)
        for name, value in parameters.items()
    }


class Reference:
    """torch.optim.AdamW, one group with weight decay and one without, and the EMA in numpy."""

    def __init__(self, state, decayed):
        self.parameters = {
            name.removeprefix(PARAM): value.clone()
            for name, value in state.items()
            if name.startswith(PARAM)
        }
        self.teacher = {
            name.removeprefix(EMA): value.clone().numpy()
            for name, value in state.items()
            if name.startswith(EMA)
        }
        groups = [
            {"params": [v for n, v in self.parameters.items() if n in decayed]},
            {"params": [v for n, v in self.parameters.items() if n not in decayed]},
        ]
        groups = [group for group in groups if group["params"]]
        self.optimizer = torch.optim.AdamW(groups, betas=(BETA1, BETA2), eps=EPS)

    def step(self, gradients, hyper):
        for name, value in self.parameters.items():
            value.grad = gradients[name].clone() if name in gradients else None
        for number, group in enumerate(self.optimizer.param_groups):
            group["lr"] = hyper["lr"].item()
            group["weight_decay"] = 0.0 if number else hyper["weight_decay"].item()
        self.optimizer.step()
        momentum = hyper["ema_momentum"].item()
        for name in self.teacher.keys() & gradients.keys():
            old = self.teacher[name]
            new = self.parameters[name].numpy()  # after the optimizer's step
            self.teacher[name] = momentum * old + (1 - momentum) * new

    def state(self):
        moments = {
            name: self.optimizer.state[value]
            for name, value in self.parameters.items()
            if value in self.optimizer.state
        }
        return {
            **{PARAM + name: value.numpy() for name, value in self.parameters.items()},
            **{EXP_AVG + name: m["exp_avg"].numpy() for name, m in moments.items()},
            **{EXP_AVG_SQ + name: m["exp_avg_sq"].numpy() for name, m in moments.items()},
            **{EMA + name: value for name, value in self.teacher.items()},
        }


def random_state(program):
    """The declared state, float64; parameters and teacher are random and differ."""
    generator = torch.Generator().manual_seed(0)
    return {
        name: torch.randn(value.shape, generator=generator, dtype=torch.float64)
        if name.startswith((PARAM, EMA))
        else torch.zeros(value.shape, dtype=torch.float64)
        for name, value in program.initial_state().items()
    }


def trained(exempt_vectors):
    """Several steps; yields the state, the reference's and the previous one for each."""
    program = make_program(exempt_vectors)
    state = random_state(program)
    parameters = {
        name.removeprefix(PARAM): value
        for name, value in state.items()
        if name.startswith(PARAM)
    }
    matrices = {name for name, value in parameters.items() if value.ndim == 2}
    reference = Reference(state, matrices if exempt_vectors else set(parameters))
    for step in range(1, STEPS + 1):
        gradients, hyper = gradients_of(parameters, step), hyper_of(step)
        before, state = state, next_state(program, gradients, state, hyper)
        reference.step(gradients, hyper)
        yield before, state, reference.state(), hyper


@pytest.mark.parametrize("exempt_vectors", [False, True])
def test_every_step_is_that_of_torch(exempt_vectors):
    """With `exempt_vectors`, weight decay acts on matrices only."""
    for _, state, wanted, _ in trained(exempt_vectors):
        assert state.keys() == wanted.keys()
        for name, value in wanted.items():
            error = np.abs(state[name].numpy() - value).max()
            assert error <= TOLERANCE * max(np.abs(value).max(), 1e-300), name


def test_only_weight_decay_changes_a_parameter_with_zero_gradient():
    for before, state, _, hyper in trained(exempt_vectors=True):
        shrunk = before[PARAM + ZERO] * (1 - hyper["lr"] * hyper["weight_decay"])
        np.testing.assert_allclose(state[PARAM + ZERO], shrunk, rtol=1e-15)
        assert not state[EXP_AVG + ZERO].any()
        assert not state[EXP_AVG_SQ + ZERO].any()


def test_the_teacher_has_encoder_and_projector_only():
    for _, state, _, _ in trained(exempt_vectors=False):
        teacher = {name.removeprefix(EMA) for name in state if name.startswith(EMA)}
        assert {name.split(".")[0] for name in teacher} == {"encoder", "projector"}


@pytest.mark.parametrize("labels", [("all", "last-1"), ("last-1", "last-2"), ("last-1",)])
def test_rungs_that_train_a_part_are_torchs_with_gradients_of_that_part(labels):
    """PyTorch counts each parameter's updates, and skips those without gradient."""
    program = make_program(exempt_vectors=False, depth=2, trained=labels)
    rungs = [program.bind(settings) for settings in program.settings]
    assert [rung.settings.trained for rung in rungs] == list(labels)
    state = random_state(program)
    parameters = {n.removeprefix(PARAM): v for n, v in state.items() if n.startswith(PARAM)}
    reference, updated = Reference(state, set(parameters)), set()
    for step in range(1, STEPS + 1):
        rung, hyper = rungs[step * step % 3 % len(rungs)], hyper_of(step)
        gradients = gradients_of(parameters, step)
        given = {name: gradients[name] for name in rung.trained}
        changed = rung.update(given, {}, {**state, **hyper})[0]
        updated |= set(rung.trained)
        state = {**state, **changed}
        reference.step(given, hyper)
        for name, value in reference.state().items():
            error = np.abs(state[name].numpy() - value).max()
            assert error <= TOLERANCE * max(np.abs(value).max(), 1e-300), name
        owners = {n.partition(".")[2] for n in changed if not n.startswith(UPDATES)}
        assert owners == set(rung.trained)
    assert any(name not in updated for name in parameters) == ("all" not in labels)


def test_only_groups_that_some_rungs_train_have_a_counter():
    one = make_program(exempt_vectors=False, depth=2, trained=("last-1",))
    assert not any(name.startswith(UPDATES) for name in one.initial_state())
    three = make_program(exempt_vectors=False, depth=2, trained=("all", "last-1", "last-2"))
    counters = {n: v for n, v in three.initial_state().items() if n.startswith(UPDATES)}
    assert counters.keys() == {
        f"{UPDATES}all",
        f"{UPDATES}all+last-2",
        f"{UPDATES}all+last-1+last-2",
    }
    assert {float(value) for value in counters.values()} == {0.0}
