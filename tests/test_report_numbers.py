"""A report's numbers against the records, integrated exactly and slowly."""

import csv
import json
import re
from collections import defaultdict
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from facts_examples import PLAN, WINDOW
from report_runs import RUNS, MadeRun, energy_j, estimated_run, gap_run, processes, resumed_run

from edge_runtime.cli import report as command
from edge_runtime.report import Report, RunSummary, render_page, summarize
from edge_runtime.schema import unstructure

EXACT = 1e-9  # relative: both sides are float64 or better, only the order of sums differs


def summary_of(run: MadeRun, folder: Path) -> RunSummary:
    report, _ = summarize([run.write(folder / "run")])
    return report.runs[0]


@pytest.mark.parametrize("make", RUNS.values(), ids=RUNS)
def test_totals_are_those_of_the_records(make: Callable[[], MadeRun], tmp_path: Path) -> None:
    run = make()
    totals = summary_of(run, tmp_path).totals
    all_processes = list(processes(run))
    want_j = sum(energy_j(known, 0, end_s) for _, known, end_s in all_processes)
    want_s = sum(end_s for _, _, end_s in all_processes)
    assert totals.gross_j == pytest.approx(want_j, rel=EXACT)
    assert totals.time_s == pytest.approx(want_s, rel=EXACT)
    assert totals.mean_w == pytest.approx(want_j / want_s, rel=EXACT)
    assert totals.energy_per_image_j == pytest.approx(want_j / (4 * len(run.steps)), rel=EXACT)
    assert totals.images_per_j == pytest.approx(4 * len(run.steps) / want_j, rel=EXACT)
    assert totals.energy_per_epoch_j == pytest.approx(want_j / (len(run.steps) / 5), rel=EXACT)
    idle_w = run.info["idle_w"]
    if idle_w is None:
        assert totals.net_j is None
    else:
        assert totals.net_j == pytest.approx(want_j - idle_w * want_s, rel=EXACT)


@pytest.mark.parametrize("make", RUNS.values(), ids=RUNS)
def test_stages_are_those_of_the_records_and_add_up(
    make: Callable[[], MadeRun], tmp_path: Path
) -> None:
    run = make()
    summary = summary_of(run, tmp_path)
    known = {number: samples for number, samples, _ in processes(run)}
    want: dict[str, list[tuple[int, float, float]]] = defaultdict(list)
    for row in run.steps:
        measured = row["measured"]
        ready_s = measured["t_s"] - measured["step_s"]
        want["step"].append((measured["process"], ready_s, measured["t_s"]))
        begin_s = ready_s - measured["wait_s"]
        want["waiting for input"].append((measured["process"], begin_s, ready_s))
        asked_s = begin_s - measured["pause_s"]
        want["pause"].append((measured["process"], asked_s, begin_s))
    want["checkpoint"] = [
        (row["process"], row["t_s"] - row["save_s"], row["t_s"])
        for row in run.events
        if row["event"] == "checkpoint_saved"
    ]
    stages = {stage.stage: stage for stage in summary.stages}
    for name, spans in want.items():
        want_j = sum(energy_j(known[number], a, b) for number, a, b in spans)
        assert stages[name].gross_j == pytest.approx(want_j, rel=EXACT, abs=1e-9)
        want_s = sum(b - a for _, a, b in spans)
        assert stages[name].time_s == pytest.approx(want_s, rel=EXACT, abs=1e-9)
    total_j = sum(stage.gross_j or 0.0 for stage in summary.stages)
    assert total_j == pytest.approx(summary.totals.gross_j, rel=EXACT)
    total_s = sum(stage.time_s for stage in summary.stages)
    assert total_s == pytest.approx(summary.totals.time_s, rel=EXACT)
    assert all(stage.time_s >= 0 for stage in summary.stages)


@pytest.mark.parametrize("make", RUNS.values(), ids=RUNS)
def test_a_rung_costs_what_its_steps_took(make: Callable[[], MadeRun], tmp_path: Path) -> None:
    run = make()
    known = {number: samples for number, samples, _ in processes(run)}
    for rung in summary_of(run, tmp_path).rungs:
        spans = [
            (row["measured"]["process"], row["measured"]["t_s"])
            for row in run.steps
            if row["rung"] == rung.rung
        ]
        want_j = sum(energy_j(known[number], t_s - 1.0, t_s) for number, t_s in spans)
        assert rung.gross_j == pytest.approx(want_j, rel=EXACT)
        assert rung.step_j == pytest.approx(want_j / len(spans), rel=EXACT)
        assert rung.energy_per_image_j == pytest.approx(want_j / len(spans) / 4, rel=EXACT)


def test_a_gap_is_reported(tmp_path: Path) -> None:
    summary = summary_of(gap_run(), tmp_path)
    assert summary.metering.largest_gap_s == pytest.approx(4.0)
    assert summary.metering.gap_s == pytest.approx(4.0)
    assert summary.metering.before_s == 0.0  # half a second is none
    assert summary.metering.samples == 46 + 4 + 51
    assert summary.metering.known_samples == 46 + 51
    assert any("no readings of power" in note.text for note in summary.notes)
    assert not summary.energy_is_incomplete


def test_lost_work_is_lost_and_processes_lie_behind_each_other(tmp_path: Path) -> None:
    run = resumed_run()
    summary = summary_of(run, tmp_path)
    known = {number: samples for number, samples, _ in processes(run)}
    first, second = summary.processes
    assert first.lost_s == pytest.approx(first.time_s - 5.75)
    assert first.lost_j == pytest.approx(energy_j(known[1], 5.75, first.time_s), rel=EXACT)
    assert second.begins_s == first.time_s
    assert second.lost_s == 0
    assert second.lost_j == pytest.approx(0, abs=1e-9)
    lost = next(stage for stage in summary.stages if stage.stage == "lost work")
    assert lost.time_s == summary.totals.lost_s == first.lost_s
    assert lost.gross_j == pytest.approx(first.lost_j, rel=EXACT)
    resumed = next(decision for decision in summary.decisions if decision.kind == "resumed")
    assert resumed.elapsed_s == pytest.approx(first.time_s + 2.0)
    assert any("2 processes worked on this run" in note.text for note in summary.notes)


def test_the_checkpoint_that_a_run_resumed_from_is_kept(tmp_path: Path) -> None:
    """Also where its time is not quite that of the process less what was lost."""
    run = resumed_run()
    times_s = {"checkpoint_saved": 5.7, "epoch_finished": 13.8}
    assert 13.8 - (13.8 - 5.7) < 5.7
    for event in run.events:
        if event["process"] == 1 and event["event"] in times_s:
            event["t_s"] = times_s[event["event"]]
    stages = {stage.stage: stage for stage in summary_of(run, tmp_path).stages}
    assert stages["checkpoint"].time_s == pytest.approx(1.0)


def test_work_is_lost_back_to_the_checkpoint_that_could_be_read(tmp_path: Path) -> None:
    """The third process finds that checkpoint 6 is damaged: the second did all in vain."""
    run = MadeRun()
    for process in (1, 2, 3):
        run.sampled(process, [(0.5 * i + 0.5, 6.0 + process) for i in range(20)])
    run.stepped(1, range(1, 5), begin_s=1.0)
    run.saved(1, 5.5, 4)
    run.saved(1, 8.0, 6)
    for process, step in ((2, 6), (3, 4)):
        run.happened(
            process, 1.0, "resumed", step=step, steps=10, checkpoint=f"checkpoints/{step}",
            lost_steps=2, lost_s=0.0, lost_j=0.0, engine="ort", runtime="r",
        )  # fmt: skip
    run.stepped(3, range(5, 11), begin_s=2.0)
    summary = summary_of(run, tmp_path)
    assert [each.lost_s for each in summary.processes] == pytest.approx([10.0 - 5.5, 10.0, 0])
    stages = {stage.stage: stage for stage in summary.stages}
    assert stages["lost work"].time_s == pytest.approx(4.5 + 10.0)
    assert stages["lost work"].gross_j == pytest.approx(4.5 * 7 + 10.0 * 8)
    assert stages["checkpoint"].time_s == pytest.approx(0.5)  # the other one is lost work


def test_a_run_that_changed_its_device_says_so(tmp_path: Path) -> None:
    run = resumed_run()
    kinds = [note.kind for note in summary_of(run, tmp_path).notes]
    assert "mixed" not in kinds
    (resumed,) = (event for event in run.events if event["event"] == "resumed")
    resumed |= {"device": "webgpu", "gpu": "Mali-G610, panvk 25.3"}
    notes = {note.kind: note.text for note in summary_of(run, tmp_path / "b").notes}
    assert notes["mixed"] == (
        "Processes of this run trained on cpu and on webgpu (Mali-G610, panvk 25.3): what a "
        "step of a rung costs is the mean over all of them."
    )


def test_an_estimate_is_reported(tmp_path: Path) -> None:
    summary = summary_of(estimated_run(), tmp_path)
    assert summary.energy_is_estimate
    assert any("No power was measured" in note.text for note in summary.notes)
    assert any("idle power is unknown" in note.text for note in summary.notes)
    (evaluation,) = summary.evaluations
    assert (evaluation.classifier, evaluation.accuracy) == ("kNN", 0.75)
    assert evaluation.device == "cpu"


def test_joules_of_a_step_are_a_mean_over_two_seconds_or_nothing(tmp_path: Path) -> None:
    run = gap_run()
    run.steps = run.steps[:1]
    (rung,) = summary_of(run, tmp_path).rungs
    assert rung.gross_j == pytest.approx(energy_j(next(processes(run))[1], 2.0, 3.0))
    assert rung.step_j is None
    assert rung.energy_per_image_j is None


def test_joules_after_the_last_reading_are_not_made_up(tmp_path: Path) -> None:
    run = gap_run()
    run.power = [row for row in run.power if row["t_s"] < 5.1]  # lost, and never back
    summary = summary_of(run, tmp_path)
    assert summary.energy_is_incomplete
    assert summary.metering.after_s == pytest.approx(13.5 - 5.0)
    assert summary.totals.gross_j == pytest.approx(energy_j(next(processes(run))[1], 0, 13.5))
    cheap = next(rung for rung in summary.rungs if rung.rung == "k050")
    # Nothing measured it: zero would be wrong.
    assert (cheap.gross_j, cheap.step_j) == (None, None)
    dense = next(rung for rung in summary.rungs if rung.rung == "k100")
    want_j = energy_j(next(processes(run))[1], 2.0, 5.0)
    assert dense.step_j == pytest.approx(want_j / 3)  # of the steps that were measured
    (energy,) = (limit for limit in summary.budget if limit.limit == "energy")
    assert (energy.used, energy.kept) == (summary.totals.gross_j, None)


def test_a_reading_shortly_before_the_end_leaves_nothing_out(tmp_path: Path) -> None:
    run = gap_run()
    run.power = [row for row in run.power if row["t_s"] < 12.95]
    summary = summary_of(run, tmp_path)
    assert (summary.metering.after_s, summary.energy_is_incomplete) == (0.0, False)


def test_a_rail_that_only_a_later_process_had_has_no_total(tmp_path: Path) -> None:
    run = resumed_run()
    for row in run.power:
        if row["process"] == 1:
            del row["rails_w"]["VDD_SOC"]
    energies_j = {rail.rail: rail.energy_j for rail in summary_of(run, tmp_path).rails}
    assert energies_j["VDD_SOC"] is None
    assert energies_j["VDD_IN"] is not None


def test_a_larger_budget_of_a_resumed_run_counts(tmp_path: Path) -> None:
    run = resumed_run()
    run.info["budget"] = {"energy_j": 50.0}
    run.happened(
        2, 2.05, "planned", step=4, budget={"energy_j": 5000.0}, plan=unstructure(PLAN)
    )
    (energy,) = summary_of(run, tmp_path).budget
    assert (energy.allowed, energy.kept) == (5000.0, True)


def test_one_process_with_the_estimate_makes_the_run_an_estimate(tmp_path: Path) -> None:
    run = resumed_run()
    run.happened(1, 5.9, "window", step=4, window={**unstructure(WINDOW), "is_estimate": True})
    assert summary_of(run, tmp_path).energy_is_estimate


def test_a_process_that_nothing_measured_makes_the_energy_unknown(tmp_path: Path) -> None:
    run = resumed_run()
    for row in run.power:
        if row["process"] == 2:
            row["total_w"] = None
    summary = summary_of(run, tmp_path)
    assert summary.totals.gross_j is None
    assert all(stage.gross_j is None for stage in summary.stages)
    assert summary.processes[0].gross_j is not None
    assert any("nothing measured the power of process 2" in n.text for n in summary.notes)
    for row in run.steps:
        row["rung"] = "k100"
    (rung,) = summary_of(run, tmp_path / "one rung").rungs
    assert (rung.steps, rung.gross_j, rung.step_j) == (10, None, None)


def test_limits_are_compared_with_what_was_used(tmp_path: Path) -> None:
    run = gap_run()
    run.info["budget"] = {"memory_bytes": 500_000, "energy_j": 500.0, "time_s": None}
    summary = summary_of(run, tmp_path)
    memory, energy = summary.budget
    assert (memory.limit, memory.used, memory.kept) == ("memory", 600_000, False)
    assert energy.share == pytest.approx((summary.totals.gross_j or 0) / 500.0)
    assert energy.kept is True
    (note,) = (note.text for note in summary.notes if note.kind == "limit")
    assert note.startswith("The limit on memory was not kept: ")
    assert "over --memory" in note


class Numbers(HTMLParser):
    """Values of a page by their place in the JSON document."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[str, set[str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        table = dict(attrs)
        if key := table.get("data-key"):
            value = table.get("value") if tag == "data" else "null"
            self.values.setdefault(key, set()).add(value or "")


def at(document: Any, key: str) -> Any:
    for part in key.split("."):
        document = document[int(part)] if part.isdecimal() else document[part]
    return document


def test_page_json_and_csv_agree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [make().write(tmp_path / name) for name, make in RUNS.items()]
    page, folder = tmp_path / "report.html", tmp_path / "csv"
    words = [*map(str, runs), "-o", str(page), "--csv", str(folder), "--json"]
    assert run_command(words) == 0
    document = json.loads(capsys.readouterr().out)

    numbers = Numbers()
    numbers.feed(page.read_text())
    assert len(numbers.values) > 150
    for key, shown in numbers.values.items():
        assert shown == {as_text(at(document, key))}, key

    rows = read_csv(folder / "runs.csv")
    for row, run in zip(rows, document["runs"], strict=True):
        for field, value in run["totals"].items():
            assert row[field] == as_cell(value), field
    for name in ("stages", "rungs", "processes", "decisions", "budget", "evaluations"):
        want = [
            {"run": run["name"], **{key: as_cell(value) for key, value in row.items()}}
            for run in document["runs"]
            for row in run[name]
        ]
        assert read_csv(folder / f"{name}.csv") == want
    assert len(read_csv(folder / "differences.csv")) == len(document["differences"])


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def as_text(value: Any) -> str:
    return json.dumps(value).strip('"')


def as_cell(value: Any) -> str:
    return "" if value is None else as_text(value)


def run_command(words: list[str]) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    command.add_arguments(parser)
    return command.run(parser.parse_args(words))


def test_the_device_and_its_own_memory_are_on_the_page(tmp_path: Path) -> None:
    run = resumed_run()
    run.info |= {"device": "cuda:0", "gpu": "A <card>, NVIDIA 580"}
    run.events[-1]["card_bytes"] = 3 << 30
    folder = run.write(tmp_path / "gpu")
    report, series = summarize([folder, resumed_run().write(tmp_path / "cpu")])
    assert [each.totals.card_bytes for each in report.runs] == [3 << 30, None]
    both = render_page(report, series)
    assert "<dt>device</dt><dd>cuda:0: A &lt;card&gt;, NVIDIA 580</dd>" in both
    assert "the GPU&#39;s own memory" in both or "the GPU's own memory" in both
    alone = render_page(*summarize([folder]))
    assert re.search(r"3\.0 GiB</data> of the GPU's own", alone)
    alone = render_page(*summarize([tmp_path / "cpu"]))
    assert "the GPU's own" not in alone
    assert "<dt>device</dt><dd>cpu</dd>" in alone


def test_differences_are_from_the_first_run(tmp_path: Path) -> None:
    report: Report
    report, _ = summarize(
        [gap_run().write(tmp_path / "a"), resumed_run().write(tmp_path / "b")]
    )
    by_name = {row.name: row for row in report.differences}
    first, second = report.runs
    assert by_name["gross_j"].run == "b"
    assert by_name["gross_j"].difference == pytest.approx(
        (second.totals.gross_j or 0) - (first.totals.gross_j or 0)
    )
    assert by_name["gross_j"].relative == pytest.approx(
        (second.totals.gross_j or 0) / (first.totals.gross_j or 1) - 1
    )
    assert by_name["knn_accuracy"].difference is None
    assert report.notes == ()
