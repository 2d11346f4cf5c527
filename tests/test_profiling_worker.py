"""One rung measured: how many steps, which results, and no process outlives its parent."""

import dataclasses
import json
import random
import statistics
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from live_runs import FINISHED
from steps import hyper_of
from training_fakes import STEP, FakeEngine, write_package

from edge_runtime import selftest
from edge_runtime.device import ReplaySensor
from edge_runtime.errors import EngineError, NoMemoryError, StorageError
from edge_runtime.profiling import worker
from edge_runtime.profiling.worker import (
    MIN_STEPS,
    MIN_WINDOW_S,
    WARM_UP_STEPS,
    MeasureJob,
    Watch,
    median_interval,
)
from edge_runtime.schema import unstructure

POWER_W = 10.0
METER = SimpleNamespace(
    lost_because=lambda: None, energy_between=lambda from_s, to_s: POWER_W * (to_s - from_s)
)
BLIND = SimpleNamespace(lost_because=lambda: None, energy_between=lambda from_s, to_s: None)


def record(step_s: float, wait_s: float = 0.0):
    measured = dataclasses.replace(STEP.measured, step_s=step_s, wait_s=wait_s)
    return dataclasses.replace(STEP, measured=measured)


def watched(step_s, *, wait_s: float = 0.0, max_s: float = 60.0) -> tuple[Watch, list[float]]:
    """A watch after enough steps; and the times of these steps."""
    now_s, taken_s = 1000.0, []
    watch = Watch(max_s, clock=lambda: now_s)
    while not watch.is_sure():
        taken_s.append(step_s(len(taken_s)))
        now_s += taken_s[-1] + wait_s
        watch.see(record(taken_s[-1], wait_s))
    return watch, taken_s


def steady(step: int) -> float:
    return 0.1 + 0.001 * (step % 3)


def uneven(step: int) -> float:
    return random.Random(step).lognormvariate(-1.0, 1.5)


def test_steady_steps_are_soon_enough() -> None:
    _, taken_s = watched(steady)
    measured_s = sum(taken_s[WARM_UP_STEPS:])
    assert MIN_WINDOW_S <= measured_s < MIN_WINDOW_S + 0.11 * MIN_STEPS


def test_uneven_steps_are_watched_until_time_is_up() -> None:
    _, taken_s = watched(uneven, max_s=20.0)
    after_s = np.cumsum(taken_s[1:])  # the first loads the rung
    assert after_s[-2] < 20.0
    assert after_s[-1] > 10.0


@pytest.mark.parametrize(("step_s", "steps"), [(30.0, 1), (7.0, 1), (4.0, 2), (2.0, 5)])
def test_the_time_of_slow_steps_is_limited(step_s, steps) -> None:
    """At most 10 s once the rung is loaded, unless a single step takes more."""
    watch, taken_s = watched(lambda step: step_s, max_s=10.0)
    assert len(taken_s) == 1 + steps
    result = watch.measurement(7, METER)
    assert result.watched_s == pytest.approx(steps * step_s)
    assert result.step_s == pytest.approx(step_s)
    assert result.step_s_low < step_s < result.step_s_high or step_s == 2.0


def test_warm_up_counts_only_for_loading() -> None:
    watch, taken_s = watched(lambda step: 5.0 if step == 0 else steady(step), wait_s=0.01)
    result = watch.measurement(7, METER)
    measured_s = [step_s + 0.01 for step_s in taken_s[WARM_UP_STEPS:]]
    assert result.step_s == pytest.approx(statistics.median(measured_s))
    assert result.step_s_low <= result.step_s <= result.step_s_high
    assert result.switch_s == pytest.approx(5.0 - result.step_s)
    assert result.step_j == pytest.approx(POWER_W * statistics.mean(measured_s))
    assert result.power_w == pytest.approx(POWER_W)
    assert result.last_step_s == pytest.approx(1000.0 + sum(taken_s) + 0.01 * len(taken_s))
    assert result.baseline_bytes == 7


def test_energy_without_a_sensor_stays_unknown() -> None:
    watch, _ = watched(steady)
    result = watch.measurement(7, BLIND)
    assert (result.step_j, result.power_w) == (None, None)


def test_the_interval_of_the_median_is_that_of_the_theory() -> None:
    values = np.random.default_rng(5).normal(10.0, 1.0, size=400)
    low, high = median_interval(values)
    # Of normal values: 1.96 * sqrt(pi / 2) * sigma / sqrt(n) to each side. One bootstrap of
    # one sample is within a third of that.
    assert (high - low) / 2 == pytest.approx(1.96 * 1.2533 / 20, rel=0.35)
    assert low < np.median(values) < high
    assert median_interval(values) == (low, high)


def test_checking_many_steps_takes_little_memory() -> None:
    values = np.random.default_rng(5).normal(10.0, 1.0, size=5_000)
    tracemalloc.start()
    try:
        median_interval(values)
        assert tracemalloc.get_traced_memory()[1] < 3_000_000
    finally:
        tracemalloc.stop()


@pytest.fixture
def job(tmp_path, monkeypatch) -> MeasureJob:
    """Rung k050 of the fake package, on a fake engine, for a moment."""
    monkeypatch.setattr(worker, "create_engine", lambda *_, **__: FakeEngine())
    sensor = ReplaySensor([(0.0, {"ALL": POWER_W})], total=("ALL",))
    monkeypatch.setattr(worker, "open_sensor", lambda board: sensor)
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    return MeasureJob(
        package=str(write_package(tmp_path / "package").path),
        rung="k050",
        engine="fake",
        forward_engine="ort",
        device="cpu",
        threads=1,
        board=None,
        scratch=str(scratch),
        max_s=0.2,
    )


def test_a_real_run_is_measured(job) -> None:
    began_s = time.monotonic()
    result = worker.measure(job)
    assert 0 < result.step_s_low <= result.step_s <= result.step_s_high
    # All of the steps' time is at constant power; their median is not their mean.
    assert result.power_w == pytest.approx(POWER_W)
    assert result.step_j is not None
    assert 0 < result.baseline_bytes <= result.peak_bytes
    assert began_s < result.last_step_s < time.monotonic()
    assert result.startup_s > 0


def test_the_images_of_the_next_step_are_no_part_of_the_baseline(
    tmp_path, monkeypatch
) -> None:
    """They are predicted from the manifest, as state and weights are."""
    package = write_package(tmp_path / "package")
    held_bytes = package.manifest.state_bytes
    monkeypatch.setattr(worker, "process_tree_rss_bytes", lambda: held_bytes + 5000)
    hyper = hyper_of(package, 1)
    images = {"images.global": np.zeros((2, 4, 8, 8, 3), np.uint8)}
    for following, expected in ((None, 5000), (images, 5000 - 2 * 4 * 8 * 8 * 3)):
        watched = worker._WatchedEngine(FakeEngine())
        watched.open(package, package.initial_state())
        watched.step("k100", images, hyper, following)
        assert watched.baseline_bytes == expected


def test_an_error_is_left_for_the_parent(job, monkeypatch, tmp_path) -> None:
    def refuse(*_, **__):
        raise EngineError("engine fake: no")

    monkeypatch.setattr(worker, "create_engine", refuse)
    monkeypatch.setattr(worker, "prefer_oom_kill", lambda: None)
    monkeypatch.setattr(worker.threading, "Thread", lambda **_: SimpleNamespace(start=int))
    monkeypatch.setattr(sys, "argv", ["-c", json.dumps(unstructure(job))])
    assert worker.main() == EngineError.exit_code
    assert (tmp_path / "scratch" / worker.ERROR).read_text() == "engine fake: no"


def test_memory_that_cannot_be_had_is_told_by_the_exit_code(job, monkeypatch) -> None:
    def refuse(*_, **__):
        raise NoMemoryError("CUDA failure 2: out of memory")

    monkeypatch.setattr(worker, "create_engine", refuse)
    monkeypatch.setattr(worker, "prefer_oom_kill", lambda: None)
    monkeypatch.setattr(worker, "_end_with_parent", lambda _: None)
    monkeypatch.setattr(sys, "argv", ["-c", json.dumps(unstructure(job))])
    assert worker.main() == worker.OUT_OF_MEMORY


@pytest.mark.parametrize("full", [worker.ERROR, worker.MEASUREMENT])
def test_a_disk_without_room_is_told_by_the_exit_code(job, monkeypatch, full: str) -> None:
    """Neither the reason nor the measurement can be written."""

    def measure(_):
        if full == worker.ERROR:
            raise StorageError("no room for the checkpoint")
        return POWER_W

    (Path(job.scratch) / full).mkdir(parents=True)  # cannot be written
    monkeypatch.setattr(worker, "measure", measure)
    monkeypatch.setattr(worker, "unstructure", lambda _: {})
    monkeypatch.setattr(worker, "_end_with_parent", lambda _: None)
    monkeypatch.setattr(worker, "prefer_oom_kill", lambda: None)
    monkeypatch.setattr(sys, "argv", ["worker", json.dumps(unstructure(job))])
    assert worker.main() == StorageError.exit_code


def test_a_process_ends_with_its_parent(tmp_path) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    job = MeasureJob(
        package=str(selftest.PACKAGE),
        rung="k050",
        engine="ort",
        forward_engine="ort",
        device="cpu",
        threads=1,
        board=None,
        scratch=str(scratch),
        max_s=1000.0,
    )
    code = "from edge_runtime.profiling import worker as m; m.MIN_WINDOW_S = 1e6; m.main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, json.dumps(unstructure(job))], stdin=subprocess.PIPE
    ) as process:
        while not (scratch / "run" / "steps.jsonl").exists():
            assert process.poll() is None
            time.sleep(0.02)
        assert process.stdin is not None
        process.stdin.close()
        assert process.wait(30) == 1
    assert not scratch.exists()


def test_a_run_that_other_programs_end_is_no_measurement(job, monkeypatch) -> None:
    """It ends by itself, before the kernel would have killed it."""
    ended = dataclasses.replace(FINISHED, stopped_by="memory")
    monkeypatch.setattr(worker, "train", lambda *_: iter([STEP, ended]))
    monkeypatch.setattr(worker, "_end_with_parent", lambda _: None)
    monkeypatch.setattr(worker, "prefer_oom_kill", lambda: None)
    monkeypatch.setattr(sys, "argv", ["worker", json.dumps(unstructure(job))])
    assert worker.main() == worker.OUT_OF_MEMORY
    assert not (Path(job.scratch) / worker.MEASUREMENT).exists()
