"""One line of text per event, the same wherever it is shown."""

from dataclasses import replace
from pathlib import Path

import pytest
from facts_examples import PLAN, RESULTS, WINDOW
from live_runs import DIVERGED, FINISHED, LOST, RUNG, STARTED, STOPPED, resumed, step

from edge_runtime.facts import Budget
from edge_runtime.facts.plan import steps_text
from edge_runtime.records import events
from edge_runtime.records.event_text import event_text, loss_text
from edge_runtime.records.events import _KINDS

FAILED = events.EngineFailed(
    step=4, device="webgpu", reason="it is lost", out_of_memory=False, checkpoint=None
)

TEXTS = {
    STARTED: "training 10 steps on fake (numpy)",
    resumed(4): "resuming after step 4 of 10 from checkpoints/4 on fake (numpy); "
    "0 steps to repeat",
    RUNG: "from step 1 on rung k100, keep-ratio 1",
    events.RungChanged(step=7, rung="k050", keep_ratio=0.5, reason="less is left"): (
        "from step 7 on rung k050, keep-ratio 0.5: less is left"
    ),
    events.Paused(step=4, pause_s=2.0, reason="7 W are the limit"): (
        "pausing before step 5, 2.00 s at first: 7 W are the limit"
    ),
    events.SensorLost(step=4, sensor="jtop", reason="gone"): (
        "power sensor jtop is lost, energy has a gap: gone"
    ),
    events.SensorBack(
        step=4, sensor="jtop", gap_s=2.0
    ): "power sensor jtop is back after 2.0 s",
    events.ReadingRefused(step=4, sensor="ina3221", reason="VDD_IN: 0.000 W"): (
        "a reading of sensor ina3221 is not used: VDD_IN: 0.000 W"
    ),
    events.LimitUnknown(
        step=4, limit="energy", sensor="ina3221", reason="VDD_IN: 0.000 W", checkpoint="c/4"
    ): (
        "stopped after step 4: the limit on energy cannot be judged any more: "
        "VDD_IN: 0.000 W, state saved"
    ),
    events.ZoneLost(step=4, zone="cpu-thermal", temperature_c=51.5, reason="temp is gone"): (
        "temperature zone cpu-thermal is lost, 51.5 C at last: temp is gone"
    ),
    events.ZoneBack(step=4, zone="cpu-thermal", temperature_c=50.5, gap_s=2.0): (
        "temperature zone cpu-thermal is back after 2.0 s, 50.5 C"
    ),
    events.FilesLeftOut(step=0, files=".heic files: 1 (a.heic)"): (
        "not read: .heic files: 1 (a.heic)"
    ),
    events.PictureSkipped(step=1, picture="a.png", reason="cut"): "skipped a.png: cut",
    events.CheckpointSaved(step=4, checkpoint="checkpoints/4", size_bytes=1024, save_s=0.5): (
        "saved run/checkpoints/4 (1.0 KiB in 0.50 s)"
    ),
    events.CheckpointDamaged(checkpoint="checkpoints/4", reason="cut"): (
        "skipped run/checkpoints/4: cut"
    ),
    events.EpochFinished(step=5, epoch=0, mean_loss=2.5): "epoch 1 finished, mean loss 2.5000",
    STOPPED: "stopped after step 4, as requested, state saved",
    LOST: "no more pictures after step 3: the camera is gone.",
    FAILED: "device webgpu failed after step 4: it is lost",
    replace(FAILED, out_of_memory=True, reason="64 MiB"): (
        "device webgpu ran out of memory after step 4: 64 MiB"
    ),
    replace(STARTED, device="webgpu", gpu="Mali-G610, panvk 25.3"): (
        "training 10 steps on fake (numpy) on webgpu (Mali-G610, panvk 25.3)"
    ),
    replace(STARTED, device="cuda:0", device_reason="3 ms, 9 ms on cpu"): (
        "training 10 steps on fake (numpy) on cuda:0, by --device auto: 3 ms, 9 ms on cpu"
    ),
    replace(resumed(4), device="webgpu", gpu="Mali-G610"): "resuming after step 4 of 10 from "
    "checkpoints/4 on fake (numpy) on webgpu (Mali-G610); 0 steps to repeat",
    DIVERGED: "diverged: the loss of step 5 is nan",
    FINISHED: "finished: 10 steps, 40 images (4.0 images/s), last loss 0.5000",
    replace(FINISHED, memory_limit_bytes=1 << 20): (
        "finished: 10 steps, 40 images (4.0 images/s), last loss 0.5000; the limit on memory "
        "was not kept: 3.0 MiB, over --memory 1MiB"
    ),
    replace(FINISHED, memory_limit_bytes=3 << 20): (
        "finished: 10 steps, 40 images (4.0 images/s), last loss 0.5000"
    ),
}


@pytest.mark.parametrize(("event", "text"), TEXTS.items(), ids=lambda x: type(x).__name__)
def test_an_event_has_one_line(event: events.Event, text: str) -> None:
    assert event_text(event, Path("run")) == text


def test_a_plan_says_its_steps_its_costs_and_its_limits() -> None:
    event = events.Planned(step=0, budget=Budget(), plan=PLAN)
    steps = steps_text((part.rung, part.steps) for part in PLAN.segments)
    assert event_text(event).startswith(f"plan: {steps}; predicted ")
    assert event_text(event).endswith(f"; limited by {', '.join(PLAN.binding) or 'nothing'}")


def test_a_skipped_update_is_said() -> None:
    done = step(1, 1.0)
    assert loss_text(done) == "1.5000"
    assert loss_text(replace(done, applied=False)) == "1.5000, update skipped"
    assert loss_text(replace(done, loss=None, applied=False)) == "not finite, update skipped"


def test_steps_on_rungs_in_words() -> None:
    assert steps_text([("k050", 4), ("k100", 6)]) == "4 steps on k050, then 6 steps on k100"
    assert steps_text([]) == "no steps"


def test_every_kind_of_event_has_its_text() -> None:
    others = [
        step(1, 1.0),
        events.Planned(step=0, budget=Budget(), plan=PLAN),
        events.WindowEnded(step=1, window=WINDOW),
        events.Evaluation(
            step=10, results=RESULTS, spent_s=1.0, energy_j=None, energy_is_estimate=False
        ),
    ]
    silent = {type(event) for event in others if not event_text(event)}
    assert silent == {events.StepRecord, events.WindowEnded}
    assert {*map(type, [*TEXTS, *others])} == {*_KINDS.values()}
