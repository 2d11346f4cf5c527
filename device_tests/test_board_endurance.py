"""A real board trains for hours: `pytest device_tests --board NAME --endurance 2h`.

Memory and open files do not grow, steps do not slow down unless the board throttles, and the
energy is the same by two integrations.
"""

import statistics
from bisect import bisect_left
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from device_tests.real_board import kernel
from device_tests.real_board.results import RecordProperty, not_run
from device_tests.real_board.training import WatchedRun, watched_run
from device_tests.real_board.watching import slope_per_s, trapezoids_j
from edge_runtime.device import Board

WARM_UP = 0.2  # of the time: libraries and pictures are loaded
INTERRUPTED = 130  # exit code
MOST_GROWTH = 0.02  # of resident memory, from the warm-up to the end, by the line through it
MOST_GROWTH_BYTES = 4 << 20  # if that is more
MOST_FILES = 2  # more than after the warm-up
MOST_SLOWER = 1.15  # steps at the end, over steps after the warm-up
LEAST_COOL = 0.1  # of the steps, without throttling: as many as are compared at each end
ENERGY_TOLERANCE = 0.02


@pytest.fixture(scope="module")
def run(
    profile: Board,
    pictures: Path,
    request: pytest.FixtureRequest,
    tmp_path_factory: pytest.TempPathFactory,
) -> WatchedRun:
    """Ends after that time, by SIGTERM."""
    duration_s: float | None = request.config.getoption("--endurance")
    if duration_s is None:
        not_run("it takes hours: ask for it with --endurance 2h")
    folder = tmp_path_factory.mktemp("endurance")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_TRAIN_CACHE", str(folder / "cache"))
        return watched_run(
            profile,
            folder / "run",
            pictures,
            *("--epochs", "1000000"),
            stop_after_s=duration_s,
            every_s=min(1.0, duration_s / 200),
        )


def after_warm_up(run: WatchedRun) -> float:
    """When the warm-up is over, by the watch's clock."""
    return run.start_s + WARM_UP * run.time_s


def ends(values: Sequence[float]) -> tuple[float, float]:
    """The median of the first and of the last tenth."""
    tenth = max(1, len(values) // 10)
    return statistics.median(values[:tenth]), statistics.median(values[-tenth:])


def test_it_trains_to_the_end_and_saves(
    run: WatchedRun, record_property: RecordProperty
) -> None:
    record_property("duration_s", run.time_s)
    record_property("steps", len(run.lines("steps.jsonl")))
    record_property("series", run.watch.series())
    assert run.code == INTERRUPTED, run.stderr
    (interrupted,) = run.events("interrupted")
    assert interrupted["checkpoint"] is not None
    for kind in ("sensor_lost", "zone_lost", "engine_failed", "diverged"):
        assert run.events(kind) == []


def test_memory_does_not_grow(run: WatchedRun, record_property: RecordProperty) -> None:
    held = [
        (each.t_s, float(each.resident_bytes))
        for each in run.watch.moments
        if each.resident_bytes and each.t_s > after_warm_up(run)
    ]
    median_bytes = statistics.median(size for _, size in held)
    slope = slope_per_s(held)
    growth_bytes = slope * (held[-1][0] - held[0][0])
    record_property("median_bytes", median_bytes)
    record_property("slope_bytes_per_h", 3600 * slope)
    record_property("peak_bytes", run.watch.peak_bytes)
    assert growth_bytes < max(MOST_GROWTH * median_bytes, MOST_GROWTH_BYTES)


def test_open_files_do_not_grow(run: WatchedRun, record_property: RecordProperty) -> None:
    counts = [
        each.open_files
        for each in run.watch.moments
        if each.open_files and each.t_s > after_warm_up(run)
    ]
    first, last = ends(counts)
    record_property("open_files", [first, last, max(counts)])
    assert last <= first + MOST_FILES


def steps_while_cool(
    steps: Sequence[dict[str, Any]], samples: Sequence[dict[str, Any]]
) -> list[float]:
    """Seconds of each step in which no sample says that the board was throttled.

    That are the samples within the step, the last one before it, and the first one after it.

    Args:
        steps: lines of steps.jsonl of one process.
        samples: lines of its power.jsonl.
    """
    sample_s = [sample["t_s"] for sample in samples]
    cool_s = []
    for measured in (step["measured"] for step in steps):
        begin = bisect_left(sample_s, measured["t_s"] - measured["step_s"])
        end = bisect_left(sample_s, measured["t_s"])
        if not any(each["throttled"] for each in samples[max(0, begin - 1) : end + 1]):
            cool_s.append(measured["step_s"])
    return cool_s


def test_steps_do_not_slow_down(run: WatchedRun, record_property: RecordProperty) -> None:
    """Except those in which the board is throttled: it is slower then."""
    steps, samples = run.lines("steps.jsonl"), run.lines("power.jsonl")
    steps = steps[int(WARM_UP * len(steps)) :]
    cool_s = steps_while_cool(steps, samples)
    known = [each["throttled"] for each in samples if each["throttled"] is not None]
    # None: nothing on this board reports it
    record_property("throttled_share", sum(known) / len(known) if known else None)
    record_property("cool_share", len(cool_s) / len(steps))
    record_property("highest_c", run.highest_c)
    if len(cool_s) < LEAST_COOL * len(steps):
        not_run("the board was throttled nearly all the time: give it better cooling")
    first_s, last_s = ends(cool_s)
    record_property("step_s", [first_s, last_s])
    assert last_s < MOST_SLOWER * first_s, "is another program running?"


def test_the_energy_is_the_same_by_two_integrations(
    profile: Board, run: WatchedRun, record_property: RecordProperty
) -> None:
    samples = [s for s in run.lines("power.jsonl") if s["energy_j"] is not None]
    if not samples and not kernel.has_power_sensor(profile):
        not_run("no sensor measures this board")
    assert samples
    begin_s, end_s = samples[0]["t_s"], samples[-1]["t_s"]
    meter_j = samples[-1]["energy_j"] - samples[0]["energy_j"]
    recorded = [(sample["t_s"], sample["total_w"]) for sample in samples]
    again_j = trapezoids_j(recorded, begin_s, end_s)
    own_j = run.watch.energy_j(run.start_s + begin_s, run.start_s + end_s)
    record_property("meter_j", meter_j)
    record_property("trapezoids_of_power_jsonl_j", again_j)
    record_property("own_j", own_j)
    assert again_j == pytest.approx(meter_j, rel=ENERGY_TOLERANCE)
    if own_j is not None:  # `None`: an estimate, or a service, and no file of the kernel
        assert own_j == pytest.approx(meter_j, rel=ENERGY_TOLERANCE)
