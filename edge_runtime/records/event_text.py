"""What an event means, in one line: the same in a terminal, in the panel and in a report."""

from pathlib import Path

from edge_runtime.facts.budget import ENERGY, MEMORY, TIME, over_text
from edge_runtime.facts.devices import CPU
from edge_runtime.facts.plan import steps_text
from edge_runtime.printable import printable
from edge_runtime.records import events
from edge_runtime.records.events import Event, StepRecord
from edge_runtime.units import bytes_text, duration_text, energy_text, temperature_text


def event_text(event: Event, folder: Path = Path()) -> str:
    """One printable line for people; empty for steps and windows. Epochs count from 1 here.

    Args:
        event: what happened.
        folder: where paths of the event begin, as the reader shall see them.
    """
    return printable(_text(event, folder))


def _text(event: Event, folder: Path) -> str:
    match event:
        case events.Started():
            why = f", by --device auto: {event.device_reason}" if event.device_reason else ""
            return f"training {event.steps} steps on {_engine_text(event)}{why}"
        case events.Resumed():
            return (
                f"resuming after step {event.step} of {event.steps} from "
                f"{event.checkpoint or 'the initial state'} on {_engine_text(event)}; "
                f"{event.lost_steps} steps to repeat"
            )
        case events.Planned():
            return _plan_text(event)
        case events.RungChanged():
            why = f": {event.reason}" if event.reason else ""
            ratio = f"keep-ratio {event.keep_ratio:g}"
            return f"from step {event.step} on rung {event.rung}, {ratio}{why}"
        case events.Paused():
            pause = duration_text(event.pause_s)
            return f"pausing before step {event.step + 1}, {pause} at first: {event.reason}"
        case events.SensorLost():
            return f"power sensor {event.sensor} is lost, energy has a gap: {event.reason}"
        case events.SensorBack():
            return f"power sensor {event.sensor} is back after {event.gap_s:.1f} s"
        case events.ReadingRefused():
            return f"a reading of sensor {event.sensor} is not used: {event.reason}"
        case events.ZoneLost() | events.ZoneBack():
            return _zone_text(event)
        case events.FilesLeftOut():
            return f"not read: {event.files}"
        case events.PictureSkipped():
            return f"skipped {event.picture}: {event.reason}"
        case events.CheckpointSaved():
            size, spent = bytes_text(event.size_bytes), duration_text(event.save_s)
            return f"saved {folder / event.checkpoint} ({size} in {spent})"
        case events.CheckpointDamaged():
            return f"skipped {folder / event.checkpoint}: {event.reason}"
        case events.EpochFinished():
            return f"epoch {event.epoch + 1} finished, mean loss {event.mean_loss:.4f}"
        case events.Evaluation():
            return f"the encoder after step {event.step} was evaluated"
        case _:
            return _ending_text(event)


def _engine_text(event: events.Started | events.Resumed) -> str:
    engine = f"{event.engine} ({event.runtime})"
    if event.device == CPU:
        return engine
    return f"{engine} on {device_text(event.device, event.gpu)}"


def device_text(device: str, gpu: str | None) -> str:
    """A device, and the GPU behind it where it is known."""
    return f"{device} ({gpu})" if gpu else device


def _zone_text(event: events.ZoneLost | events.ZoneBack) -> str:
    celsius = event.temperature_c
    value = "" if celsius is None else f", {temperature_text(celsius)}"
    if isinstance(event, events.ZoneBack):
        return f"temperature zone {event.zone} is back after {event.gap_s:.1f} s{value}"
    last = f"{value} at last" if value else ""
    return f"temperature zone {event.zone} is lost{last}: {event.reason}"


def _ending_text(event: Event) -> str:
    match event:
        case events.Interrupted():
            saved = ", state saved" if event.checkpoint else ""
            return f"stopped after step {event.step}, as requested{saved}"
        case events.SourceLost():
            return f"no more pictures after step {event.step}: {event.reason}"
        case events.EngineFailed():
            what = "ran out of memory" if event.out_of_memory else "failed"
            return f"device {event.device} {what} after step {event.step}: {event.reason}"
        case events.LimitUnknown():
            saved = ", state saved" if event.checkpoint else ""
            return (
                f"stopped after step {event.step}: the limit on {event.limit} cannot be "
                f"judged any more: {event.reason}{saved}"
            )
        case events.Diverged():
            return f"diverged: {event.reason}"
        case events.Finished():
            limit, speed = event.stopped_by, event.images_per_s
            why = f" ({event.reason})" if event.reason else ""
            end = f"ended by its {limit} limit{why}" if limit else "finished"
            rate = "" if speed is None else f" ({speed:.1f} images/s)"
            loss = "" if event.loss is None else f", last loss {event.loss:.4f}"
            text = f"{end}: {event.steps} steps, {event.images} images{rate}{loss}"
            if limit in (TIME.name, ENERGY.name):
                text += f"; a larger --{limit} with --resume continues"
            if event.skipped:
                text += f"; {event.skipped} steps without an update, gradients not finite"
            return text + _over_memory_text(event)
        case _:
            return ""


def _over_memory_text(event: events.Finished) -> str:
    peak, limit = event.peak_bytes, event.memory_limit_bytes
    if limit is None or peak <= limit:
        return ""
    return f"; the limit on memory was not kept: {over_text(MEMORY, peak, limit)}"


def _plan_text(event: events.Planned) -> str:
    """Which rungs for how many steps, what they will take, and what keeps it from more."""
    plan, budget = event.plan, event.budget
    steps = steps_text((part.rung, part.steps) for part in plan.segments)
    costs = [duration_text(plan.time_s)]
    if plan.energy_j is not None:
        costs.append(energy_text(plan.energy_j))
    if plan.peak_bytes is not None:
        costs.append(bytes_text(plan.peak_bytes))
    unlimited = "none of the limits" if budget.is_limited else "nothing"
    limits = ", ".join(plan.binding) or unlimited
    refused = "".join(f"; not {name}: {why}" for name, why in event.refused_sets.items())
    return f"plan: {steps}; predicted {', '.join(costs)}; limited by {limits}{refused}"


def loss_text(record: StepRecord) -> str:
    """The loss of a step, and whether its update was skipped."""
    loss = "not finite" if record.loss is None else f"{record.loss:.4f}"
    return loss if record.applied else f"{loss}, update skipped"
