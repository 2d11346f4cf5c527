"""The lines of the figures: fewer points, every peak."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from report_runs import RUNS, MadeRun, energy_j, gap_run, processes, resumed_run

from edge_runtime.report import render_page, summarize
from edge_runtime.report.page.figures import draw_figures
from edge_runtime.report.summary.lines import envelope

values = st.lists(
    st.one_of(st.none(), st.floats(-1e6, 1e6, width=32)), min_size=1, max_size=300
)


@settings(deadline=None, max_examples=60)  # the machine may be shared
@given(values, st.integers(2, 20))
def test_no_peak_is_lost_and_few_points_are_kept(
    raw: list[float | None], buckets: int
) -> None:
    y = np.array(raw, dtype="float64")
    x = np.arange(len(y)) * 0.5
    line = envelope(x, y, buckets)
    assert len(line.x) <= max(2 * buckets, 3 * buckets + 2)
    assert np.all(np.diff(line.x) > 0)
    assert (line.x[0], line.x[-1]) == (x[0], x[-1])
    known = y[~np.isnan(y)]
    kept = line.y[~np.isnan(line.y)]
    if len(known):
        assert kept.min() == known.min()
        assert kept.max() == known.max()
    # Nothing is made up: every point that is kept was there.
    np.testing.assert_array_equal(line.y, y[np.round(line.x * 2).astype(int)])


def test_one_high_sample_of_a_million_is_in_the_line() -> None:
    y = np.sin(np.arange(1_000_000) / 1e5)
    y[777_777] = 50.0
    line = envelope(np.arange(1_000_000) / 10, y)
    assert line.y.max() == 50.0
    assert line.x[np.argmax(line.y)] == pytest.approx(77_777.7)
    assert len(line.x) < 2100


def test_a_line_is_broken_where_nothing_was_read(tmp_path: Path) -> None:
    _, (series,) = summarize([gap_run().write(tmp_path / "run")])
    ((begin_s, end_s),) = series.gaps
    assert (begin_s, end_s) == (pytest.approx(5.0), pytest.approx(9.0))
    inside = (series.power_w["total"].x > 5.05) & (series.power_w["total"].x < 8.95)
    assert np.isnan(series.power_w["total"].y[inside]).all()


def test_a_line_is_broken_between_two_processes(tmp_path: Path) -> None:
    report, (series,) = summarize([resumed_run().write(tmp_path / "run")])
    line = series.power_w["total"]
    first_s = report.runs[0].processes[1].begins_s + 1.1  # of the second one's samples
    assert line.x[np.isnan(line.y)].tolist() == [pytest.approx(first_s)]


def test_spent_energy_ends_at_the_total(tmp_path: Path) -> None:
    report, (series,) = summarize([resumed_run().write(tmp_path / "run")])
    assert series.spent_j.y[-1] == pytest.approx(report.runs[0].totals.gross_j, rel=1e-6)
    assert np.all(np.diff(series.spent_j.y) >= 0)
    first = report.runs[0].processes[0]
    assert series.resumed_s == (first.time_s,)
    assert series.lost == ((pytest.approx(5.75), pytest.approx(first.time_s)),)


def test_energy_of_a_step_is_a_mean_over_whole_steps(tmp_path: Path) -> None:
    run = gap_run()
    _, (series,) = summarize([run.write(tmp_path / "run")])
    known = next(processes(run))[1]
    ends_s = [row["measured"]["t_s"] for row in run.steps]
    for end_s, mean_j in zip(series.step_j.x, series.step_j.y, strict=True):
        last = int(np.argmin(np.abs(np.array(ends_s) - end_s)))
        counts = [n for n in range(2, 7) if last - n >= -1]
        spans = [(ends_s[last - n + 1] - 1.0, ends_s[last], n) for n in counts]
        assert any(mean_j == pytest.approx(energy_j(known, a, b) / n, rel=1e-5)
                   for a, b, n in spans)  # fmt: skip
    assert len(series.step_j.x) >= 3


def test_a_mean_is_over_steps_of_one_rung(tmp_path: Path) -> None:
    """Of three steps on the first rung the last one is in no mean of two seconds."""
    run = MadeRun()
    run.sampled(1, [(0.5 * i, 8.0) for i in range(20)])
    run.stepped(1, range(1, 4), begin_s=1.0)
    run.stepped(1, range(4, 8), begin_s=4.0, rung="k050")
    _, (series,) = summarize([run.write(tmp_path / "run")])
    assert series.step_j.x.tolist() == [3.0, 6.0, 8.0]


def test_segments_are_the_rungs_in_their_order(tmp_path: Path) -> None:
    _, (series,) = summarize([gap_run().write(tmp_path / "run")])
    segments = [
        (s.rung, s.first_step, s.last_step, s.begin_s, s.end_s) for s in series.segments
    ]
    assert segments == [("k100", 1, 6, 2.0, 8.0), ("k050", 7, 10, 8.25, 12.25)]


@pytest.mark.parametrize(
    "key", ["power", "spent", "step-energy", "memory", "heat", "learning"]
)
def test_runs_side_by_side_have_the_same_axes(tmp_path: Path, key: str) -> None:
    folders = [make().write(tmp_path / name) for name, make in RUNS.items()]
    report, series = summarize(folders)
    drawn = draw_figures(report.runs, series)
    layouts = [json.loads(each.json)["layout"] for each in drawn if each.section == key]
    assert len(layouts) > 1
    axes = [
        {name: axis.get("range") for name, axis in layout.items() if name[1:5] == "axis"}
        for layout in layouts
    ]
    assert all(each["xaxis"] is not None and each["yaxis"] is not None for each in axes)
    assert axes[1:] == axes[:-1]


def figures_of(run: MadeRun, folder: Path) -> dict[str, Any]:
    report, series = summarize([run.write(folder)])
    return {each.section: json.loads(each.json) for each in draw_figures(report.runs, series)}


def test_what_is_plotted_beside_the_plan_is_what_was_limited(tmp_path: Path) -> None:
    run = gap_run()
    energy = figures_of(run, tmp_path / "energy")["spent"]
    assert energy["layout"]["yaxis"]["title"]["text"] == "J"
    run.info["budget"] = {"time_s": 60.0}
    page = figures_of(run, tmp_path / "time")["spent"]
    assert page["layout"]["yaxis"]["title"]["text"] == "steps"
    lines = {line["name"]: line for line in page["data"]}
    assert [lines["done"]["y"][0], lines["done"]["y"][-1]] == [0, 10]
    assert lines["limit"]["x"] == [60.0, 60.0]
    report, series = summarize([tmp_path / "time"])
    assert "Spent: 14 s, allowed: 1 min 0 s." in render_page(report, series)


def test_the_name_of_a_rung_stands_once(tmp_path: Path) -> None:
    figure = figures_of(gap_run(), tmp_path / "run")["rung-energy"]
    names = [text for points in figure["data"] for text in points["text"] if text]
    assert sorted(names) == ["k050", "k100"]
    sides = [side for points in figure["data"] for side in points["textposition"]]
    assert sorted(set(sides)) == ["bottom center", "top center"]
