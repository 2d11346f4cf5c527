"""Hyper-parameters of a step against their definition, written out step by step."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_fakes import CURVES

from edge_runtime.errors import PackageError
from edge_runtime.package.curves import (
    COUNT,
    SHAPES,
    Curve,
    constant,
    cosine,
    hyper_parameters,
)
from edge_runtime.schema import structure

rates = st.floats(1e-6, 10)
learning_rates = st.builds(
    Curve,
    shape=st.just("cosine"),
    first=rates,
    final=rates,
    warmup_epochs=st.floats(0, 12),
    warmup_from=st.just(0.0),
)
curves = st.builds(
    Curve,
    shape=st.sampled_from(sorted(SHAPES)),
    first=rates,
    final=rates,
    warmup_epochs=st.floats(0, 12),
    warmup_from=rates,
)


def values(curve, steps_per_epoch, total_steps):
    """The value of every step of a run."""
    return [
        curve.at(step, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
        for step in range(1, total_steps + 1)
    ]


def curve_slowly(curve, steps_per_epoch, total_steps):
    """All values of a run: equal rises to `first`, then the shape over the remaining steps."""
    warmup_steps = min(round(curve.warmup_epochs * steps_per_epoch), total_steps)
    rise = [
        curve.warmup_from + (curve.first - curve.warmup_from) / warmup_steps * (number + 1)
        for number in range(warmup_steps)
    ]
    left = total_steps - warmup_steps
    share_of = {
        "constant": lambda number: 1.0,
        "linear": lambda number: (left - number) / left,
        "cosine": lambda number: 0.5 * (1 + math.cos(number * math.pi / left)),
    }[curve.shape]
    shares = [share_of(number) for number in range(left)]
    return rise + [share * curve.first + (1 - share) * curve.final for share in shares]


def cosine_slowly(first, final, total_steps):
    shares = [0.5 + 0.5 * math.cos(math.pi * n / total_steps) for n in range(total_steps)]
    return [share * first + (1 - share) * final for share in shares]


@given(learning_rates | curves, st.integers(1, 9), st.integers(1, 9))
def test_every_step_equals_the_definition(curve, steps_per_epoch, epochs) -> None:
    total = steps_per_epoch * epochs
    # float64 on both sides; sums are formed in another order
    expected = pytest.approx(curve_slowly(curve, steps_per_epoch, total), rel=1e-9)
    assert values(curve, steps_per_epoch, total) == expected


@given(rates, rates, st.integers(1, 9), st.integers(1, 9))
def test_a_table_gives_every_hyper_parameter(first, final, steps_per_epoch, epochs) -> None:
    total = steps_per_epoch * epochs
    table = {
        "weight_decay": cosine(first, final),
        "beta1": constant(0.9),
        "step": Curve(shape=COUNT),
        "progress": Curve(shape="linear", first=0.0, final=1.0),
    }
    steps = [
        hyper_parameters(table, step, steps_per_epoch=steps_per_epoch, total_steps=total)
        for step in range(1, total + 1)
    ]
    assert all(step.keys() == table.keys() for step in steps)
    decay = cosine_slowly(first, final, total)
    assert [step["weight_decay"] for step in steps] == pytest.approx(decay, rel=1e-9)
    assert [step["beta1"] for step in steps] == [0.9] * total
    assert [step["step"] for step in steps] == list(range(1, total + 1))
    progress = [step["progress"] for step in steps]
    assert progress == pytest.approx([n / total for n in range(total)], rel=1e-15)


@given(learning_rates, st.integers(1, 9), st.integers(1, 9))
def test_the_rate_stays_between_its_ends(curve, steps_per_epoch, epochs) -> None:
    for lr in values(curve, steps_per_epoch, steps_per_epoch * epochs):
        assert 0 < lr <= max(curve.first, curve.final) * (1 + 1e-9)


def test_the_peak_is_reached_with_the_last_warm_up_step() -> None:
    rates = values(CURVES["lr"], 5, 20)
    assert rates[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert rates[5] == 0.01
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    curve = replace(CURVES["lr"], warmup_epochs=0)
    assert values(curve, 5, 5)[0] == CURVES["lr"].first


def test_a_warm_up_may_begin_above_zero_and_fill_the_run() -> None:
    curve = Curve(shape="constant", first=1.0, warmup_epochs=9, warmup_from=0.5)
    assert values(curve, 5, 10) == pytest.approx([0.5 + 0.05 * n for n in range(1, 11)])


def test_momentum_rises_and_a_table_without_it_gives_none() -> None:
    momenta = [
        hyper_parameters(CURVES, step, steps_per_epoch=5, total_steps=10)["ema_momentum"]
        for step in range(1, 11)
    ]
    assert momenta == pytest.approx(cosine_slowly(0.9, 1.0, 10))
    fixed = {**CURVES, "ema_momentum": cosine(0.9, 0.9)}
    hyper = hyper_parameters(fixed, 7, steps_per_epoch=5, total_steps=10)
    assert hyper["ema_momentum"] == pytest.approx(0.9)
    alone = {name: curve for name, curve in CURVES.items() if name != "ema_momentum"}
    assert "ema_momentum" not in hyper_parameters(alone, 1, steps_per_epoch=5, total_steps=10)


@given(curves, st.integers(1, 9), st.integers(1, 9))
def test_a_constant_curve_has_the_same_value_in_every_step(curve, per_epoch, epochs) -> None:
    if curve.is_constant:
        total = per_epoch * epochs
        assert values(curve, per_epoch, total) == pytest.approx([curve.first] * total)


@pytest.mark.parametrize(
    ("curve", "expected"),
    [
        (constant(0.1), True),
        (cosine(0.1, 0.1), True),
        (Curve(shape="linear", first=0.1, final=0.1), True),
        (Curve(shape="constant", first=0.1, final=0.2), True),  # its `final` is never read
        (Curve(shape="constant", first=0.1, warmup_epochs=1, warmup_from=0.1), True),
        (cosine(0.1, 0.2), False),
        (Curve(shape="linear", first=0.1, final=0.2), False),
        (Curve(shape="constant", first=0.1, warmup_epochs=1), False),
        (Curve(shape=COUNT), False),
    ],
)
def test_a_constant_curve_is_recognised(curve, expected) -> None:
    assert curve.is_constant is expected
    assert (len(set(values(curve, 5, 20))) == 1) is expected


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("first", math.nan, "expected a finite number, got nan"),
        ("final", math.inf, "expected a finite number, got inf"),
        ("warmup_from", -math.inf, "expected a finite number, got -inf"),
        ("warmup_epochs", math.inf, "expected a finite number, got inf"),
        ("first", -0.1, r"expected a number in \[0, 1000000\], got -0.1"),
        ("warmup_epochs", -1, r"expected a number in \[0, 1000000\], got -1"),
    ],
)
def test_an_unusable_curve_is_refused(key, value, problem) -> None:
    """An unknown shape is refused by `open_package`, see test_package_values.py."""
    table = {"shape": "linear", "first": 1, "warmup_epochs": 0.5}
    curve = structure(Curve, table, where="test", error=PackageError)
    assert curve == Curve(shape="linear", first=1.0, warmup_epochs=0.5)
    with pytest.raises(PackageError, match=f"{key}: {problem}"):
        structure(Curve, {**table, key: value}, where="test", error=PackageError)
