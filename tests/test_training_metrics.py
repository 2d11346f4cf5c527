"""Metrics of an engine's steps, and periodic graphs between them."""

from dataclasses import replace

import pytest
from training_fakes import STEPS, FakeEngine, kinds, run_to_the_end, stop_after

from edge_runtime.engines import StepResult
from edge_runtime.errors import DivergedError, EngineError, StoppedError
from edge_runtime.package.manifest import PeriodicGraph
from edge_runtime.records import events, open_run


def test_every_metric_of_a_step_is_recorded(package, tmp_path) -> None:
    class Odd(FakeEngine):
        def step(self, rung_id, batch, hyper):
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

    def step(self, rung_id, batch, hyper):
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
        def step(self, rung_id, batch, hyper):
            ran.append(int(hyper["step"]))
            return super().step(rung_id, batch, hyper)

        def run_periodic(self, graph, hyper):
            ran.append((graph, int(hyper["step"])))

    masked = with_masks(package)
    run_to_the_end(masked, tmp_path / "run", engine=Periodic(), epochs=2)
    assert ran == [1, 2, 3, 4, ("mask.onnx", 4), 5, 6, 7, 8, ("mask.onnx", 8), 9, 10]
