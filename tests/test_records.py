"""The run folder: files that only grow, events written and read, one writer at a time."""

import fcntl
import json
import re
from dataclasses import replace

import pytest
from facts_examples import BUDGET, PLAN, RESULTS, WINDOW
from hypothesis import given
from hypothesis import strategies as st
from training_fakes import INFO, MOMENT, SETTINGS, SPENT, STEP

from edge_runtime.errors import RecordsError, StorageError
from edge_runtime.records import (
    RunWriter,
    create_run,
    differences,
    events,
    log_event,
    open_run,
)
from edge_runtime.records.events import event_of, event_table
from edge_runtime.records.jsonl import LineFile, LineReader

EVENTS = [
    STEP,
    events.Started(
        steps=10,
        steps_per_epoch=5,
        engine="ort",
        runtime="o 1",
        device="webgpu",
        gpu="Mali-G610, panvk 25.3",
        device_reason="it is the fastest",
    ),
    events.Resumed(
        step=5,
        steps=10,
        checkpoint=None,
        lost_steps=2,
        lost_s=1.5,
        lost_j=None,
        engine="ort",
        runtime="o 1",
    ),
    events.Planned(step=0, budget=BUDGET, plan=PLAN),
    events.RungChanged(step=7, rung="k050", keep_ratio=0.5, reason="less energy is left"),
    events.Paused(step=7, pause_s=2.0, reason="82 C, above 80 C"),
    events.SensorLost(step=7, sensor="jtop", reason="the service is gone"),
    events.SensorBack(step=9, sensor="jtop", gap_s=3.5),
    events.EngineFailed(
        step=9,
        device="webgpu",
        reason="lost",
        out_of_memory=False,
        checkpoint="checkpoints/5",
    ),
    events.ReadingRefused(step=9, sensor="ina3221", reason="VDD_IN: 0.000 W"),
    events.LimitUnknown(
        step=9, limit="energy", sensor="ina3221", reason="VDD_IN: 0.000 W", checkpoint=None
    ),
    events.ZoneLost(step=9, zone="cpu-thermal", temperature_c=51.5, reason="gone"),
    events.ZoneBack(step=9, zone="cpu-thermal", temperature_c=50.5, gap_s=2.0),
    events.WindowEnded(step=7, window=WINDOW),
    events.FilesLeftOut(step=0, files=".heic files: 2 (a.heic, b.heic)"),
    events.PictureSkipped(step=2, picture="a.jpg", reason="cut short"),
    events.CheckpointSaved(step=5, checkpoint="checkpoints/5", size_bytes=9, save_s=0.1),
    events.CheckpointDamaged(checkpoint="checkpoints/5", reason="altered"),
    events.EpochFinished(step=5, epoch=0, mean_loss=0.5),
    events.Interrupted(step=5, checkpoint="checkpoints/5"),
    events.SourceLost(step=5, checkpoint=None, reason="unplugged"),
    events.Diverged(step=6, reason="NaN", checkpoint=None),
    events.Finished(
        steps=10,
        epochs=2.0,
        images=40,
        loss=0.5,
        checkpoint="checkpoints/10",
        elapsed_s=2.0,
        images_per_s=None,
        peak_bytes=123,
        stopped_by="energy",
        spent=SPENT,
    ),
    events.Evaluation(
        step=10,
        results=RESULTS,
        spent_s=3.0,
        energy_j=None,
        energy_is_estimate=False,
    ),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
def test_an_event_comes_back_from_its_line(event) -> None:
    line = json.dumps(event_table(event))
    assert event_of(json.loads(line), where="a test") == event


def test_every_kind_of_event_is_tested() -> None:
    assert {type(event) for event in EVENTS} == set(events.Event.__args__)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"event": "exploded"}, "here: unknown event 'exploded'; known are step, started"),
        ({"event": "interrupted", "step": 1}, "missing key 'checkpoint'"),
        ({"event": "interrupted", "step": "1", "checkpoint": None}, "expected an integer"),
    ],
)
def test_a_foreign_event_is_refused(table, message) -> None:
    with pytest.raises(RecordsError, match=message):
        event_of(table, where="here")


@given(st.lists(st.dictionaries(st.text(), st.text() | st.floats(allow_nan=False))), st.data())
def test_half_a_line_is_skipped_and_then_removed(tmp_path_factory, tables, data) -> None:
    path = tmp_path_factory.mktemp("lines") / "lines.jsonl"
    tables = [
        {k: v for k, v in table.items() if v not in (float("inf"), -float("inf"))}
        for table in tables
    ]
    file = LineFile(path)
    for table in tables:
        file.append(table)
    content = path.read_bytes()
    cut = data.draw(st.integers(0, len(content)))
    path.write_bytes(content[:cut])
    whole = tables[: content[:cut].count(b"\n")]
    assert list(LineReader(path)) == whole
    file.append({"after": 1})
    file.close()
    assert list(LineReader(path)) == [*whole, {"after": 1}]


def test_half_a_line_longer_than_a_block_is_removed(tmp_path) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n{"b": "' + b"x" * 10_000)
    file = LineFile(path)
    assert file.size_bytes() == 9
    file.append({"c": 3})
    file.close()
    assert list(LineReader(path)) == [{"a": 1}, {"c": 3}]


@pytest.mark.parametrize("line", [b"{]", b"[1]", b"\xff", b'{"a": NaN}'])
def test_a_damaged_line_is_named(tmp_path, line) -> None:
    path = tmp_path / "lines.jsonl"
    path.write_bytes(b'{"a": 1}\n' + line + b'\n{"b": 2}\n')
    with pytest.raises(RecordsError, match=r"lines\.jsonl, line 2 is damaged"):
        list(LineReader(path))


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(RecordsError, match=r"cannot read .*lines\.jsonl: No such file"):
        list(LineReader(tmp_path / "lines.jsonl"))


def test_a_closed_file_is_an_error(tmp_path) -> None:
    file = LineFile(tmp_path / "lines.jsonl")
    file.close()
    file.close()
    with pytest.raises(ValueError, match="already closed"):
        file.append({})


def test_a_folder_at_the_files_path_is_a_storage_error(tmp_path) -> None:
    with pytest.raises(
        StorageError, match=re.escape(f"cannot open {tmp_path}: Is a directory")
    ):
        LineFile(tmp_path)


def test_a_run_comes_back_as_it_was_made(tmp_path) -> None:
    create_run(tmp_path / "run", INFO)
    run = open_run(tmp_path / "run")
    assert run.info == INFO
    assert run.steps() == []
    with RunWriter(run) as writer:
        writer.record(STEP, MOMENT)
        writer.record(EVENTS[1], MOMENT)
    log_event(run.path, EVENTS[-1])
    assert run.steps() == [STEP]
    logged = run.events()
    assert [one.event for one in logged] == [EVENTS[1], EVENTS[-1]]
    assert [one.moment for one in logged] == [MOMENT, None]  # the second is another writer's
    assert all(one.at.endswith("+00:00") for one in logged)


def test_an_event_can_be_added_while_another_process_trains(tmp_path) -> None:
    with RunWriter(create_run(tmp_path / "run", INFO)) as writer:
        log_event(tmp_path / "run", EVENTS[-1])
        writer.record(EVENTS[1], MOMENT)
        with (tmp_path / "run" / "events.jsonl").open() as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # no process holds it
        assert len(writer.run.events()) == 2


def test_a_second_writer_is_refused(tmp_path) -> None:
    run = create_run(tmp_path / "run", INFO)
    another = pytest.raises(RecordsError, match=r"another edge-train is writing to .*run\.")
    with RunWriter(run), another:
        RunWriter(run)
    RunWriter(run).close()  # the first one has released it


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, r"is not a run folder: run\.json cannot be read \(No such file"),
        (b"{", r"is not a run folder: run\.json cannot be read"),
        (b"[]", "run format None is unknown"),
        (
            b'{"format": "%b"}' % (b"x" * 999),
            r"run format 'x{30,40}\.\.\.x+' is unknown; this",
        ),
        (b'{"format": 3}', "run format 3 is unknown; this edge-train reads format 2"),
        (
            b'{"format": 1, "versions": {"edge-train": "0.9.0"}}',
            r"run format 1 is of an earlier .*reads format 2\. .*with edge-train 0\.9\.0,",
        ),
        (b'{"format": 1}', "run format 1 is of an earlier .* or train again into another"),
        (b'{"format": 2}', r"run\.json: \d+ problem"),
    ],
)
def test_a_folder_without_a_run_is_refused(tmp_path, content, message) -> None:
    if content is not None:
        (tmp_path / "run.json").write_bytes(content)
    with pytest.raises(RecordsError, match=message):
        open_run(tmp_path)


@pytest.mark.parametrize(
    ("budget", "message"),
    [({"joules": 3}, "unknown key joules"), ({"energy_j": -3}, "--energy is -3")],
)
def test_a_run_with_a_damaged_budget_is_refused(tmp_path, budget, message) -> None:
    create_run(tmp_path / "run", INFO)
    file = tmp_path / "run" / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "budget": budget}))
    with pytest.raises(RecordsError, match=message):
        open_run(tmp_path / "run")


def test_a_run_never_replaces_an_existing_path(tmp_path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(StorageError, match=r"cannot write .*/run: Directory not empty"):
        create_run(tmp_path / "run", INFO)
    assert [path.name for path in tmp_path.rglob("*")] == ["run", "thesis.txt"]


def test_only_differing_settings_are_named() -> None:
    assert differences(SETTINGS, SETTINGS) == []
    asked = replace(SETTINGS, seed=4, package_digest="ef" * 32, rungs=((1, "k050"),))
    assert differences(SETTINGS, asked) == [
        "  package_digest: the run has abababababab..., this command asks for efefefefefef...",
        "  seed: the run has 3, this command asks for 4",
        "  rungs: the run has k100 from step 1, k050 from step 7, "
        "this command asks for k050 from step 1",
    ]
