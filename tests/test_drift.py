"""Ratios of observed to profiled costs, attributed to the board or to a rung."""

import random

import pytest

from edge_runtime.planning.ledger import Drift

STEP_S = 0.2


def train(
    drift: Drift, rung: str, ratio: float, duration_s: float, noise: float = 0.0
) -> None:
    chance = random.Random(0)
    for _ in range(round(duration_s / STEP_S)):
        drift.observe(rung, ratio * max(0.2, chance.gauss(1.0, noise)), STEP_S)


def test_before_the_first_step_the_profile_is_used() -> None:
    assert Drift().ratio("a") == 1.0


@pytest.mark.parametrize("ratio", [0.5, 0.9, 1.0, 1.3, 3.0, 30.0])
def test_what_differs_from_the_start_holds_for_every_rung(ratio) -> None:
    drift = Drift()
    train(drift, "a", ratio, 10.0)
    assert drift.ratio("a") == pytest.approx(ratio, rel=0.03)
    assert drift.ratio("b") == drift.ratio("a")


def test_a_surprise_after_a_switch_belongs_to_the_rung() -> None:
    drift = Drift()
    train(drift, "a", 1.0, 20.0)
    train(drift, "b", 1.1, 9.0)
    assert drift.ratio("b") == pytest.approx(1.1, rel=0.01)
    assert drift.ratio("a") == drift.ratio("c") == pytest.approx(1.0, abs=0.001)


def test_a_single_rung_cannot_be_far_off() -> None:
    drift = Drift()
    train(drift, "a", 1.0, 20.0)
    train(drift, "b", 2.0, 20.0)
    assert drift.ratio("b") == pytest.approx(2.0, rel=0.02)
    assert drift.ratio("a") == pytest.approx(drift.ratio("b"), rel=0.15)


@pytest.mark.parametrize("ratio", [0.5, 2.0])
def test_a_later_change_belongs_to_the_board_and_is_seen_soon(ratio) -> None:
    drift = Drift()
    train(drift, "a", 1.0, 60.0)
    train(drift, "a", ratio, 3.0)
    assert drift.ratio("a") == pytest.approx(ratio, rel=0.02)
    assert drift.ratio("b") == drift.ratio("a")


def test_a_slow_change_is_followed() -> None:
    drift = Drift()
    train(drift, "a", 1.0, 60.0)
    train(drift, "a", 1.15, 60.0)
    assert drift.ratio("a") == pytest.approx(1.15, rel=0.02)


def test_the_ratio_of_a_rung_is_kept() -> None:
    drift = Drift()
    train(drift, "a", 1.0, 20.0)
    train(drift, "b", 1.1, 9.0)
    train(drift, "a", 1.0, 30.0)
    assert drift.ratio("b") == pytest.approx(1.1, rel=0.02)


def test_one_step_that_hangs_has_little_effect() -> None:
    drift = Drift()
    train(drift, "a", 1.0, 30.0)
    drift.observe("a", 500.0, STEP_S)
    assert drift.ratio("a") < 1.05


def test_noise_is_averaged() -> None:
    drift = Drift()
    train(drift, "a", 1.0, 20.0, noise=0.3)
    assert drift.ratio("a") == pytest.approx(1.0, abs=0.07)
    assert drift.ratio("b") == drift.ratio("a")


def test_long_steps_have_full_weight_at_once() -> None:
    drift = Drift()
    drift.observe("a", 1.5, 60.0)
    assert drift.ratio("a") == pytest.approx(1.5, rel=0.01)
