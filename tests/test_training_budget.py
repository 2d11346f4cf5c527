"""Runs within a budget: planned, governed, ended in time, all spending counted."""

import itertools
import time
from dataclasses import replace

import pytest
from training_fakes import (
    FakeEngine,
    FakePictures,
    FullGpu,
    kinds,
    options,
    run_to_the_end,
    stop_after,
)

from edge_runtime.device import ReplaySensor
from edge_runtime.errors import (
    BudgetError,
    ConfigError,
    DeviceError,
    EncoderMemoryError,
    NoMemoryError,
    SensorError,
    StoppedError,
)
from edge_runtime.facts import Budget, CostProfile, RungCost
from edge_runtime.records import events, open_run
from edge_runtime.training import Metering, train

STEP_S = 0.01
POWER_W = 10.0
CONSTANT = ((0.0, {"VDD_IN": POWER_W}),)


class SlowEngine(FakeEngine):
    """Steps take the time in `profile`, or `slower` times that."""

    def __init__(self, slower: float = 1.0) -> None:
        super().__init__()
        self._slower = slower

    def step(self, rung_id, batch, hyper, following=None):
        time.sleep(self._slower * STEP_S * (1.0 if rung_id == "k100" else 0.5))
        return super().step(rung_id, batch, hyper)


def cost(rung: str, token_blocks: int, step_s: float, step_j: float | None) -> RungCost:
    return RungCost(
        rung=rung,
        token_blocks=token_blocks,
        flops=token_blocks,
        step_s=step_s,
        step_s_low=step_s,
        step_s_high=step_s,
        step_j=step_j,
        power_w=None if step_j is None else step_j / step_s,
        peak_bytes=1 << 20,
        predicted_peak_bytes=None,
        source="measured",
    )


def profile(step_s: float = STEP_S, power_w: float | None = POWER_W) -> CostProfile:
    """The large rung takes `step_s`, the small one half of it."""

    def of(rung: str, tokens: int, share: float) -> RungCost:
        step_j = None if power_w is None else share * step_s * power_w
        return cost(rung, tokens, share * step_s, step_j)

    return CostProfile(
        format=1,
        created_at="2030-01-01T00:00:00.000+00:00",
        package_digest="ab" * 32,
        board="fake",
        power_mode=None,
        engine="fake",
        runtime="numpy",
        threads=None,
        sensor="replay",
        energy_is_estimate=False,
        idle_w=2.0,
        baseline_bytes=1 << 20,
        startup_s=0.01,
        switch_s=0.0,
        checkpoint_s=0.01,
        checkpoint_j=0.1,
        rungs=(of("k100", 80, 1.0), of("k050", 48, 0.5)),
    )


def sensor(trace=CONSTANT) -> ReplaySensor:
    return ReplaySensor(trace, total=["VDD_IN"])


def train_within(package, folder, budget, *, slower=1.0, epochs=20, trace=CONSTANT, **changes):
    """All events of a governed run; 5 steps per epoch."""
    given = {
        "engine": SlowEngine(slower),
        "rungs": None,
        "profile": profile(),
        "budget": budget,
        "epochs": epochs,
    }
    with Metering(sensor(trace)) as metering:
        asked = options(**given | {"metering": metering} | changes)
        return list(train(package, FakePictures(), folder, asked))


def test_pauses_are_reported_and_count_for_the_step_after_them(package, tmp_path) -> None:
    """More than the limit at first: only waiting lowers the mean."""
    trace = [(0.0, {"VDD_IN": 10.0}), (0.4, {"VDD_IN": 2.0})]
    yielded = train_within(package, tmp_path / "run", Budget(power_w=8.0), trace=trace)
    (paused, *_) = kinds(yielded, events.Paused)
    assert "--power 8W" in paused.reason
    paused_s = sum(step.measured.pause_s for step in kinds(yielded, events.StepRecord))
    (finished,) = kinds(yielded, events.Finished)
    assert 0.2 < paused_s < finished.elapsed_s


def test_a_run_with_a_large_budget_trains_only_the_best_rung(package, tmp_path) -> None:
    yielded = train_within(package, tmp_path / "run", Budget(time_s=60))
    (planned,) = kinds(yielded, events.Planned)
    assert yielded.index(planned) == 1
    assert planned.budget.time_s == 60
    assert [(s.rung, s.steps) for s in planned.plan.segments] == [("k100", 100)]
    assert {step.rung for step in kinds(yielded, events.StepRecord)} == {"k100"}
    finished = yielded[-1]
    assert (finished.stopped_by, finished.epochs, finished.steps) == (None, 20.0, 100)
    assert finished.spent.lost_s == 0
    assert not finished.spent.energy_is_estimate


def test_spent_joules_are_power_times_time(package, tmp_path) -> None:
    finished = train_within(package, tmp_path / "run", Budget(time_s=60))[-1]
    assert finished.spent.time_s >= 100 * STEP_S
    # The sensor reads the same all the time, also before its first reading.
    assert finished.spent.energy_j == pytest.approx(POWER_W * finished.spent.time_s, rel=0.05)


def test_every_record_has_its_time(package, tmp_path) -> None:
    with Metering(sensor()) as metering, pytest.raises(StoppedError):
        run_to_the_end(package, tmp_path / "run", metering=metering, stop=stop_after(4))
    with Metering(sensor()) as metering:
        run_to_the_end(package, tmp_path / "run", metering=metering, resume=True)
    run = open_run(tmp_path / "run")
    for timed in (
        [logged.moment for logged in run.events()],
        [record.measured for record in run.steps()],
        run.power(),
    ):
        order = [(one.process, one.t_s) for one in timed]
        assert order == sorted(order)
        assert {process for process, _ in order} == {1, 2}
        assert all(0 <= t_s < 60 for _, t_s in order)


def test_a_stopped_run_ends_its_window(package, tmp_path) -> None:
    with Metering(sensor()) as metering, pytest.raises(StoppedError):
        run_to_the_end(package, tmp_path / "run", metering=metering, stop=stop_after(4))
    run = open_run(tmp_path / "run")
    (window,) = kinds([one.event for one in run.events()], events.WindowEnded)
    first, last = run.steps()[0].measured, run.steps()[-1].measured
    start_s = window.window.start_s  # by the clock of the steps
    assert 0 <= start_s <= first.t_s - first.step_s
    assert start_s + window.window.duration_s >= last.t_s


def test_less_time_means_fewer_tokens_first(package, tmp_path) -> None:
    yielded = train_within(package, tmp_path / "run", Budget(time_s=2.6), epochs=60)
    steps = kinds(yielded, events.StepRecord)
    assert steps[0].rung == "k050"
    changes = kinds(yielded, events.RungChanged)
    assert changes[0].step == 1
    assert all(change.reason for change in changes)
    # All on k100 would take more than 3 s. The margin is for a busy machine.
    assert yielded[-1].spent.time_s < 2.8
    assert open_run(tmp_path / "run").info.settings.rungs is None


def test_the_steps_are_a_schedule_that_gives_the_same_result(package, tmp_path) -> None:
    budget = Budget(time_s=3.2)
    with pytest.raises(StoppedError):
        train_within(package, tmp_path / "run", budget, epochs=60, stop=stop_after(30))
    newest = tmp_path / "run" / "checkpoints" / "30"
    newest.rename(newest.with_name(".30-cut"))  # all steps are lost; their events stay
    train_within(package, tmp_path / "run", budget, epochs=60, resume=True)
    steps = open_run(tmp_path / "run").steps()
    before = [None, *(step.rung for step in steps)]
    taken = [
        (step.step, step.rung)
        for step, last in zip(steps, before, strict=False)
        if step.rung != last
    ]
    again = run_to_the_end(package, tmp_path / "again", rungs=taken, epochs=60)
    losses = [step.loss for step in kinds(again, events.StepRecord)]
    assert losses[: len(steps)] == [step.loss for step in steps]


def test_a_budget_used_up_before_the_first_step_finishes_the_run(package, tmp_path) -> None:
    class Slow(FakeEngine):
        """Loading it takes the time that the plan has for the steps."""

        def open(self, package, state):
            time.sleep(1.2)
            super().open(package, state)

    finished = train_within(package, tmp_path / "run", Budget(time_s=1.1), engine=Slow())[-1]
    assert (finished.stopped_by, finished.steps) == ("time", 0)
    assert (finished.loss, finished.checkpoint, finished.images_per_s) == (None, None, None)
    assert open_run(tmp_path / "run").events()[-1].event == finished


@pytest.mark.parametrize(
    ("budget", "limit", "most"),
    [(Budget(time_s=1.0), "time", 1.0), (Budget(energy_j=10.0), "energy", 1.0)],
)
def test_a_used_up_budget_finishes_the_run(package, tmp_path, budget, limit, most) -> None:
    # Every step takes three times the measured time: the plan fails.
    yielded = train_within(package, tmp_path / "run", budget, slower=3.0)
    finished = yielded[-1]
    assert finished.stopped_by == limit
    assert finished.spent.time_s < most + 0.2  # of 3 s; the margin is for a busy machine
    assert 0 < finished.steps < 100
    assert finished.epochs == pytest.approx(finished.steps / 5)
    run = open_run(tmp_path / "run")
    assert run.newest_checkpoint().info.step == finished.steps
    assert len(run.steps()) == finished.steps


def test_a_run_that_its_budget_ended_continues_with_a_larger_one(package, tmp_path) -> None:
    first = train_within(package, tmp_path / "run", Budget(time_s=1.0), slower=3.0)[-1]
    yielded = train_within(package, tmp_path / "run", Budget(time_s=60), resume=True)
    assert yielded[0].step == first.steps
    finished = yielded[-1]
    assert (finished.stopped_by, finished.steps) == (None, 100)
    # The first process's time counts.
    assert finished.spent.time_s > first.spent.time_s
    assert finished.spent.energy_j > first.spent.energy_j
    again = train_within(package, tmp_path / "run", Budget(time_s=60), resume=True)
    assert again == [finished]


def test_work_that_is_lost_is_counted(package, tmp_path) -> None:
    with pytest.raises(StoppedError):
        train_within(package, tmp_path / "run", Budget(time_s=60), stop=stop_after(10))
    # A power cut takes the checkpoint and what followed an earlier one: here, all of it.
    run = open_run(tmp_path / "run")
    samples = run.power()
    newest = tmp_path / "run" / "checkpoints" / "10"
    newest.rename(newest.with_name(".10-cut"))
    yielded = train_within(package, tmp_path / "run", Budget(time_s=60), resume=True)
    resumed, finished = yielded[0], yielded[-1]
    assert (resumed.step, resumed.lost_steps) == (0, 10)
    assert resumed.lost_s == pytest.approx(samples[-1].t_s)
    assert resumed.lost_j == pytest.approx(POWER_W * samples[-1].t_s, rel=0.05)
    assert (finished.spent.lost_s, finished.spent.lost_j) == (resumed.lost_s, resumed.lost_j)
    processes = [sample.process for sample in run.power()]
    assert sorted(set(processes)) == [1, 2]
    assert run.power()[: len(samples)] == samples


def test_an_infeasible_budget_is_refused_before_the_start(package, tmp_path) -> None:
    with pytest.raises(BudgetError, match=r"--time"):
        train_within(package, tmp_path / "run", Budget(time_s=0.2))
    assert not (tmp_path / "run").exists()


def test_energy_without_a_sensor_is_refused(package, tmp_path) -> None:
    with pytest.raises(DeviceError, match="energy"):
        train_within(
            package, tmp_path / "run", Budget(energy_j=1e6), profile=profile(power_w=None)
        )
    assert not (tmp_path / "run").exists()


def test_a_budget_needs_costs(package, tmp_path) -> None:
    with pytest.raises(ConfigError, match="needs a cost profile"):
        train_within(package, tmp_path / "run", Budget(time_s=60), profile=None)


class Flaky(ReplaySensor):
    """Fails from one reading to another."""

    def __init__(self, gone: range) -> None:
        super().__init__([(0.0, {"VDD_IN": POWER_W})], total=["VDD_IN"])
        self._readings, self._gone = itertools.count(), gone

    def read(self):
        if next(self._readings) in self._gone:
            raise SensorError("the cable is out")
        return super().read()


def test_a_lost_sensor_is_reported_and_the_run_continues(package, tmp_path) -> None:
    with Metering(Flaky(range(3, 4))) as metering:
        asked = options(
            engine=SlowEngine(), rungs=((1, "k100"),), epochs=50, metering=metering
        )
        yielded = list(train(package, FakePictures(), tmp_path / "run", asked))
    (lost,) = kinds(yielded, events.SensorLost)
    assert (lost.sensor, lost.reason) == ("replay", "the cable is out")
    (back,) = kinds(yielded, events.SensorBack)
    assert back.gap_s > 0.5
    assert yielded[-1].steps == 250
    assert yielded[-1].spent.energy_j == pytest.approx(
        POWER_W * yielded[-1].spent.time_s, rel=0.1
    )


def with_predictions(k100: int, k050: int) -> CostProfile:
    known, sizes = profile(), {"k100": k100, "k050": k050}
    rungs = [replace(each, predicted_peak_bytes=sizes[each.rung]) for each in known.rungs]
    return replace(known, rungs=tuple(rungs))


def test_where_memory_runs_out_a_smaller_rung_goes_on(package, tmp_path) -> None:
    """The step is repeated with its pictures, from the state before it: nothing is lost."""
    found = train_within(
        package,
        tmp_path / "run",
        Budget(time_s=3600),
        epochs=2,
        engine=FullGpu("k100"),
        profile=with_predictions(2000, 1000),
    )
    steps = kinds(found, events.StepRecord)
    assert [step.rung for step in steps] == 5 * ["k100"] + 5 * ["k050"]
    _, change = kinds(found, events.RungChanged)
    assert (change.step, change.rung) == (6, "k050")
    assert "no memory for k100" in change.reason
    schedule = {"rungs": ((1, "k100"), (6, "k050")), "epochs": 2}
    again = list(train(package, FakePictures(), tmp_path / "again", options(**schedule)))
    losses = [step.loss for step in kinds(again, events.StepRecord)]
    assert [step.loss for step in steps] == losses


def test_no_rung_is_excluded_for_its_encoder(package, tmp_path) -> None:
    """A smaller rung has the same one."""

    class FullEncoder(FakeEngine):
        def step(self, rung_id, batch, hyper, following=None):
            if hyper["step"] == 6 and rung_id == "k100":
                raise EncoderMemoryError("no memory for the teacher", "cpu")
            return super().step(rung_id, batch, hyper)

    given = {"engine": FullEncoder(), "profile": with_predictions(2000, 1000), "epochs": 2}
    with pytest.raises(EncoderMemoryError, match="no memory for the teacher"):
        train_within(package, tmp_path / "run", Budget(time_s=3600), **given)
    run = open_run(tmp_path / "run")
    assert {step.rung for step in run.steps()} == {"k100"}
    assert run.newest_checkpoint().info.step == 5


@pytest.mark.parametrize(
    ("full", "sizes"), [(["k100", "k050"], (2000, 1000)), (["k100"], (1000, 1000))]
)
def test_where_no_smaller_rung_fits_the_run_ends(package, tmp_path, full, sizes) -> None:
    given = {"engine": FullGpu(*full), "profile": with_predictions(*sizes), "epochs": 2}
    with pytest.raises(NoMemoryError, match=f"no memory for {full[-1]}"):
        train_within(package, tmp_path / "run", Budget(time_s=3600), **given)
    run = open_run(tmp_path / "run")
    assert run.newest_checkpoint().info.step == 5
