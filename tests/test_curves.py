"""Hyper-parameters of a step against their definition, written out step by step."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_fakes import CURVES

from edge_runtime.package.curves import COUNT, Curve, constant, cosine, hyper_parameters

rates = st.floats(1e-6, 10)
curves = st.builds(
    Curve,
    shape=st.sampled_from(["constant", "linear", "cosine"]),
    first=rates,
    final=rates,
    warmup_epochs=st.just(0.0) | st.floats(0, 12),
    warmup_from=st.just(0.0) | rates,
)
SHARES = {  # of `first`, at step `number` (from 0) of `count`
    "constant": lambda number, count: 1.0,
    "linear": lambda number, count: (count - number) / count,
    "cosine": lambda number, count: 0.5 + 0.5 * math.cos(number * math.pi / count),
}


def values_slowly(curve, steps_per_epoch, total_steps):
    """All values of a run: equal steps up to `first`, then the shape down to `final`."""
    warmup_steps = min(round(curve.warmup_epochs * steps_per_epoch), total_steps)
    rise = [
        (1 - number / warmup_steps) * curve.warmup_from + number / warmup_steps * curve.first
        for number in range(1, warmup_steps + 1)
    ]
    left = total_steps - warmup_steps
    shares = [SHARES[curve.shape](number, left) for number in range(left)]
    return rise + [share * curve.first + (1 - share) * curve.final for share in shares]


def values(curve, steps_per_epoch, total_steps):
    return [
        curve.at(step, steps_per_epoch=steps_per_epoch, total_steps=total_steps)
        for step in range(1, total_steps + 1)
    ]


@given(curves, st.integers(1, 9), st.integers(1, 9))
def test_every_step_equals_the_definition(curve, steps_per_epoch, epochs) -> None:
    total = steps_per_epoch * epochs
    # float64 on both sides; sums are formed in another order
    slow = pytest.approx(values_slowly(curve, steps_per_epoch, total), rel=1e-9)
    assert values(curve, steps_per_epoch, total) == slow


@given(curves, st.integers(1, 9), st.integers(1, 9))
def test_a_value_stays_between_its_ends(curve, steps_per_epoch, epochs) -> None:
    ends = (curve.first, curve.final, curve.warmup_from)
    for value in values(curve, steps_per_epoch, steps_per_epoch * epochs):
        assert min(ends) * (1 - 1e-9) <= value <= max(ends) * (1 + 1e-9)


@given(curves)
def test_a_constant_curve_has_one_value(curve) -> None:
    found = values(curve, 5, 20)
    if curve.is_constant:
        assert found == pytest.approx([found[0]] * 20, rel=1e-9)


def test_the_peak_is_reached_with_the_last_warm_up_step() -> None:
    rates = values(CURVES["lr"], 5, 20)
    assert rates[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert rates[5] == 0.01
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    curve = replace(CURVES["lr"], warmup_epochs=0)
    assert curve.at(1, steps_per_epoch=5, total_steps=5) == curve.first


def test_every_name_of_the_table_has_its_value() -> None:
    table = {"step": Curve(shape=COUNT), "beta1": constant(0.9), "decay": cosine(0.05, 0.1)}
    for step in (1, 7):
        found = hyper_parameters(table, step, steps_per_epoch=5, total_steps=10)
        assert found == {
            "step": step,
            "beta1": 0.9,
            "decay": pytest.approx(values_slowly(table["decay"], 5, 10)[step - 1]),
        }
