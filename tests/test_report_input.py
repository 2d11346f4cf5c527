"""What a report does with runs that are unfinished, damaged, foreign, or no runs."""

import builtins
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from report_runs import MadeRun, gap_run, info, resumed_run, sample
from test_reading import within
from test_report_numbers import run_command

from edge_runtime.errors import ConfigError, RecordsError, StorageError
from edge_runtime.report import render_page, summarize
from edge_runtime.report.summary.csv_files import _PARTS
from edge_runtime.schema import unstructure


def page_of(*folders: Path) -> str:
    report, series = summarize(folders)
    return render_page(report, series)


def test_a_run_that_has_done_nothing_is_a_page_that_says_so(tmp_path: Path) -> None:
    page = page_of(MadeRun().write(tmp_path / "run"))
    assert "No training step is recorded yet." in page
    assert "Power and energy are unknown." in page
    assert "Unfinished." in page


def test_the_power_mode_is_named(tmp_path: Path) -> None:
    folder = resumed_run().write(tmp_path / "run")
    assert "<dt>power mode</dt><dd>15W</dd>" in page_of(folder)
    report, _ = summarize([folder])
    assert '"power_mode": "15W"' in json.dumps(unstructure(report))


def test_the_columns_of_runs_are_of_one_part_each(tmp_path: Path) -> None:
    report, _ = summarize([gap_run().write(tmp_path / "run")])
    parts = [unstructure(getattr(report.runs[0], part)) for part in _PARTS]
    names = [name for part in parts for name in part]
    assert len(names) == len(set(names))


def test_a_run_without_a_sensor_shows_time_by_stage(tmp_path: Path) -> None:
    run = gap_run()
    run.info = info(sensor=None, idle_w=None)
    for row in run.power:
        row["total_w"], row["rails_w"] = None, {}
    folder = run.write(tmp_path / "run")
    assert "Power and energy are unknown: there is no power sensor." in page_of(folder)
    assert "Time by stage: " in page_of(folder)
    report, _ = summarize([folder])
    assert report.runs[0].totals.gross_j is None
    assert all(rung.step_j is None for rung in report.runs[0].rungs)


@pytest.mark.parametrize("name", ["power.jsonl", "steps.jsonl", "events.jsonl"])
def test_half_a_line_at_the_end_is_skipped_and_reported(name: str, tmp_path: Path) -> None:
    folder = gap_run().write(tmp_path / "run")
    whole, _ = summarize([folder])
    with (folder / name).open("a") as file:
        file.write('{"process": 1, "t_s": 14.1, "tot')
    (cut,), _ = summarize([folder])[0].runs, None
    assert cut.totals == whole.runs[0].totals
    assert [note.text for note in cut.notes if note.kind == "damaged"] == [
        f"{name} ends in the middle of a line, which was skipped: a process was killed or "
        "the disk was full."
    ]


def spoil(folder: Path, name: str, line: int, change: Callable[[str], str]) -> None:
    lines = (folder / name).read_text().splitlines(keepends=True)
    lines[line - 1] = change(lines[line - 1])
    (folder / name).write_text("".join(lines))


def without(key: str) -> Callable[[str], str]:
    def change(line: str) -> str:
        table: dict[str, Any] = json.loads(line)
        del table[key]
        return json.dumps(table) + "\n"

    return change


DAMAGE = {
    "cut in the middle": ("power.jsonl", lambda line: line[:30] + "\n", "is damaged"),
    "no table": ("power.jsonl", lambda line: "[1]\n", "it is not a JSON table"),
    "two on a line": ("power.jsonl", lambda line: f"{line[:-1]},{line}", "is damaged"),
    "empty": ("power.jsonl", lambda line: "\n", "is damaged"),
    "NaN": ("power.jsonl", lambda line: line.replace("40.", "NaN, "), "is damaged"),
    "a text": ("power.jsonl", lambda line: line.replace("1500000000.0", '"x"'),
               "cpu_hz is 'x'"),
    "a flag": ("power.jsonl", lambda line: line.replace('"process": 1', '"process": true'),
               "process is True"),
    "no total": ("power.jsonl", without("total_w"), "total_w is missing"),
    "no rails": ("power.jsonl", without("rails_w"), "rails_w is missing"),
    "back in time": ("power.jsonl", lambda line: line.replace('"t_s": 0.', '"t_s": 0.0'),
                     "its time goes back"),
    "no loss": ("steps.jsonl", without("loss"), "loss is missing"),
    "nothing measured": ("steps.jsonl", without("measured"), "measured is missing"),
    "no rung": ("steps.jsonl", lambda line: line.replace('"k100"', "3"), "rung is 3"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_line_is_named(damage: str, tmp_path: Path) -> None:
    name, change, reason = DAMAGE[damage]
    folder = gap_run().write(tmp_path / "run")
    spoil(folder, name, 4, change)
    with pytest.raises(RecordsError, match=rf"{name}, line 4 is damaged.*") as caught:
        summarize([folder])
    assert reason in str(caught.value)
    assert caught.value.exit_code == 6


def test_a_line_of_an_earlier_process_is_damage(tmp_path: Path) -> None:
    run = resumed_run()
    run.power.append(sample(1, 99.0, 5.0))
    number = len(run.power)
    with pytest.raises(
        RecordsError, match=rf"power.jsonl, line {number} is damaged: its time"
    ):
        summarize([run.write(tmp_path / "run")])


def test_more_rails_than_columns_are_read_are_damage(tmp_path: Path) -> None:
    run = gap_run()
    for number, row in enumerate(run.power):
        row["rails_w"] = {f"{number} {rail}": 1.0 for rail in "abc"}
    with pytest.raises(RecordsError, match=r"power\.jsonl is damaged: it has more rails"):
        summarize([run.write(tmp_path / "run")])


def test_a_damaged_line_is_named_in_a_later_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_runtime.records.jsonl._BLOCK_BYTES", 1000)
    folder = gap_run().write(tmp_path / "run")
    whole, _ = summarize([folder])
    spoil(folder, "power.jsonl", 77, without("t_s"))
    with pytest.raises(RecordsError, match=r"power.jsonl, line 77 is damaged: t_s is missing"):
        summarize([folder])
    spoil(folder, "power.jsonl", 77, lambda line: line.replace('{"', '{"t_s": 11.7, "', 1))
    assert summarize([folder])[0].runs[0].metering == whole.runs[0].metering


def test_a_rail_that_some_lines_do_not_have_is_unknown_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_runtime.records.jsonl._BLOCK_BYTES", 1000)
    run = gap_run()
    for row in run.power[30:60]:
        row["rails_w"]["VDD_LATE"] = 2.0
    report, _ = summarize([run.write(tmp_path / "run")])
    (late,) = [rail for rail in report.runs[0].rails if rail.rail == "VDD_LATE"]
    assert late.peak_w == 2.0
    last_s = run.power[59]["t_s"]
    assert late.energy_j == pytest.approx(2.0 * last_s)


def test_a_loss_that_was_not_finite_is_unknown(tmp_path: Path) -> None:
    run = gap_run()
    run.steps[0]["loss"] = None
    run.steps[-1]["loss"] = None
    report, series = summarize([run.write(tmp_path / "run")])
    totals = report.runs[0].totals
    assert totals.first_loss is None
    assert totals.last_loss == pytest.approx(sum(5.0 - step / 10 for step in range(6, 10)) / 4)
    assert "Loss from unknown at the first step to a mean of 4.2500" in render_page(
        report, series
    )
    for row in run.steps:
        row["loss"] = None
    folder = run.write(tmp_path / "other")
    assert summarize([folder])[0].runs[0].totals.last_loss is None
    assert "to a mean of unknown" in page_of(folder)


def test_a_newer_format_is_refused(tmp_path: Path) -> None:
    folder = MadeRun(info(format=3)).write(tmp_path / "run")
    with pytest.raises(RecordsError, match="run format 3 is unknown"):
        summarize([folder])


def test_an_earlier_format_is_refused_with_what_to_do(tmp_path: Path) -> None:
    folder = MadeRun(info(format=1)).write(tmp_path / "run")
    with pytest.raises(RecordsError, match=r"run format 1 is of an earlier edge-train"):
        summarize([folder])


def test_a_report_takes_no_longer_for_a_large_process_number(tmp_path: Path) -> None:
    run = resumed_run()
    for row in run.events:
        if row["event"] == "resumed":
            row["process"] = 2**62
    with within(10.0):
        (summary,) = summarize([run.write(tmp_path / "run")])[0].runs
    assert [process.process for process in summary.processes] == [1, 2, 2**62]


def test_an_unknown_event_is_refused(tmp_path: Path) -> None:
    run = gap_run()
    run.happened(1, 13.6, "teleported", step=10)
    with pytest.raises(RecordsError, match="unknown event 'teleported'"):
        summarize([run.write(tmp_path / "run")])


@pytest.mark.parametrize("at", [{}, {"at": None}, {"at": 5}])
def test_an_event_without_its_time_is_refused(at: dict[str, Any], tmp_path: Path) -> None:
    run = gap_run()
    run.events[0] = {k: v for k, v in run.events[0].items() if k != "at"} | at
    with pytest.raises(RecordsError, match=r"events\.jsonl: at: expected a string, got "):
        summarize([run.write(tmp_path / "run")])


def test_what_is_no_run_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RecordsError, match="is not a run folder"):
        summarize([tmp_path])


@pytest.mark.parametrize("name", ["power.jsonl", "steps.jsonl", "events.jsonl"])
def test_a_missing_file_is_refused(name: str, tmp_path: Path) -> None:
    folder = gap_run().write(tmp_path / "run")
    (folder / name).unlink()
    with pytest.raises(RecordsError, match=f"cannot read .*{name}: No such file"):
        summarize([folder])


def test_runs_of_two_packages_are_marked_as_not_comparable(tmp_path: Path) -> None:
    other = resumed_run()
    other.info["settings"]["package_digest"] = "cd" * 32
    page = page_of(gap_run().write(tmp_path / "a"), other.write(tmp_path / "b"))
    assert "Not comparable: b trained another package than a." in page


def test_runs_of_the_same_name_get_distinct_names(tmp_path: Path) -> None:
    one, two = gap_run().write(tmp_path / "x/run"), gap_run().write(tmp_path / "y/run")
    report, _ = summarize([one, two, two])
    assert [run.name for run in report.runs] == ["x/run", "y/run (1)", "y/run (2)"]


CAPTIONS = [  # of the resumed run, in the order of the page
    "Power of the board over 18 s, 7.17 W on average, 9.00 W at most; without readings where "
    "it is shaded; work that was lost is shaded; at a vertical line a later process went on.",
    "Energy by stage: start-up 17 %, step 41 %, waiting for input 14 %, checkpoint 5 %, "
    "other 7 %, lost work 15 %.",
    "Energy of a step, means over at least 2 s, from 6.50 J to 8.09 J.",
    "Cost of a picture: k100 250 ms and 1.62 J, k050 250 ms and 2.00 J.",
    "Cost of a picture: k100 250 ms and 488.3 KiB, k050 250 ms and 488.3 KiB.",
    "At most 585.9 KiB resident, limit 1.0 MiB.",
    "49.6 C at most; the board was not throttled.",
    "Loss from 4.9000 at the first step to a mean of 4.2000 over the last epoch's steps.",
    "Spent: 132.7 J, allowed: 500.0 J.",
]


def test_a_figure_is_described_in_a_sentence(tmp_path: Path) -> None:
    one, other = (resumed_run().write(tmp_path / name) for name in ("one", "other"))
    found = re.findall("<figcaption>(.*)</figcaption>", page_of(one))
    assert found == CAPTIONS
    several = re.findall("<figcaption>(.*)</figcaption>", page_of(one, other))
    assert several.count(f"other: {CAPTIONS[0]}") == 1
    assert several.count(f"one: {CAPTIONS[1]} other: {CAPTIONS[1]}") == 1
    assert len(several) == 2 * len(CAPTIONS) - 3  # three figures show all runs


def test_text_of_the_records_is_text_in_the_page(tmp_path: Path) -> None:
    run = gap_run()
    run.info["board"] = "<script>alert(1)</script>"
    run.events[1]["reason"] = "</script><script>alert(2)</script>"
    for row in run.power:
        row["rails_w"]["</script><script>alert(3)"] = 1.0
    page = page_of(run.write(tmp_path / "run"))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_page_asks_the_network_for_nothing(tmp_path: Path) -> None:
    page = page_of(gap_run().write(tmp_path / "run"))
    assert "default-src 'none'" in page
    head = page.partition("<script>/**")[0]  # before plotly.js
    assert "src=" not in head.replace("default-src", "").replace("-src ", "")
    assert "<link" not in head
    assert "@import" not in head


def test_the_same_runs_make_the_same_page(tmp_path: Path) -> None:
    folder = gap_run().write(tmp_path / "run")
    assert page_of(folder) == page_of(folder)


def test_nothing_to_make_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no output requested: give -o report\.html"):
        run_command([str(tmp_path)])


def test_a_page_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    folder = gap_run().write(tmp_path / "run")
    with pytest.raises(StorageError, match=r"cannot write .*no/report\.html"):
        run_command([str(folder), "-o", str(tmp_path / "no/report.html")])
    (tmp_path / "notes").write_text("mine")
    with pytest.raises(StorageError, match=r"cannot make .*notes"):
        run_command([str(folder), "--csv", str(tmp_path / "notes")])


@pytest.mark.parametrize("library", ["plotly", "jinja2"])
def test_without_its_libraries_a_page_says_how_to_get_them(
    library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = gap_run().write(tmp_path / "run")
    real = builtins.__import__

    def blocked(name: str, *rest: Any, **more: Any) -> Any:
        if name.startswith(library):
            raise ModuleNotFoundError(f"No module named {library!r}")
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", blocked)
    with pytest.raises(ConfigError, match=rf"{library}.*pip install 'PATH\[report\]'"):
        page_of(folder)


def test_json_and_csv_need_no_extra(tmp_path: Path) -> None:
    folder = gap_run().write(tmp_path / "run")
    code = (
        "import argparse, sys\n"
        "sys.modules['plotly'] = sys.modules['jinja2'] = None\n"
        "from edge_runtime.cli import report\n"
        "parser = argparse.ArgumentParser()\n"
        "report.add_arguments(parser)\n"
        f"report.run(parser.parse_args([{str(folder)!r}, '--json']))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["format"] == 1
