"""Runs that follow a calibration: within a budget, and as a schedule without one."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import test_within_budget
from calibrations import calibration_of, rising, stage
from test_free_memory import leave
from test_within_budget import HOUR, train_within
from training_fakes import stop_after

from edge_runtime import within_budget
from edge_runtime.calibration import load_calibration, save_calibration
from edge_runtime.errors import ConfigError, StoppedError
from edge_runtime.facts import Segment
from edge_runtime.planning import governor
from edge_runtime.profiling import free_memory
from edge_runtime.records import events, open_run
from edge_runtime.training import prepare

package, measured = test_within_budget.package, test_within_budget.measured


def calibrated(package, tmp_path) -> Path:
    """The file of a calibration of the package."""
    path = tmp_path / "calibration.json"
    save_calibration(rising(package_digest=package.digest), path)
    return path


def test_a_calibration_is_followed_within_a_budget(package, measured, tmp_path) -> None:
    yielded = train_within(
        package, tmp_path / "run", budget=HOUR, calibration=calibrated(package, tmp_path)
    )
    (planned,) = (event for event in yielded if isinstance(event, events.Planned))
    assert planned.plan.segments == (
        Segment(rung="k050", steps=2),
        Segment(rung="k100", steps=8),
    )
    assert planned.plan.gradient_error == pytest.approx((2 * 0.8 + 8) / 10)
    assert next(e.rung for e in yielded if isinstance(e, events.StepRecord)) == "k050"


def test_a_run_keeps_its_objective_and_its_calibration(package, measured, tmp_path) -> None:
    path, stop = calibrated(package, tmp_path), stop_after(2)
    with pytest.raises(StoppedError):
        train_within(package, tmp_path / "run", budget=HOUR, calibration=path, stop=stop)
    message = "objective: the run has gradient-error, this command asks for tokens"
    with pytest.raises(ConfigError, match=message):
        train_within(package, tmp_path / "run", budget=HOUR, resume=True)
    another = replace(rising(package_digest=package.digest), seed=1)
    save_calibration(another, path.with_name("another.json"))
    flags = {"budget": HOUR, "resume": True}
    message = (
        rf"calibration_sha256: the run has \w+\.\.\., this .* {another.sha256[:12]}\.\.\."
    )
    with pytest.raises(ConfigError, match=message):
        train_within(
            package, tmp_path / "run", calibration=path.with_name("another.json"), **flags
        )
    path.write_text(json.dumps(json.loads(path.read_text())))  # on one line
    yielded = train_within(package, tmp_path / "run", calibration=path, **flags)
    assert isinstance(yielded[-1], events.Finished)
    settings = open_run(tmp_path / "run").info.settings
    assert settings.calibration_sha256 == load_calibration(path).sha256


def test_a_resumed_run_does_not_return_to_a_smaller_rung(
    package, measured, tmp_path, monkeypatch
) -> None:
    """Not even where its error becomes the smallest again."""
    monkeypatch.setattr(governor, "_SOONER", 0.0)  # the fake's steps take no time
    path = tmp_path / "calibration.json"
    best_twice = calibration_of(
        *(stage(n / 2, k100=(0.0, 1.0), k050=(n % 2, 1.0)) for n in range(3)),
        package_digest=package.digest,
    )
    save_calibration(best_twice, path)
    given = {"budget": HOUR, "calibration": path}
    with pytest.raises(StoppedError):
        train_within(package, tmp_path / "run", **given, stop=stop_after(7))
    yielded = train_within(package, tmp_path / "run", **given, resume=True)
    (planned,) = (event for event in yielded if isinstance(event, events.Planned))
    run = open_run(tmp_path / "run")
    rungs = [record.rung for record in run.each_step()]
    assert planned.plan.segments == (Segment(rung="k100", steps=10 - planned.step),)
    small = rungs.count("k050")
    assert rungs == ["k050"] * small + ["k100"] * (10 - small)
    assert 0 < small < planned.step < 10
    assert [run.rung_at(step) for step in range(11)] == [None, *rungs]


def test_a_calibration_without_a_budget_is_a_schedule(package, tmp_path) -> None:
    """Nothing is measured, and the run can be resumed exactly."""
    path = calibrated(package, tmp_path)
    with pytest.raises(StoppedError):
        train_within(package, tmp_path / "run", calibration=path, stop=stop_after(2))
    yielded = train_within(package, tmp_path / "run", calibration=path, resume=True)
    assert {e.rung for e in yielded if isinstance(e, events.StepRecord)} == {"k100"}
    run = open_run(tmp_path / "run")
    assert run.info.settings.rungs == ((1, "k050"), (3, "k100"))
    assert [record.rung for record in run.each_step()] == ["k050"] * 2 + ["k100"] * 8
    with pytest.raises(ConfigError, match="cannot be resumed with other settings"):
        train_within(package, tmp_path / "run", resume=True, rungs=["k100"], epochs=2)


def test_the_largest_rung_of_a_schedule_limits_decoding(
    package, tmp_path, monkeypatch
) -> None:
    """It need not be the last one."""
    limits, peaks = [], {"k100": 1 << 28, "k050": 1 << 30}
    leave(monkeypatch, 3 << 30)
    monkeypatch.setattr(
        free_memory, "predicted_peak_bytes", lambda manifest, rung, _: peaks[rung.id]
    )

    def prepared(package, source, run_dir, options):
        limits.append(options.decoding_limit_bytes)
        return prepare(package, source, run_dir, options)

    monkeypatch.setattr(within_budget, "prepare", prepared)
    train_within(package, tmp_path / "run", calibration=calibrated(package, tmp_path))
    assert open_run(tmp_path / "run").info.settings.rungs == ((1, "k050"), (3, "k100"))
    assert limits == [2 << 30]


def test_a_calibration_does_not_decide_the_epochs(package, measured, tmp_path) -> None:
    path = calibrated(package, tmp_path)
    with pytest.raises(ConfigError, match=r"Give --epochs N\.$"):
        train_within(package, tmp_path / "run", budget=HOUR, calibration=path, epochs=None)
