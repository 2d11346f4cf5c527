"""Hyper-parameters of a step against their definition, written out step by step."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from training_fakes import SCHEDULE

from edge_runtime.package.manifest import Schedule
from edge_runtime.training.schedule import hyper_parameters, learning_rate

rates = st.floats(1e-6, 10)
schedules = st.builds(
    Schedule,
    lr=rates,
    final_lr=rates,
    warmup_epochs=st.floats(0, 12),
    weight_decay=rates,
    final_weight_decay=rates,
    ema_momentum=st.none() | st.floats(0.5, 1),
    final_ema_momentum=st.none() | st.floats(0.5, 1),
    beta1=st.just(0.9),
    beta2=st.just(0.999),
    eps=st.just(1e-8),
)


def lr_slowly(schedule, steps_per_epoch, total_steps):
    """All learning rates of a run: equal rises to the peak, then half a cosine."""
    warmup_steps = min(round(schedule.warmup_epochs * steps_per_epoch), total_steps)
    rise = [schedule.lr / warmup_steps * (number + 1) for number in range(warmup_steps)]
    left = total_steps - warmup_steps
    fall = []
    for number in range(left):
        share = 0.5 * (1 + math.cos(number * math.pi / left))
        fall.append(share * schedule.lr + (1 - share) * schedule.final_lr)
    return rise + fall


def cosine_slowly(first, final, total_steps):
    shares = [0.5 + 0.5 * math.cos(math.pi * n / total_steps) for n in range(total_steps)]
    return [share * first + (1 - share) * final for share in shares]


@given(schedules, st.integers(1, 9), st.integers(1, 9))
def test_every_step_equals_the_definition(schedule, steps_per_epoch, epochs) -> None:
    total = steps_per_epoch * epochs
    steps = [
        hyper_parameters(schedule, step, steps_per_epoch=steps_per_epoch, total_steps=total)
        for step in range(1, total + 1)
    ]
    # float64 on both sides; sums are formed in another order
    lr = pytest.approx(lr_slowly(schedule, steps_per_epoch, total), rel=1e-9)
    assert [step["lr"] for step in steps] == lr
    decay = cosine_slowly(schedule.weight_decay, schedule.final_weight_decay, total)
    assert [step["weight_decay"] for step in steps] == pytest.approx(decay, rel=1e-9)
    assert [step["step"] for step in steps] == list(range(1, total + 1))
    assert [step["progress"] for step in steps] == [n / total for n in range(total)]


@given(schedules, st.integers(1, 9), st.integers(1, 9))
def test_the_rate_stays_between_its_ends(schedule, steps_per_epoch, epochs) -> None:
    total = steps_per_epoch * epochs
    for step in range(1, total + 1):
        lr = learning_rate(schedule, step, steps_per_epoch=steps_per_epoch, total_steps=total)
        assert 0 < lr <= max(schedule.lr, schedule.final_lr) * (1 + 1e-9)


def test_the_peak_is_reached_with_the_last_warm_up_step() -> None:
    rates = [
        learning_rate(SCHEDULE, s, steps_per_epoch=5, total_steps=20) for s in range(1, 21)
    ]
    assert rates[:5] == pytest.approx([0.002, 0.004, 0.006, 0.008, 0.01])
    assert rates[5] == 0.01
    assert rates[5:] == sorted(rates[5:], reverse=True)
    assert 0 < rates[-1] < 0.001


def test_without_warm_up_the_first_step_has_the_peak() -> None:
    schedule = replace(SCHEDULE, warmup_epochs=0)
    assert learning_rate(schedule, 1, steps_per_epoch=5, total_steps=5) == SCHEDULE.lr


def test_momentum_rises_and_only_a_teacher_has_one() -> None:
    momenta = [
        hyper_parameters(SCHEDULE, step, steps_per_epoch=5, total_steps=10)["ema_momentum"]
        for step in range(1, 11)
    ]
    assert momenta == pytest.approx(cosine_slowly(0.9, 1.0, 10))
    fixed = replace(SCHEDULE, final_ema_momentum=None)
    hyper = hyper_parameters(fixed, 7, steps_per_epoch=5, total_steps=10)
    assert hyper["ema_momentum"] == pytest.approx(0.9)
    alone = replace(SCHEDULE, ema_momentum=None, final_ema_momentum=None)
    assert "ema_momentum" not in hyper_parameters(alone, 1, steps_per_epoch=5, total_steps=10)
