"""The training loop on a fake engine: what it trains, records and saves."""

import itertools
import json
from dataclasses import replace

import numpy as np
import pytest
from training_fakes import (
    BATCH,
    CURVES,
    STEPS,
    FakeEngine,
    FakePictures,
    kinds,
    options,
    run_to_the_end,
    stop_after,
    write_package,
)

from edge_runtime.data import draw_inputs, view_batches
from edge_runtime.device import cpu_threads
from edge_runtime.errors import (
    ConfigError,
    DataError,
    EngineError,
    RecordsError,
    StoppedError,
)
from edge_runtime.package.curves import hyper_parameters
from edge_runtime.package.manifest import NonOverlap
from edge_runtime.records import RunWriter, events, open_run
from edge_runtime.training import train


@pytest.mark.parametrize("law", [None, NonOverlap(group="global", power=3.0)])
def test_a_run_equals_its_definition(law, tmp_path) -> None:
    """Views, draws and hyper-parameters of each step, through the engine by hand."""
    package = write_package(tmp_path / "package", law=law)
    run_to_the_end(package, tmp_path / "run", seed=5, rungs=((1, "k100"), (8, "k050")))
    engine, losses = FakeEngine(), []
    engine.open(package, package.initial_state())
    with view_batches(
        FakePictures(),
        package.manifest.views,
        batch_size=BATCH,
        seed=5,
        first_step=1,
        last_step=STEPS,
        threads=1,
    ) as batches:
        for step, batch in enumerate(batches, start=1):
            rung = package.rung("k100" if step < 8 else "k050")
            epoch = (step - 1) // 5
            draws = draw_inputs(
                rung.draws,
                seed=5,
                epoch=epoch,
                pictures=batch.pictures,
                crops=batch.crops,
            )
            hyper = hyper_parameters(CURVES, step, steps_per_epoch=5, total_steps=STEPS)
            result = engine.step(rung.id, {**batch.images, **draws}, hyper)
            losses.append(result.metrics["loss"])
    run = open_run(tmp_path / "run")
    assert [record.loss for record in run.steps()] == losses
    trained = run.newest_checkpoint().state
    for name, array in engine.snapshot().items():
        np.testing.assert_array_equal(trained[name], array)


def test_yielded_and_recorded_events_are_equal(package, tmp_path) -> None:
    yielded = run_to_the_end(package, tmp_path / "run", rungs=((1, "k100"), (4, "k050")))
    run = open_run(tmp_path / "run")
    assert kinds(yielded, events.StepRecord) == run.steps()
    others = [event for event in yielded if not isinstance(event, events.StepRecord)]
    assert [logged.event for logged in run.events()] == others
    assert [type(event) for event in others] == [
        events.Started,
        events.RungChanged,
        events.RungChanged,
        events.WindowEnded,
        events.EpochFinished,
        events.EpochFinished,
        events.WindowEnded,
        events.CheckpointSaved,
        events.Finished,
    ]
    assert others[1:3] == [
        events.RungChanged(step=1, rung="k100", keep_ratio=1.0, reason=None),
        events.RungChanged(step=4, rung="k050", keep_ratio=0.5, reason=None),
    ]
    assert [(e.step, e.window.name) for e in kinds(others, events.WindowEnded)] == [
        (3, "rung k100"),
        (10, "rung k050"),
    ]
    first, second = run.steps()[:5], run.steps()[5:]
    assert others[4].mean_loss == pytest.approx(sum(r.loss for r in first) / 5)
    assert others[5].mean_loss == pytest.approx(sum(r.loss for r in second) / 5)
    assert others[-1].checkpoint == "checkpoints/10"
    assert others[-1].images == STEPS * BATCH


def test_step_records_have_the_trained_rung(package, tmp_path) -> None:
    run_to_the_end(package, tmp_path / "run", rungs=((1, "k100"), (7, "k050")))
    records = open_run(tmp_path / "run").steps()
    assert [record.step for record in records] == list(range(1, 11))
    assert [record.epoch for record in records] == [0] * 5 + [1] * 5
    assert [record.keep_ratio for record in records] == [1.0] * 6 + [0.5] * 4
    assert {record.images for record in records} == {BATCH}
    assert records[4].lr == CURVES["lr"].first
    assert records[0].measured.rss_bytes > 1 << 20
    assert records[1].measured.rss_bytes is None  # less than a second later
    assert all(record.measured.wait_s >= 0 for record in records)


def test_run_json_describes_the_run(package, tmp_path) -> None:
    run_to_the_end(package, tmp_path / "run", seed=7)
    info = open_run(tmp_path / "run").info
    assert info.settings.package_digest == package.digest
    assert (info.settings.seed, info.settings.epochs, info.settings.batch_size) == (7, 2, 4)
    assert info.settings.rungs == ((1, "k100"),)
    assert (info.engine, info.device, info.versions["runtime"]) == ("fake", "cpu", "numpy")
    assert (FakeEngine.threads, info.threads) == (None, cpu_threads())
    assert (info.total_steps, info.steps_per_epoch) == (10, 5)
    assert info.source == "fake pictures"
    assert info.package_path == str(package.path)
    assert {"edge-train", "numpy"} <= info.versions.keys()
    assert info.machine["logical_cpus"] >= 1


def test_the_number_of_threads_is_recorded_where_the_engine_chooses(
    package, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(FakeEngine, "threads", None)
    run_to_the_end(package, tmp_path / "run")
    info = open_run(tmp_path / "run").info
    assert info.threads == info.machine["logical_cpus"]


def test_checkpoints_follow_the_clock(package, tmp_path) -> None:
    engine = FakeEngine()
    seconds = itertools.count()  # every reading of the clock takes a second
    yielded = run_to_the_end(
        package,
        tmp_path / "run",
        engine=engine,
        clock=lambda: float(next(seconds)),
        checkpoint_every_s=20,
    )
    saved = [event.step for event in kinds(yielded, events.CheckpointSaved)]
    assert saved[-1] == STEPS
    assert 2 <= len(saved) < STEPS - 1
    assert len(set(saved)) == len(saved)
    assert engine.closed


def test_a_stop_saves_and_a_resumed_run_ends_the_same(package, tmp_path) -> None:
    run_to_the_end(package, tmp_path / "whole")
    with pytest.raises(StoppedError, match=r"after step 4 of 10; .* and --resume") as caught:
        run_to_the_end(package, tmp_path / "parts", stop=stop_after(4))
    assert caught.value.exit_code == 130
    parts = open_run(tmp_path / "parts")
    assert parts.events()[-1].event == events.Interrupted(step=4, checkpoint="checkpoints/4")
    yielded = run_to_the_end(package, tmp_path / "parts", resume=True)
    assert yielded[0].step == 4
    assert yielded[0].lost_steps == 0
    assert (
        kinds(yielded, events.EpochFinished)[0]
        == kinds(
            [logged.event for logged in open_run(tmp_path / "whole").events()],
            events.EpochFinished,
        )[0]
    )
    assert_same_result(tmp_path / "whole", tmp_path / "parts")


def assert_same_result(whole, parts) -> None:
    for left, right in zip(open_run(whole).steps(), open_run(parts).steps(), strict=True):
        assert replace(left, measured=right.measured) == right
    file = f"checkpoints/{STEPS}/state.safetensors"
    assert (whole / file).read_bytes() == (parts / file).read_bytes()


def test_a_stop_before_the_first_step_saves_nothing(package, tmp_path) -> None:
    with pytest.raises(StoppedError, match="after step 0 of 10"):
        run_to_the_end(package, tmp_path / "run", stop=lambda: True)
    run = open_run(tmp_path / "run")
    assert run.events()[-1].event == events.Interrupted(step=0, checkpoint=None)
    run_to_the_end(package, tmp_path / "run", resume=True)
    run_to_the_end(package, tmp_path / "whole")
    assert_same_result(tmp_path / "whole", tmp_path / "run")


def test_every_process_has_a_different_number(package, tmp_path) -> None:
    """Also one that ended before it wrote a sample."""
    for _ in range(2):
        with pytest.raises(StoppedError):
            run_to_the_end(package, tmp_path / "run", stop=stop_after(2), resume=True)
    run_to_the_end(package, tmp_path / "run", resume=True)
    run = open_run(tmp_path / "run")
    assert list(dict.fromkeys(each.moment.process for each in run.events())) == [1, 2, 3]
    changes = [f for f in run.events() if isinstance(f.event, events.RungChanged)]
    assert {each.moment.process for each in changes} == {1, 2, 3}


def test_a_stop_right_after_resuming_has_nothing_to_save(package, tmp_path) -> None:
    for polls in (4, 0):
        with pytest.raises(StoppedError, match="after step 4 of 10"):
            run_to_the_end(package, tmp_path / "run", stop=stop_after(polls), resume=True)
    logged = [entry.event for entry in open_run(tmp_path / "run").events()]
    assert len(kinds(logged, events.CheckpointSaved)) == 1
    assert logged[-1] == events.Interrupted(step=4, checkpoint="checkpoints/4")


def test_steps_after_the_checkpoint_are_trained_again(package, tmp_path) -> None:
    run_to_the_end(package, tmp_path / "whole")
    with pytest.raises(StoppedError):
        run_to_the_end(package, tmp_path / "run", stop=stop_after(3))
    live = train(package, FakePictures(), tmp_path / "run", options(resume=True))
    for event in live:
        if isinstance(event, events.StepRecord) and event.step == 8:
            break
    live.close()  # as a killed process: steps 4 to 8 are recorded, not saved
    assert len(open_run(tmp_path / "run").steps()) == 8
    yielded = run_to_the_end(package, tmp_path / "run", resume=True)
    assert (yielded[0].step, yielded[0].lost_steps) == (3, 5)
    assert_same_result(tmp_path / "whole", tmp_path / "run")


def test_a_damaged_checkpoint_is_skipped_with_an_event(package, tmp_path) -> None:
    run_to_the_end(package, tmp_path / "whole")
    for polls in (3, 4):
        with pytest.raises(StoppedError):
            run_to_the_end(package, tmp_path / "run", stop=stop_after(polls), resume=True)
    (tmp_path / "run/checkpoints/7/state.safetensors").write_bytes(b"")
    yielded = run_to_the_end(package, tmp_path / "run", resume=True)
    assert isinstance(yielded[0], events.CheckpointDamaged)
    assert yielded[0].checkpoint == "checkpoints/7"
    assert (yielded[1].step, yielded[1].checkpoint) == (3, "checkpoints/3")
    assert_same_result(tmp_path / "whole", tmp_path / "run")


def test_a_finished_run_yields_its_end_and_trains_nothing(package, tmp_path) -> None:
    finished = run_to_the_end(package, tmp_path / "run")[-1]
    before = {path: path.read_bytes() for path in (tmp_path / "run").glob("*.json*")}
    assert run_to_the_end(package, tmp_path / "run", resume=True) == [finished]
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").glob("*.json*")}


def test_an_existing_folder_is_refused(package, tmp_path) -> None:
    run_to_the_end(package, tmp_path / "run")
    with pytest.raises(ConfigError, match=r"run exists\. Continue it with --resume, or"):
        run_to_the_end(package, tmp_path / "run")
    (tmp_path / "empty").mkdir()
    assert isinstance(run_to_the_end(package, tmp_path / "empty")[-1], events.Finished)
    (tmp_path / "file").touch()
    with pytest.raises(RecordsError, match="file is not a run folder"):
        run_to_the_end(package, tmp_path / "file", resume=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"seed": 1}, "  seed: the run has 0, this command asks for 1"),
        ({"epochs": 3}, "  epochs: the run has 2, this command asks for 3"),
        ({"rungs": ((1, "k050"),)}, "  rungs: .*k100.*k050.*"),
        ({"images_per_epoch": 16}, "  images_per_epoch: the run has all pictures, .* 16"),
        ({"source": FakePictures(prefix="photo")}, "  pictures: their names are not .*"),
    ],
)
def test_other_settings_are_named(package, tmp_path, changes, message) -> None:
    with pytest.raises(StoppedError):
        run_to_the_end(package, tmp_path / "run", stop=stop_after(2))
    with pytest.raises(ConfigError, match=f"resumed with other settings:\n{message}\n"):
        run_to_the_end(package, tmp_path / "run", resume=True, **changes)
    assert len(open_run(tmp_path / "run").steps()) == 2


def test_another_package_is_named(package, tmp_path) -> None:
    with pytest.raises(StoppedError):
        run_to_the_end(package, tmp_path / "run", stop=stop_after(2))
    other = write_package(tmp_path / "other", seed=1)
    with pytest.raises(ConfigError, match="settings:\n  package_digest: the run has "):
        run_to_the_end(other, tmp_path / "run", resume=True)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"epochs": 0}, ConfigError, "epochs is 0"),
        ({"rungs": ()}, ConfigError, r"rungs start at steps \[\]"),
        ({"rungs": ((2, "k100"),)}, ConfigError, r"rungs start at steps \[2\]"),
        ({"rungs": ((1, "k100"), (1, "k050"))}, ConfigError, r"at steps \[1, 1\]"),
        ({"rungs": ((1, "k100"), (5, "k025"))}, ConfigError, "no rung 'k025'"),
        ({"source": FakePictures(count=BATCH - 1)}, DataError, "3"),
        (
            {"source": FakePictures(count=BATCH - 1), "images_per_epoch": 5 * BATCH},
            DataError,
            r"gives 3 picture\(s\)",
        ),
    ],
)
def test_impossible_options_leave_no_folder(
    package, tmp_path, changes, error, message
) -> None:
    with pytest.raises(error, match=message):
        run_to_the_end(package, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


def test_a_schedule_that_the_engine_cannot_train_is_refused_before_it_is_opened(
    package, tmp_path
) -> None:
    class Closed(FakeEngine):
        def open(self, package, state):
            raise AssertionError("opened")

    given = options(rungs=((1, "k100"), (7, "k050")), engine=Closed(unsupported=["k050"]))
    message = r"cannot train .*: rung k050 is too much for it\. Use engine ort, or rung k100\."
    with pytest.raises(EngineError, match=message):
        next(train(package, FakePictures(), tmp_path / "run", given))
    assert not (tmp_path / "run").exists()


def test_an_engine_that_refuses_leaves_no_folder(package, tmp_path) -> None:
    class Refusing(FakeEngine):
        def open(self, package, state):
            raise EngineError("not this one")

    with pytest.raises(EngineError, match="not this one"):
        run_to_the_end(package, tmp_path / "run", engine=Refusing())
    assert not (tmp_path / "run").exists()


def test_a_second_process_is_refused(package, tmp_path) -> None:
    with pytest.raises(StoppedError):
        run_to_the_end(package, tmp_path / "run", stop=stop_after(2))
    another = pytest.raises(RecordsError, match="another edge-train is writing")
    with RunWriter(open_run(tmp_path / "run")), another:
        run_to_the_end(package, tmp_path / "run", resume=True)


def test_a_run_folder_is_plain_json(package, tmp_path) -> None:
    run_to_the_end(package, tmp_path / "run")
    line = json.loads((tmp_path / "run" / "steps.jsonl").read_text().splitlines()[0])
    assert line.keys() == {
        "step",
        "epoch",
        "rung",
        "keep_ratio",
        "loss",
        "metrics",
        "applied",
        "lr",
        "images",
        "measured",
    }
    assert line["measured"].keys() == {
        "process",
        "t_s",
        "step_s",
        "wait_s",
        "pause_s",
        "rss_bytes",
    }
