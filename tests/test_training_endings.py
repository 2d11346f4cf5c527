"""Early ends of a run: NaN, no pictures."""

import pytest
from training_fakes import (
    BATCH,
    NEVER_S,
    STEPS,
    FakeEngine,
    FakePictures,
    FullGpu,
    kinds,
    options,
    run_to_the_end,
    stop_after,
)

from edge_runtime.data import UnreadablePicture
from edge_runtime.errors import (
    DataError,
    DivergedError,
    EncoderError,
    EngineError,
    NoMemoryError,
    StoppedError,
)
from edge_runtime.facts import Budget
from edge_runtime.records import events, open_run
from edge_runtime.records.event_text import event_text
from edge_runtime.training import train


def test_a_loss_that_is_not_finite_stops_the_run(package, tmp_path) -> None:
    with pytest.raises(StoppedError):
        run_to_the_end(package, tmp_path / "run", stop=stop_after(3))
    broken = FakeEngine(broken_loss_at=6)
    with pytest.raises(DivergedError, match=r"loss of step 6 is nan\..*checkpoints/3\. ") as e:
        run_to_the_end(package, tmp_path / "run", engine=broken, resume=True)
    assert e.value.exit_code == 8
    run = open_run(tmp_path / "run")
    assert run.events()[-1].event.checkpoint == "checkpoints/3"
    assert len(run.steps()) == 5
    assert run.newest_checkpoint().info.step == 3


def test_a_state_that_gives_nan_is_not_the_last_good_one(package, tmp_path) -> None:
    """Saved after every step: step 6 failed on the checkpoint of step 5."""
    broken = FakeEngine(broken_loss_at=6)
    with pytest.raises(DivergedError, match=r"last good checkpoint is .*checkpoints/4\. "):
        run_to_the_end(package, tmp_path / "run", engine=broken, checkpoint_every_s=0)
    assert open_run(tmp_path / "run").newest_checkpoint().info.step == 4


@pytest.mark.parametrize("every_s", [0, NEVER_S])
def test_a_state_with_nan_is_never_saved(package, tmp_path, every_s) -> None:
    """The last step breaks the state: no later loss would show it."""
    broken = FakeEngine(broken_state_at=STEPS)
    kept = r"checkpoints/9\." if every_s == 0 else r"No checkpoint was saved"
    message = rf"diverged: param\.w contains NaN or infinity after step 10\. .*{kept}"
    with pytest.raises(DivergedError, match=message):
        run_to_the_end(package, tmp_path / "run", engine=broken, checkpoint_every_s=every_s)
    saved = {path.name for path in (tmp_path / "run" / "checkpoints").iterdir()}
    assert saved == ({"8", "9"} if every_s == 0 else set())


class FailingEngine(FakeEngine):
    """Fails at step 6, and may lose the state."""

    def __init__(self, *, is_whole: bool, error: EngineError | None = None) -> None:
        super().__init__()
        self._is_whole = is_whole
        self._error = error or EngineError("out of memory")
        self._has_failed = False

    def step(self, rung_id, batch, hyper, following=None):
        if hyper["step"] == 6:
            self._has_failed = True
            raise self._error
        return super().step(rung_id, batch, hyper)

    def state_view(self):
        if self._has_failed and not self._is_whole:
            raise EngineError("it failed in the middle of a step")
        return super().state_view()


@pytest.mark.parametrize(("is_whole", "kept"), [(True, ["5"]), (False, [])])
def test_a_failing_engine_loses_no_complete_step(package, tmp_path, is_whole, kept) -> None:
    engine = FailingEngine(is_whole=is_whole)
    with pytest.raises(EngineError, match="out of memory") as caught:
        run_to_the_end(package, tmp_path / "run", engine=engine)
    assert caught.value.exit_code == 5
    assert [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()] == kept
    yielded = run_to_the_end(package, tmp_path / "run", resume=True)
    assert isinstance(yielded[-1], events.Finished)


class DyingCamera:
    """Gives some frames, then disappears."""

    name = "camera:9"

    def __init__(self, frames: int) -> None:
        self._frames = frames

    def frames(self):
        for number in range(self._frames):
            yield FakePictures().read(number)
        raise DataError("camera:9 was unplugged")


def test_a_lost_camera_ends_with_a_checkpoint(package, tmp_path) -> None:
    def run(source, **changes):
        folder = tmp_path / "run"
        return run_to_the_end(package, folder, source, images_per_epoch=5 * BATCH, **changes)

    with pytest.raises(DataError, match="camera:9 was unplugged") as caught:
        run(DyingCamera(7 * BATCH))
    assert caught.value.exit_code == 6
    lost = open_run(tmp_path / "run").events()[-1].event
    assert isinstance(lost, events.SourceLost)
    assert lost.step > 0
    assert lost.checkpoint == f"checkpoints/{lost.step}"
    assert "unplugged" in lost.reason
    assert open_run(tmp_path / "run").newest_checkpoint().info.step == lost.step
    yielded = run(DyingCamera(1000), resume=True)
    assert yielded[0].step == lost.step
    assert isinstance(yielded[-1], events.Finished)


class NoPictures(FakePictures):
    """None of them can be read."""

    def read(self, index):
        raise UnreadablePicture("cut short")


@pytest.mark.parametrize("source", [NoPictures(), DyingCamera(0)])
def test_a_run_without_a_first_picture_leaves_no_folder(package, tmp_path, source) -> None:
    """The same command works when the pictures are repaired, or the camera is connected."""
    changes = {"images_per_epoch": 5 * BATCH} if isinstance(source, DyingCamera) else {}
    with pytest.raises(DataError, match=r"cannot be read|was unplugged"):
        run_to_the_end(package, tmp_path / "run", source, **changes)
    assert not (tmp_path / "run").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["package"]
    yielded = run_to_the_end(package, tmp_path / "run")
    assert isinstance(yielded[-1], events.Finished)


def test_a_run_that_has_steps_keeps_its_folder_when_it_fails_again(package, tmp_path) -> None:
    with pytest.raises(StoppedError):
        run_to_the_end(package, tmp_path / "run", stop=stop_after(3))
    with pytest.raises(DataError, match="cannot be read"):
        run_to_the_end(package, tmp_path / "run", NoPictures(), resume=True)
    assert open_run(tmp_path / "run").newest_checkpoint().info.step == 3


class PartlyUnreadable(FakePictures):
    """Of every `one_in` pictures, one cannot be read."""

    def __init__(self, count: int, *, one_in: int) -> None:
        super().__init__(count)
        self._one_in = one_in

    def read(self, index):
        if index % self._one_in == 3:
            raise UnreadablePicture("cut short")
        return super().read(index)


def test_an_unreadable_picture_is_reported_once(package, tmp_path) -> None:
    yielded = run_to_the_end(package, tmp_path / "run", PartlyUnreadable(40, one_in=40))
    skipped = kinds(yielded, events.PictureSkipped)
    assert [(one.picture, one.reason) for one in skipped] == [("picture-3", "cut short")]
    assert len(open_run(tmp_path / "run").steps()) == 20


def test_too_many_unreadable_pictures_end_the_run_with_a_checkpoint(package, tmp_path) -> None:
    with pytest.raises(DataError, match=r"cannot be read; 5% of 400"):
        run_to_the_end(package, tmp_path / "run", PartlyUnreadable(400, one_in=8))
    run = open_run(tmp_path / "run")
    assert run.newest_checkpoint().info.step == len(run.steps()) > 0


@pytest.mark.parametrize(
    ("changes", "last"),
    [
        ({"stop": stop_after(3)}, events.Interrupted),
        ({"engine": FakeEngine(broken_loss_at=6)}, events.Diverged),
        ({"engine": FailingEngine(is_whole=True)}, events.EngineFailed),
        ({"source": PartlyUnreadable(400, one_in=8)}, events.SourceLost),
    ],
)
def test_every_event_is_yielded_before_the_error(package, tmp_path, changes, last) -> None:
    changes = dict(changes)
    source = changes.pop("source", FakePictures())
    given: list[events.Event] = []
    error = (StoppedError, DivergedError, EngineError, DataError)
    with pytest.raises(error):
        given.extend(train(package, source, tmp_path / "run", options(**changes)))
    run = open_run(tmp_path / "run")
    assert kinds(given, events.StepRecord) == run.steps()
    others = [event for event in given if not isinstance(event, events.StepRecord)]
    assert others == [logged.event for logged in run.events()]
    assert isinstance(others[-1], last)


def test_a_peak_over_the_limit_on_memory_is_said(package, tmp_path) -> None:
    """A run whose last second went over it was just finished."""
    budget = Budget(memory_bytes=1 << 20)  # less than Python
    finished = run_to_the_end(package, tmp_path / "run", budget=budget)[-1]
    assert finished.memory_limit_bytes == 1 << 20 < finished.peak_bytes
    assert "the limit on memory was not kept" in event_text(finished)
    assert "MiB, over --memory 1MiB" in event_text(finished)


def test_the_totals_are_taken_when_the_engine_is_closed(package, tmp_path) -> None:
    engine = FakeEngine()
    closed = {}
    for event in train(package, FakePictures(), tmp_path / "run", options(engine=engine)):
        closed[type(event)] = engine.closed
    assert (closed[events.StepRecord], closed[events.Finished]) == (False, True)


class LostGpu(FailingEngine):
    """A GPU whose driver fails at step 6; what it gives back then is worth nothing."""

    device = "webgpu"

    def __init__(self, error: EngineError | None = None) -> None:
        super().__init__(is_whole=True, error=error)


@pytest.mark.parametrize(("every_s", "kept"), [(0, ["3", "4", "5"]), (NEVER_S, [])])
def test_a_lost_gpu_keeps_the_last_checkpoint(package, tmp_path, every_s, kept) -> None:
    given = {"engine": LostGpu(), "checkpoint_every_s": every_s}
    start = (
        r"continues from .*/checkpoints/5\." if kept else r"continues from the initial state\."
    )
    message = rf"out of memory\. What device webgpu held is lost: --resume {start}"
    with pytest.raises(EngineError, match=message):
        run_to_the_end(package, tmp_path / "run", **given)
    run = open_run(tmp_path / "run")
    assert sorted(path.name for path in (run.path / "checkpoints").iterdir()) == kept[-2:]
    failed = run.events()[-1].event
    assert failed == events.EngineFailed(
        step=5,
        device="webgpu",
        reason="out of memory",
        out_of_memory=False,
        checkpoint="checkpoints/5" if kept else None,
    )
    again = run_to_the_end(package, tmp_path / "run", resume=True)
    whole = run_to_the_end(package, tmp_path / "whole")
    assert losses(again) == losses(whole)[5 if kept else 0 :]


@pytest.mark.parametrize(("encoder", "kept"), [("cpu", ["5"]), ("webgpu", [])])
def test_an_encoder_that_fails_on_the_processor_costs_no_state(
    package, tmp_path, encoder, kept
) -> None:
    """Nothing says that the GPU beside it is lost; on the GPU itself, that does."""
    engine = LostGpu(EncoderError("the teacher failed", encoder))
    message = "the teacher failed" + (r"$" if kept else r"\. What device webgpu held is lost")
    with pytest.raises(EngineError, match=message):
        run_to_the_end(package, tmp_path / "run", engine=engine)
    run = open_run(tmp_path / "run")
    assert [path.name for path in (run.path / "checkpoints").iterdir()] == kept
    failed = run.events()[-1].event
    assert isinstance(failed, events.EngineFailed)
    assert (failed.device, failed.checkpoint) == (encoder, "checkpoints/5" if kept else None)


def losses(found: list[events.Event]) -> list[float | None]:
    return [step.loss for step in kinds(found, events.StepRecord)]


def test_without_a_smaller_rung_missing_memory_ends_the_run(package, tmp_path) -> None:
    """The state is that before the step, also on a GPU."""
    with pytest.raises(NoMemoryError, match="no memory for k100") as caught:
        run_to_the_end(package, tmp_path / "run", engine=FullGpu("k100"))
    assert caught.value.exit_code == 4
    run = open_run(tmp_path / "run")
    assert run.newest_checkpoint().info.step == 5
    ended = run.events()[-1].event
    assert isinstance(ended, events.EngineFailed)
    assert (ended.step, ended.out_of_memory, ended.checkpoint) == (5, True, "checkpoints/5")
    again = run_to_the_end(package, tmp_path / "run", resume=True)
    assert isinstance(again[-1], events.Finished)


@pytest.mark.parametrize("every_s", [0, NEVER_S])
def test_a_gpu_that_is_lost_while_it_is_read_ends_the_run(package, tmp_path, every_s) -> None:
    """Its state is asked for at a checkpoint, and at the end."""

    class Unreadable(FakeEngine):
        device = "webgpu"

        def state_view(self):
            raise EngineError("device lost")

    given = {"engine": Unreadable(), "checkpoint_every_s": every_s}
    with pytest.raises(EngineError, match="What device webgpu held is lost: --resume contin"):
        run_to_the_end(package, tmp_path / "run", **given)
    failed = open_run(tmp_path / "run").events()[-1].event
    assert isinstance(failed, events.EngineFailed)
    assert failed.checkpoint is None
