"""`edge-train run`: from the flags to the exit code, on a fake engine; and its progress."""

import io
import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from live_runs import FINISHED
from simulated_board import rung_cost
from training_fakes import FakeEngine, write_package

from edge_runtime import device
from edge_runtime.cli.main import main
from edge_runtime.cli.progress import Progress
from edge_runtime.facts import CostProfile, Spent
from edge_runtime.package import open_package
from edge_runtime.profiling import Environment, save_profile
from edge_runtime.records import events, open_run

TESTS = Path(__file__).parent


@pytest.fixture
def words(tmp_path, monkeypatch) -> list[str]:
    """Arguments of a run of 2 epochs of 5 steps, on the fake engine."""
    use_engine(monkeypatch, FakeEngine)
    write_package(tmp_path / "package")
    write_pictures(tmp_path / "pictures")
    paths = [str(tmp_path / name) for name in ("package", "pictures", "run")]
    return ["run", *paths[:2], "-o", paths[2], "--epochs", "2", "--threads", "1"]


def use_engine(monkeypatch, engine) -> None:
    monkeypatch.setattr("edge_runtime.within_budget.create_engine", lambda *_, **__: engine())


def write_pictures(folder: Path) -> None:
    folder.mkdir()
    for number in range(20):
        picture = np.full((9, 9, 3), 10 * number, np.uint8)
        cv2.imwrite(str(folder / f"{number:02}.png"), picture)


def test_a_run_prints_its_events(words, tmp_path, capsys) -> None:
    assert main(words) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "training 10 steps on fake (numpy)"
    assert lines.pop(1) == "from step 1 on rung k100, keep-ratio 1"
    assert re.fullmatch(
        r"step 1/10  \d+\.\d images/s  loss \d+\.\d{4}  lr 2\.00e-03  keep-ratio 1  "
        r"\d+\.\d MiB",
        lines[1],
    )
    assert lines[2].startswith("epoch 1 finished, mean loss ")
    assert lines[3].startswith("step 10/10 ")
    # The second epoch is not shown, so soon after the first.
    assert re.fullmatch(r"saved .*run/checkpoints/10 \(\d\.\d KiB in \d\.\d\d s\)", lines[4])
    assert re.fullmatch(
        r"finished: 10 steps, 40 images \(.* images/s\), last loss \d+\.\d{4}", lines[5]
    )
    assert re.fullmatch(r"spent: .*, at most .* resident", lines[6])
    assert lines[7] == f"checkpoint: {tmp_path / 'run' / 'checkpoints' / '10'}"


def test_json_is_one_event_per_line_and_the_last_is_the_summary(words, capsys) -> None:
    assert main([*words, "--json", "--keep-ratio", "0.5"]) == 0
    tables = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert tables[0]["event"] == "started"
    assert [table["keep_ratio"] for table in tables if table["event"] == "step"] == [0.5] * 10
    assert tables[-1]["event"] == "finished"
    assert tables[-1].keys() == {
        "event",
        "steps",
        "epochs",
        "images",
        "loss",
        "checkpoint",
        "elapsed_s",
        "images_per_s",
        "skipped",
        "peak_bytes",
        "card_bytes",
        "memory_limit_bytes",
        "stopped_by",
        "reason",
        "spent",
    }


@pytest.mark.parametrize(
    ("flags", "rung"),
    [([], "k100"), (["--keep-ratio", "0.5"], "k050"), (["--rung", "k050"], "k050")],
)
def test_the_rung_is_chosen(words, tmp_path, flags, rung) -> None:
    assert main([*words, *flags]) == 0
    assert {record.rung for record in open_run(tmp_path / "run").steps()} == {rung}


@pytest.mark.parametrize("flags", [["--keep-ratio", "auto"], ["--time", "1h"]])
def test_auto_takes_what_the_engine_can_train(
    words, tmp_path, monkeypatch, capsys, flags
) -> None:
    use_engine(monkeypatch, lambda: FakeEngine(unsupported=["k100"]))
    path = written_profile(tmp_path)
    assert main([*words, *flags, "--profile", str(path)]) == 0
    run = open_run(tmp_path / "run")
    assert {record.rung for record in run.steps()} == {"k050"}
    assert [cost.rung for cost in run.info.profile.rungs] == ["k050"]  # it was used
    report = "edge-train: without rung k100: engine fake cannot train it"
    assert report in capsys.readouterr().err


def test_a_rung_by_its_name_is_not_left_out(words, monkeypatch, capsys) -> None:
    use_engine(monkeypatch, lambda: FakeEngine(unsupported=["k100"]))
    assert main([*words, "--rung", "k100"]) == 5
    message = "rung k100 is too much for it. Use engine ort, or rung k050"
    assert message in capsys.readouterr().err


def written_profile(folder: Path) -> Path:
    """A profile of the package there, measured in this environment."""
    package, here = open_package(folder / "package"), Environment.detect(threads=1)
    profile = CostProfile(
        format=1,
        created_at="2030-01-01T00:00:00+00:00",
        package_digest=package.digest,
        board=here.board.id,
        power_mode=here.power_mode,
        engine=here.engine,
        runtime=here.runtime,
        threads=1,
        sensor=None,
        energy_is_estimate=False,
        idle_w=None,
        baseline_bytes=1 << 20,
        startup_s=0.01,
        switch_s=0.0,
        checkpoint_s=0.01,
        checkpoint_j=None,
        rungs=(rung_cost("k100", 80, 0.01, None), rung_cost("k050", 48, 0.005, None)),
    )
    save_profile(profile, folder / "profile.json")
    return folder / "profile.json"


def test_a_finished_run_is_reported(words, tmp_path, capsys) -> None:
    main(words)
    capsys.readouterr()
    assert main([*words, "--resume"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == f"{tmp_path / 'run'} is already finished"
    assert lines[1].startswith("finished: 10 steps, 40 images")


@pytest.mark.parametrize(
    ("changes", "code", "message"),
    [
        (["--keep-ratio", "0.6"], 2, "keep-ratio 0.6 is not on the ladder of .* has 1, 0.5"),
        (["--keep-ratio", "1.5"], 2, r"keep-ratio 1.5 is outside \(0, 1\]"),
        (["--rung", "k025"], 2, "has no rung 'k025'; it has k100, k050"),
        (["-o", "package"], 2, "package exists. Continue it with --resume, or choose"),
        (["-o", "package", "--resume"], 6, "package is not a run folder"),
    ],
)
def test_wrong_flags_are_explained(
    words, tmp_path, capsys, monkeypatch, changes, code, message
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([*words, *changes]) == code
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("place", "code", "message"),
    [(1, 3, "nowhere is not a training package"), (2, 6, "nowhere: no such file or folder")],
)
def test_missing_input_is_explained(words, capsys, place, code, message) -> None:
    words[place] = "nowhere"
    assert main(words) == code
    assert message in capsys.readouterr().err


def test_a_batch_larger_than_the_data_set_is_explained(words, tmp_path, capsys) -> None:
    for number in range(3, 20):
        (tmp_path / "pictures" / f"{number:02}.png").unlink()
    assert main(words) == 6
    assert "a batch of 4 is larger than the data set" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        (["--energy", "1kJ"], 4, "a limit on energy or power needs a power sensor"),
        (["--power", "5W"], 4, "a limit on energy or power needs a power sensor"),
        (["--profile", "p.json"], 2, "--profile needs a budget, --keep-ratio auto"),
        (["--time", "1h", "--images", "3"], 6, "a batch of 4 is larger than the data set"),
    ],
)
def test_invalid_flags_are_refused_before_anything_is_measured(
    words, tmp_path, monkeypatch, capsys, flags, code, message
) -> None:
    def measure(*_, **__):
        raise AssertionError("this takes minutes")

    monkeypatch.setattr("edge_runtime.profiling.for_run.profile_package", measure)
    monkeypatch.setattr(device, "open_sensor", lambda board: None)
    monkeypatch.setattr("edge_runtime.profiling.environment.open_sensor", lambda board: None)
    monkeypatch.setenv("EDGE_TRAIN_CACHE", str(tmp_path / "cache"))
    assert main([*words, *flags]) == code
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_saves_and_exits_130(words, tmp_path, monkeypatch, capfd, number) -> None:
    class Signalled(FakeEngine):
        def step(self, rung_id, batch, hyper, following=None):
            if hyper["step"] == 4:
                os.kill(os.getpid(), number)
            return super().step(rung_id, batch, hyper)

    before = signal.getsignal(number)
    use_engine(monkeypatch, Signalled)
    assert main(words) == 130
    assert signal.getsignal(number) == before
    error = capfd.readouterr().err
    assert "stopping after this step and saving; send it again to stop at once" in error
    assert (
        "edge-train: stopped after step 4 of 10; continue with the same command and" in error
    )
    assert open_run(tmp_path / "run").newest_checkpoint().info.step == 4
    use_engine(monkeypatch, FakeEngine)
    assert main([*words, "--resume"]) == 0
    assert (
        "resuming after step 4 of 10 from checkpoints/4 on fake (numpy); 0 steps to repeat"
        in capfd.readouterr().out
    )


@pytest.mark.parametrize(("flags", "code"), [([], 4), (["--memory", "1TiB"], 0)])
def test_a_run_that_other_programs_end_is_not_done(
    words, monkeypatch, capsys, flags, code
) -> None:
    """With a limit of the user it is the end of a budget."""
    ended = replace(FINISHED, stopped_by="memory", reason="others took it")
    monkeypatch.setattr(
        "edge_runtime.within_budget.train_within", lambda *_, **__: iter([ended])
    )
    sizes = [flag.replace("TiB", "024GiB") for flag in flags]
    assert main([*words, *sizes]) == code
    out, err = capsys.readouterr()
    assert "ended by its memory limit (others took it)" in out
    assert ("continue with the same command and --resume when there is more" in err) == (
        code == 4
    )


def steps_of(seconds_per_step: float, count: int):
    for step in range(1, count + 1):
        measured = events.Measured(
            process=1,
            t_s=step * seconds_per_step,
            step_s=seconds_per_step - 0.5,
            wait_s=0.5,
            pause_s=0.0,
            rss_bytes=3 << 20 if step == 1 else None,
        )
        yield events.StepRecord(
            step=step,
            epoch=0,
            rung="k050",
            keep_ratio=0.5,
            loss=1.5,
            lr=1e-3,
            images=8,
            measured=measured,
        )


def show(stream: io.StringIO, seconds_per_step: float, count: int) -> str:
    now_s = 0.0
    progress = Progress(Path("run"), stream, clock=lambda: now_s)
    progress(
        events.Started(steps=100, steps_per_epoch=50, engine="ort", runtime="onnxruntime 1")
    )
    for record in steps_of(seconds_per_step, count):
        now_s += seconds_per_step
        progress(record)
    progress.close()
    return stream.getvalue()


def test_speed_and_time_left_come_from_recent_steps() -> None:
    last = show(io.StringIO(), 8, 25).splitlines()[-1]
    assert last == (
        "step 25/100  1.0 images/s  loss 1.5000  lr 1.00e-03  keep-ratio 0.5  3.0 MiB  "
        "10 min 0 s left"
    )


def test_plain_output_has_a_line_every_few_seconds() -> None:
    lines = show(io.StringIO(), 1, 12).splitlines()
    assert [line.split()[1] for line in lines[1:]] == ["1/100", "6/100", "11/100"]
    assert "\r" not in "".join(lines)


def test_a_run_without_a_step_shows_the_known_values() -> None:
    """Its budget allowed none."""
    stream = io.StringIO()
    spent = Spent(
        time_s=12.0, energy_j=None, energy_is_estimate=False, lost_s=0.0, lost_j=None
    )
    finished = events.Finished(
        steps=0,
        epochs=0.0,
        images=0,
        loss=None,
        checkpoint=None,
        elapsed_s=0.5,
        images_per_s=None,
        peak_bytes=3 << 20,
        stopped_by="time",
        spent=spent,
    )
    progress = Progress(Path("run"), stream)
    progress(
        events.Started(steps=100, steps_per_epoch=50, engine="ort", runtime="onnxruntime 1")
    )
    progress(finished)
    assert stream.getvalue().splitlines()[1:] == [
        "ended by its time limit: 0 steps, 0 images; a larger --time with --resume continues",
        "spent: 12 s, at most 3.0 MiB resident",
    ]
    progress(replace(finished, card_bytes=2 << 30))
    assert stream.getvalue().splitlines()[-1] == (
        "spent: 12 s, at most 3.0 MiB resident, 2.0 GiB of the GPU's own memory"
    )
