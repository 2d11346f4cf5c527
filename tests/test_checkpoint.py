"""Checkpoints: complete or absent, verified, two of them kept, nothing lost on a full disk."""

import json
import resource
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from training_fakes import INFO, MOMENT, SPENT, STEP

from edge_runtime.errors import RecordsError, StorageError
from edge_runtime.records import RunWriter, create_run, find_checkpoint, open_run
from edge_runtime.records.totals import Losses
from edge_runtime.state import State


def state_after(step: int, size: int = 100) -> State:
    return {"param.w": np.full(size, step, np.float32), "count": np.array([step])}


@pytest.fixture
def writer(tmp_path):
    with RunWriter(create_run(tmp_path / "run", INFO)) as writer:
        yield writer


def save(writer: RunWriter, *steps: int) -> Path:
    """Record a step and save it, several times; the folder of all checkpoints."""
    for step in steps:
        writer.record(STEP, MOMENT)
        writer.save(state_after(step), step=step, epoch=0, spent=SPENT, losses=Losses())
    return writer.run.path / "checkpoints"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_newest_of_the_last_two_comes_back(writer) -> None:
    folder = save(writer, 9, 10, 11)
    assert names(folder) == ["10", "11"]
    newest = writer.run.newest_checkpoint()
    assert (newest.path, newest.info.step, newest.info.epoch) == (folder / "11", 11, 0)
    assert newest.info.steps_bytes == (writer.run.path / "steps.jsonl").stat().st_size
    for name, array in state_after(11).items():
        np.testing.assert_array_equal(newest.state[name], array)


def test_the_same_state_gives_the_same_bytes(writer) -> None:
    folder = save(writer, 1)
    writer.save(
        dict(reversed(state_after(1).items())), step=2, epoch=0, spent=SPENT, losses=Losses()
    )
    first, second = ((folder / step / "state.safetensors") for step in "12")
    assert first.read_bytes() == second.read_bytes()


def cut_state(checkpoint: Path) -> None:
    file = checkpoint / "state.safetensors"
    file.write_bytes(file.read_bytes()[:-1])


def alter_state(checkpoint: Path) -> None:
    content = bytearray((checkpoint / "state.safetensors").read_bytes())
    content[-1] ^= 1
    (checkpoint / "state.safetensors").write_bytes(content)


def lose_state(checkpoint: Path) -> None:
    (checkpoint / "state.safetensors").unlink()


def cut_info(checkpoint: Path) -> None:
    file = checkpoint / "checkpoint.json"
    file.write_text(file.read_text()[:20])


def lose_all(checkpoint: Path) -> None:
    shutil.rmtree(checkpoint)
    checkpoint.mkdir()


def swap_package(checkpoint: Path) -> None:
    file = checkpoint / "checkpoint.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"package_digest": "00"}))


def lose_steps(checkpoint: Path) -> None:
    steps = checkpoint.parents[1] / "steps.jsonl"
    steps.write_bytes(steps.read_bytes()[:-1])


DAMAGES = {
    cut_state: "20 is damaged: .*not a complete safetensors file",
    alter_state: r"20 is damaged: state\.safetensors was altered",
    lose_state: "20 is damaged: .*No such file",
    cut_info: "20 is damaged: ",
    lose_all: "20 is damaged: .*No such file",
    swap_package: "20 belongs to another run",
    lose_steps: r"20 needs lines that steps\.jsonl does not have",
}


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: damage.__name__)
def test_a_damaged_checkpoint_is_skipped(writer, damage, caplog) -> None:
    folder = save(writer, 10, 20)
    damage(folder / "20")
    newest, passed_over = find_checkpoint(writer.run)
    assert newest.info.step == 10
    assert [damaged.checkpoint for damaged in passed_over] == ["checkpoints/20"]
    with pytest.raises(RecordsError, match=DAMAGES[damage]):
        raise RecordsError(passed_over[0].reason)
    assert writer.run.newest_checkpoint().info.step == 10
    assert "skipped a damaged checkpoint: " in caplog.text


def test_a_checkpoint_under_another_name_is_skipped(writer) -> None:
    folder = save(writer, 10)
    (folder / "10").rename(folder / "30")
    with pytest.raises(
        RecordsError, match=r"no checkpoint that can be used:\n .*30 belongs to"
    ):
        writer.run.newest_checkpoint()


def test_no_checkpoint_is_not_the_same_as_only_damaged_ones(writer) -> None:
    assert find_checkpoint(writer.run) == (None, [])
    with pytest.raises(RecordsError, match="has no checkpoint yet"):
        writer.run.newest_checkpoint()
    folder = save(writer, 10, 20)
    cut_state(folder / "10")
    lose_all(folder / "20")
    with pytest.raises(
        RecordsError, match=r"can be used:\n.*20 is dam.*\n.*10 is dam.*\nRestore"
    ):
        find_checkpoint(writer.run)


def test_returning_to_a_checkpoint_removes_later_steps(writer) -> None:
    folder = save(writer, 1, 2)
    cut_state(folder / "2")
    newest, _ = find_checkpoint(writer.run)
    writer.record(STEP, MOMENT)
    assert writer.go_back(newest) == 2
    assert names(folder) == ["1"]
    assert len(writer.run.steps()) == 1
    assert writer.go_back(None) == 1
    assert names(folder) == []
    assert writer.run.steps() == []


def test_incomplete_files_of_a_killed_process_are_removed(tmp_path) -> None:
    run = create_run(tmp_path / "run", INFO)
    for name in (".20-x7f3", ".10-removed"):
        (run.path / "checkpoints" / name).mkdir()
        (run.path / "checkpoints" / name / "state.safetensors").write_bytes(b"half")
    RunWriter(run).close()
    assert names(run.path / "checkpoints") == []


def test_a_checkpoint_that_led_to_nan_is_set_aside(writer) -> None:
    folder = save(writer, 10, 20)
    assert writer.last_good(22) == "checkpoints/20"  # step 21 was fine
    assert names(folder) == ["10", "20"]
    assert writer.last_good(21) == "checkpoints/10"
    assert names(folder) == ["10", "20.diverged"]
    assert writer.run.newest_checkpoint().info.step == 10
    save(writer, 20)
    assert writer.last_good(21) == "checkpoints/10"
    assert writer.last_good(11) is None
    assert names(folder) == ["10.diverged", "20.diverged"]


def fail_to_save(writer: RunWriter) -> None:
    """Save a state that is too large and check that the previous one is complete."""
    message = r"cannot write .*checkpoints/20: .*Free some space"
    with pytest.raises(StorageError, match=message) as caught:
        writer.save(
            state_after(20, size=100_000), step=20, epoch=0, spent=SPENT, losses=Losses()
        )
    assert caught.value.exit_code == 9
    assert names(writer.run.path / "checkpoints") == ["10"]
    newest = open_run(writer.run.path).newest_checkpoint()
    np.testing.assert_array_equal(newest.state["param.w"], state_after(10)["param.w"])


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(disk)]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("needs the right to mount a small file system")
    try:
        with RunWriter(create_run(disk / "run", INFO)) as writer:
            save(writer, 10)
            fail_to_save(writer)
            save(writer, 30)  # a small one still fits
            assert names(disk / "run" / "checkpoints") == ["10", "30"]
    finally:
        subprocess.run(["umount", str(disk)], check=True)


@contextmanager
def largest_file(size_bytes: int) -> Iterator[None]:
    """No file of this process may grow larger: what a full disk looks like to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_file_that_may_not_grow_leaves_the_checkpoint_before(writer) -> None:
    save(writer, 10)
    with largest_file(50_000):
        fail_to_save(writer)


def test_a_line_that_does_not_fit_leaves_those_before(writer) -> None:
    writer.record(STEP, MOMENT)
    full = pytest.raises(StorageError, match=r"cannot append to .*steps\.jsonl: .*Free some")
    with largest_file((writer.run.path / "steps.jsonl").stat().st_size + 10), full:
        writer.record(STEP, MOMENT)
    assert writer.run.steps() == [STEP]
    writer.record(STEP, MOMENT)
    assert writer.run.steps() == [STEP, STEP]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps_bytes": -1}, "steps_bytes: expected an integer >= 0, got -1"),
        ({"steps_bytes": 2**64}, "steps_bytes: expected an integer of 64 bits"),
        ({"steps_bytes": 10}, r"needs lines that steps\.jsonl does not have"),
        ({"step": -20}, "step: expected an integer >= 0, got -20"),
        ({"spent": {"time_s": 1e308, "energy_j": None}}, "spent.time_s: expected a number in"),
    ],
)
def test_a_record_with_impossible_numbers_is_named(writer, change, message) -> None:
    folder = save(writer, 10, 20)
    file = folder / "20" / "checkpoint.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    newest, (damaged,) = find_checkpoint(writer.run)
    assert newest.info.step == 10
    with pytest.raises(RecordsError, match=rf"checkpoints/20.*\n?.*{message}"):
        raise RecordsError(damaged.reason)


def test_a_state_of_another_package_is_skipped(writer) -> None:
    folder = save(writer, 10)
    other = {"param.w": np.zeros(7, np.float32), "more": np.zeros(1)}
    writer.record(STEP, MOMENT)
    writer.save(other, step=20, epoch=0, spent=SPENT, losses=Losses())
    expected = {"param.w": ("float32", (100,)), "count": ("int64", (1,))}
    newest, (damaged,) = find_checkpoint(writer.run, expected=expected)
    assert newest.info.step == 10
    assert damaged.reason == (
        f"{folder / '20'} is damaged: state.safetensors does not fit the package: count: "
        "missing (3 differences)."
    )
    some = writer.run.newest_checkpoint(["param.w"], expected=expected)
    assert (some.info.step, list(some.state)) == (10, ["param.w"])
