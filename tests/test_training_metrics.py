"""Metrics of an engine's steps, and periodic graphs between them."""

from dataclasses import replace

import pytest
from training_fakes import (
    BATCH,
    STEPS,
    FakeEngine,
    FakePictures,
    kinds,
    run_to_the_end,
    stop_after,
)

from edge_runtime.engines import StepResult
from edge_runtime.errors import DivergedError, EngineError, StoppedError
from edge_runtime.package.manifest import PeriodicGraph
from edge_runtime.records import events, open_run
from edge_runtime.records.event_text import event_text
from edge_runtime.report.summary.compare import summarize
from edge_runtime.training.loop import MOST_SKIPPED


def test_every_metric_of_a_step_is_recorded(package, tmp_path) -> None:
    class Odd(FakeEngine):
        def step(self, rung_id, batch, hyper, following=None):
            metrics, applied, _ = super().step(rung_id, batch, hyper)
            return StepResult({**metrics, "entropy": float("inf"), "applied": 1.0}, applied)

    run_to_the_end(package, tmp_path / "run", engine=Odd())
    records = list(open_run(tmp_path / "run").steps())
    assert len(records) == STEPS
    for record in records:
        assert record.metrics.keys() == {"target", "entropy"}
        assert 0 < record.metrics["target"] < 2
        assert record.metrics["entropy"] is None  # JSON has no infinity
        assert record.applied


class Overflowing(FakeEngine):
    """Skips the update of these steps: a loss scale was too large."""

    def __init__(self, *steps: int) -> None:
        super().__init__()
        self._steps = steps

    def step(self, rung_id, batch, hyper, following=None):
        if hyper["step"] in self._steps:
            return StepResult({"loss": float("nan")}, applied=False)
        return super().step(rung_id, batch, hyper)


def test_a_skipped_update_is_recorded_and_is_not_a_divergence(package, tmp_path) -> None:
    with pytest.raises(StoppedError):
        run_to_the_end(package, tmp_path / "run", engine=Overflowing(3), stop=stop_after(4))
    yielded = run_to_the_end(package, tmp_path / "run", resume=True)
    steps = open_run(tmp_path / "run").steps()
    assert [record.step for record in steps if not record.applied] == [3]
    assert [record.step for record in steps if record.loss is None] == [3]
    (first, _) = kinds(yielded, events.EpochFinished)
    losses = [record.loss for record in steps[:5] if record.loss is not None]
    assert first.mean_loss == pytest.approx(sum(losses) / 4)


class SkippingAll(FakeEngine):
    """Skips the updates of all steps but these; their losses are finite."""

    def __init__(self, *applied: int) -> None:
        super().__init__()
        self._applied = applied

    def step(self, rung_id, batch, hyper, following=None):
        metrics, _, loaded = super().step(rung_id, batch, hyper)
        return StepResult(metrics, hyper["step"] in self._applied, loaded)


def test_skipped_steps_are_counted_over_the_whole_run(package, tmp_path) -> None:
    folder = tmp_path / "run"
    engine = Overflowing(2, 3)
    with pytest.raises(StoppedError):
        run_to_the_end(package, folder, engine=engine, stop=stop_after(4))
    yielded = run_to_the_end(package, folder, engine=Overflowing(7), resume=True)
    (finished,) = kinds(yielded, events.Finished)
    assert finished.skipped == 3
    assert "; 3 steps without an update, gradients not finite" in event_text(finished)
    (summary,) = summarize([folder])[0].runs
    assert (summary.totals.skipped_steps, summary.totals.steps) == (3, STEPS)


def test_many_skipped_steps_in_a_row_are_a_divergence(package, tmp_path) -> None:
    """And the checkpoints that they began from are not good; the count survives a resume."""
    half = replace(package, manifest=replace(package.manifest, precision="fp16"))
    folder, last = tmp_path / "run", 3 + MOST_SKIPPED
    often = {"epochs": 20, "checkpoint_every_s": 0.0}
    engine = SkippingAll(1, 2, 3)
    with pytest.raises(StoppedError):
        run_to_the_end(half, folder, engine=engine, stop=stop_after(10), **often)
    engine = SkippingAll(1, 2, 3)
    with pytest.raises(DivergedError) as caught:
        run_to_the_end(half, folder, engine=engine, resume=True, **often)
    assert f"the gradients of {MOST_SKIPPED} steps in a row were not finite" in str(
        caught.value
    )
    assert "a longer warm-up, or with --precision fp32" in str(caught.value)
    run = open_run(folder)
    assert [record.step for record in run.steps()][-1] == last
    (diverged,) = [e.event for e in run.events() if isinstance(e.event, events.Diverged)]
    assert diverged.step == 4
    assert not list((folder / "checkpoints").glob("[0-9]*[0-9]"))  # all are set aside


def test_one_applied_step_in_between_is_enough(package, tmp_path) -> None:
    engine = SkippingAll(MOST_SKIPPED)  # 31 skipped steps, twice
    steps = 2 * MOST_SKIPPED - 1
    source = FakePictures(steps * BATCH)
    yielded = run_to_the_end(package, tmp_path / "run", source, engine=engine, epochs=1)
    (finished,) = kinds(yielded, events.Finished)
    assert (finished.steps, finished.skipped) == (steps, steps - 1)


def test_an_epoch_without_a_loss_is_a_divergence(package, tmp_path) -> None:
    with pytest.raises(DivergedError, match="no step of epoch 1 had a finite loss"):
        run_to_the_end(package, tmp_path / "run", engine=Overflowing(1, 2, 3, 4, 5))


def with_masks(package):
    """The package with a periodic graph after every fourth step."""
    periodic = (PeriodicGraph(graph="mask.onnx", every_steps=4),)
    return replace(package, manifest=replace(package.manifest, periodic=periodic))


def test_a_state_between_two_steps_is_not_saved(package, tmp_path) -> None:
    class Failing(FakeEngine):
        def run_periodic(self, graph, hyper):
            raise EngineError("engine fake: no masks")

    with pytest.raises(EngineError, match="no masks"):
        run_to_the_end(with_masks(package), tmp_path / "run", engine=Failing())
    run = open_run(tmp_path / "run")
    assert [record.step for record in run.steps()] == [1, 2, 3]
    # The state of step 4 without its masks is that of no step.
    assert list((tmp_path / "run" / "checkpoints").glob("*")) == []


def test_periodic_graphs_run_at_their_interval(package, tmp_path) -> None:
    ran = []

    class Periodic(FakeEngine):
        def step(self, rung_id, batch, hyper, following=None):
            ran.append(int(hyper["step"]))
            return super().step(rung_id, batch, hyper)

        def run_periodic(self, graph, hyper):
            ran.append((graph, int(hyper["step"])))

    masked = with_masks(package)
    run_to_the_end(masked, tmp_path / "run", engine=Periodic(), epochs=2)
    assert ran == [1, 2, 3, 4, ("mask.onnx", 4), 5, 6, 7, 8, ("mask.onnx", 8), 9, 10]
