"""A report does not depend on how its files are cut into blocks, and holds few points."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import RUNS, MadeRun, energy_j, gap_run, processes, resumed_run

from edge_runtime.report import RunSeries, summarize
from edge_runtime.report.summary import lines
from edge_runtime.report.summary.curve import EnergyCurve
from edge_runtime.report.summary.lines import LineBuilder, StepMeans
from edge_runtime.schema import unstructure

SMALL = [300, 500, 1000, 3000]  # bytes: about one line, and more


def unread_process() -> MadeRun:
    """The second of three processes has no reading, and the third no step."""
    run = resumed_run()
    for row in run.power:
        if row["process"] == 2:
            row["total_w"], row["rails_w"] = None, {}
    run.sampled(3, [(0.5 * i + 0.3, 7.0 + i % 3) for i in range(6)])
    run.happened(3, 4.0, "interrupted", step=10, checkpoint="checkpoints/10")
    return run


ALL = {**RUNS, "unread": unread_process}


@pytest.mark.parametrize("block_bytes", SMALL)
@pytest.mark.parametrize("make", ALL.values(), ids=ALL)
def test_numbers_and_lines_are_the_same_in_any_blocks(
    make: Callable[[], MadeRun],
    block_bytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = make().write(tmp_path / "run")
    whole, (whole_series,) = summarize([folder])
    monkeypatch.setattr("edge_runtime.records.jsonl._BLOCK_BYTES", block_bytes)
    monkeypatch.setattr("edge_runtime.report.summary.loader._ROWS", block_bytes // 300)
    report, (series,) = summarize([folder])
    assert_alike(unstructure(report), unstructure(whole))
    for name in RunSeries.__dataclass_fields__:
        assert_alike(getattr(series, name), getattr(whole_series, name))


def assert_alike(value: Any, other: Any) -> None:
    """Equal; numbers up to the order of a sum."""
    if isinstance(other, dict):
        assert value.keys() == other.keys()
        for key in other:
            assert_alike(value[key], other[key])
    elif isinstance(other, list | tuple):
        assert len(value) == len(other)
        for pair in zip(value, other, strict=True):
            assert_alike(*pair)
    elif isinstance(other, np.ndarray):
        np.testing.assert_allclose(value, other, rtol=1e-6)
    elif isinstance(other, float):
        assert value == pytest.approx(other, rel=1e-9, abs=1e-9)
    else:
        assert value == other


@settings(deadline=None, max_examples=60)  # the machine may be shared
@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.floats(0.0, 1.0))
def test_joules_are_those_of_the_definition_while_readings_are_read(
    sizes: list[int], share: float
) -> None:
    run = gap_run()
    _, known, end_s = next(processes(run))
    t_s = np.array([float(each) for each, _ in known])
    joules = np.array([energy_j(known, 0, each) for each in t_s])
    asked_s = share * end_s
    curve, begin = EnergyCurve([asked_s]), 0
    for size in sizes:
        curve.add(t_s[begin : begin + size], joules[begin : begin + size])
        curve.forget_before(float("inf"))
        begin += size
    curve.add(t_s[begin:], joules[begin:])
    assert curve.answer(asked_s) == pytest.approx(energy_j(known, 0, asked_s))
    assert curve.joules == pytest.approx(energy_j(known, 0, end_s))


def test_a_curve_holds_few_readings_and_answers_for_those_it_forgot(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    curve = EnergyCurve([2.5, 4000.25])
    for begin in range(0, 10_000, 500):
        t_s = np.arange(begin, begin + 500) + 1.0
        curve.add(t_s, 3.0 * t_s)
        curve.forget_before(t_s[-1])
        assert len(curve._t_s) <= 2500
    assert curve.answer(2.5) == 7.5
    assert curve.answer(4000.25) == pytest.approx(12000.75)
    assert curve.until(np.array([9999.5])) == pytest.approx(29998.5)


def test_a_line_of_many_blocks_holds_few_points_and_every_peak() -> None:
    builder, rng = LineBuilder(), np.random.default_rng(0)
    peak_x, low_x = 777_777, 1_234_567
    most = 0
    for begin in range(0, 2_000_000, 1000):
        x = np.arange(begin, begin + 1000, dtype="float64")
        y = rng.uniform(5.0, 6.0, 1000)
        y[x == peak_x], y[x == low_x] = 50.0, 1.0
        builder.add(x, y)
        most = max(most, sum(map(len, builder._x)))
    line = builder.line()
    assert most <= lines._HELD + 1000
    assert len(line.x) < 3100
    assert np.all(np.diff(line.x) > 0)
    assert (line.x[np.argmax(line.y)], line.x[np.argmin(line.y)]) == (peak_x, low_x)


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.tuples(st.integers(1, 50), st.booleans()), min_size=1, max_size=40),
    st.floats(0.05, 5.0),
)
def test_means_are_of_whole_steps_of_one_stretch(
    blocks: list[tuple[int, bool]], step_s: float
) -> None:
    means, done, stretches = StepMeans(2.0), 0, []
    for size, is_new in blocks:
        if is_new or not stretches:
            means.begin_stretch()
            stretches.append(done)
        numbers = np.arange(done, done + size)
        means.add(step_s * (numbers + 1.0), 1.0 * numbers, np.full(size, step_s))
        done += size
    line = means.line()
    assert len(line.x) <= lines._MEANS
    ends = np.round(line.x / step_s).astype(int)  # steps done then
    for end, mean_j in zip(ends, line.y, strict=True):
        # Step n took n joules: a mean names the first step that it is of.
        first = round(2 * (float(mean_j) - (end - 1)) / 1.0) + end - 1
        assert mean_j == pytest.approx((first + end - 1) / 2, rel=1e-5, abs=1e-5)
        begin = max(each for each in stretches if each < end)
        assert begin <= first < end
        assert (end - first) * step_s >= 2.0 * (1 - 1e-5)


def test_the_least_time_of_a_mean_grows_with_the_run() -> None:
    means = StepMeans(2.0)
    means.begin_stretch()
    for block in range(1000):
        done_s = 1.0 + np.arange(1000.0) + 1000 * block
        means.add(done_s, np.full(1000, 5.0), np.ones(1000))
    line = means.line()
    assert lines._MEANS / 2 - 1 <= len(line.x) <= lines._MEANS
    np.testing.assert_allclose(line.y, 5.0, rtol=1e-6)
    widths = np.diff(line.x)
    assert widths.max() <= 2.01 * widths.min()
