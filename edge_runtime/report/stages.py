"""Time and energy of a run by stage, by rung, by rail and by process. Seconds and joules."""

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from edge_runtime.records.events import CheckpointSaved
from edge_runtime.report.lines import Array
from edge_runtime.report.recorded import Recorded
from edge_runtime.report.summary import ProcessUse, RailUse, RungUse, Stage
from edge_runtime.report.timeline import Process, Timeline

START_UP, STEP, WAIT, PAUSE = "start-up", "step", "waiting for input", "pause"
CHECKPOINT, OTHER, LOST = "checkpoint", "other", "lost work"
STAGES = (START_UP, STEP, WAIT, PAUSE, CHECKPOINT, OTHER, LOST)

MEAN_OVER_S = 2.0  # joules of a step are only told as a mean over this long


def plus(parts: Iterable[float | None]) -> float | None:
    """A sum; unknown if a part is."""
    known = list(parts)
    return None if None in known else math.fsum(part for part in known if part is not None)


def gross_j(timeline: Timeline) -> float | None:
    """Of all processes; unknown if nothing measured one of them, or there is none."""
    if not timeline.processes:
        return None
    return plus(process.energy_j for process in timeline.processes)


def stages_of(recorded: Recorded, timeline: Timeline) -> tuple[Stage, ...]:
    """Every moment of every process belongs to one stage."""
    spans: dict[str, list[tuple[Process, Array, Array]]] = {name: [] for name in STAGES}
    for process in timeline.processes:
        for name, begin_s, end_s in _spans(recorded, process):
            spans[name].append((process, begin_s, end_s))
    time_s = {
        name: math.fsum(float(np.sum(end_s - begin_s)) for _, begin_s, end_s in found)
        for name, found in spans.items()
    }
    total_j = gross_j(timeline)
    energy_j = {name: _energy_j(found) for name, found in spans.items()}
    time_s[OTHER] = max(0.0, timeline.duration_s - math.fsum(time_s.values()))
    if total_j is not None:
        energy_j[OTHER] = total_j - math.fsum(j or 0.0 for j in energy_j.values())
    idle_w, duration_s = recorded.run.info.idle_w, timeline.duration_s
    return tuple(
        _stage(name, time_s[name], energy_j[name] if total_j is not None else None,
               idle_w, duration_s)
        for name in STAGES
    )  # fmt: skip


def _stage(
    name: str, time_s: float, energy_j: float | None, idle_w: float | None, duration_s: float
) -> Stage:
    idle_j = None if idle_w is None else idle_w * time_s
    return Stage(
        stage=name,
        time_s=time_s,
        share=time_s / duration_s if duration_s else None,
        gross_j=energy_j,
        idle_j=idle_j,
        net_j=None if energy_j is None or idle_j is None else energy_j - idle_j,
    )


def _spans(recorded: Recorded, process: Process) -> list[tuple[str, Array, Array]]:
    """Begins and ends of all stages of a process but the rest, in its seconds."""
    steps = recorded.steps
    end_s, step_s = steps.t_s[process.steps], steps.step_s[process.steps]
    began_s, pause_s = steps.began_s[process.steps], steps.pause_s[process.steps]
    saves = [
        (logged.moment.t_s - logged.event.save_s, logged.moment.t_s)
        for logged in recorded.events
        if isinstance(logged.event, CheckpointSaved)
        and logged.moment is not None
        and logged.moment.process == process.number
        and logged.moment.t_s <= process.kept_s
    ]
    ready_s = float(began_s[0] - pause_s[0]) if len(began_s) else process.kept_s
    return [
        (START_UP, np.array([0.0]), np.array([min(ready_s, process.kept_s)])),
        (PAUSE, began_s - pause_s, began_s),
        (WAIT, began_s, end_s - step_s),
        (STEP, end_s - step_s, end_s),
        (CHECKPOINT, *np.array(saves, dtype="float64").reshape(-1, 2).T),
        (LOST, np.array([process.kept_s]), np.array([process.duration_s])),
    ]


def _energy_j(spans: Iterable[tuple[Process, Array, Array]]) -> float | None:
    return plus(
        float(np.sum(process.power.between_j(begin_s, end_s))) if process.power else None
        for process, begin_s, end_s in spans
    )


def rungs_of(recorded: Recorded, timeline: Timeline) -> tuple[RungUse, ...]:
    """The rungs that were trained, and those that the profile or the package know."""
    names = dict.fromkeys(recorded.steps.rungs)
    if recorded.profile is not None:
        names |= dict.fromkeys(cost.rung for cost in recorded.profile.rungs)
    if recorded.manifest is not None:
        names |= dict.fromkeys(rung.id for rung in recorded.manifest.rungs)
    found = [_rung(recorded, timeline, name) for name in names]
    return tuple(sorted(found, key=lambda rung: (-(rung.keep_ratio or 0.0), rung.rung)))


def _rung(recorded: Recorded, timeline: Timeline, name: str) -> RungUse:
    steps = recorded.steps
    code = steps.rungs.index(name) if name in steps.rungs else -1
    mine = steps.rung == code
    count, images = int(np.sum(mine)), int(np.sum(steps.images[mine]))
    time_s = float(np.sum(steps.step_s[mine] + steps.wait_s[mine]))
    energy_j, covered_s, covered_steps, covered_images = _covered(recorded, timeline, mine)
    is_enough = covered_s >= MEAN_OVER_S and energy_j is not None
    mean_j = energy_j if is_enough else None
    rss = steps.rss_bytes[mine & ~np.isnan(steps.rss_bytes)]
    ratios = steps.keep_ratio[mine]
    return RungUse(
        rung=name,
        keep_ratio=float(ratios[0]) if count else _keep_ratio(recorded, name),
        steps=count,
        images=images,
        time_s=time_s,
        gross_j=energy_j if count else 0.0,
        step_s=time_s / count if count else None,
        step_j=None if mean_j is None else mean_j / covered_steps,
        mean_w=None if mean_j is None else mean_j / covered_s,
        seconds_per_image=time_s / images if images else None,
        energy_per_image_j=None if mean_j is None else mean_j / covered_images,
        peak_bytes=int(rss.max()) if len(rss) else None,
        dominated_by=None,
        **_profiled(recorded, name),
    )


def _keep_ratio(recorded: Recorded, name: str) -> float | None:
    """Of a rung that was not trained, as its package says."""
    ladder = recorded.manifest.rungs if recorded.manifest else ()
    return next((rung.keep_ratio for rung in ladder if rung.id == name), None)


def _profiled(recorded: Recorded, name: str) -> dict[str, Any]:
    """What the cost profile says of a rung."""
    profile = recorded.profile
    for cost in profile.rungs if profile else ():
        if profile and cost.rung == name:
            return {
                "token_blocks": cost.token_blocks,
                "profile_step_s": cost.step_s,
                "profile_step_j": cost.step_j,
                "profile_peak_bytes": cost.likely_peak_bytes,
                "profile_source": cost.source,
                "profile_is_estimate": profile.energy_is_estimate,
            }
    fields = ("step_s", "step_j", "peak_bytes", "source", "is_estimate")
    return dict.fromkeys(("token_blocks", *(f"profile_{field}" for field in fields)))


def _covered(
    recorded: Recorded, timeline: Timeline, mine: Array
) -> tuple[float | None, float, int, int]:
    """Joules of some steps; and seconds, number and images of those whose power is known."""
    steps = recorded.steps
    parts: list[float | None] = []
    covered_s, covered_steps, covered_images = 0.0, 0, 0
    for process in timeline.processes:
        chosen = mine[process.steps]
        if not chosen.any():
            continue
        if process.power is None:
            parts.append(None)
            continue
        chosen = chosen & (steps.t_s[process.steps] <= process.power.t_s[-1])
        end_s = steps.t_s[process.steps][chosen]
        began_s = steps.began_s[process.steps][chosen]
        parts.append(float(np.sum(process.power.between_j(began_s, end_s))))
        covered_s += float(np.sum(end_s - began_s))
        covered_steps += len(end_s)
        covered_images += int(np.sum(steps.images[process.steps][chosen]))
    return plus(parts), covered_s, covered_steps, covered_images


def rails_of(recorded: Recorded, timeline: Timeline) -> tuple[RailUse, ...]:
    """What every rail took: trapezoids, as only the total is recorded as joules."""
    found = []
    for rail, rail_w in recorded.samples.rails_w.items():
        parts = [
            _rail_j(recorded.samples.t_s[process.samples], rail_w[process.samples])
            for process in timeline.processes
        ]
        energy_j, duration_s = plus(parts), timeline.duration_s
        calibration = recorded.run.info.calibration.get(rail, {})
        use = RailUse(
            rail=rail,
            energy_j=energy_j,
            mean_w=energy_j / duration_s if energy_j is not None and duration_s else None,
            peak_w=highest(rail_w),
            gain=calibration.get("gain"),
            offset_w=calibration.get("offset_w"),
        )
        found.append(use)
    return tuple(found)


def _rail_j(t_s: Array, power_w: Array) -> float | None:
    """Of one process; before its first sample at that one's power."""
    known = ~np.isnan(power_w)
    if not known.any():
        return None
    t_s, power_w = t_s[known], power_w[known]
    means_w = (power_w[1:] + power_w[:-1]) / 2
    return float(t_s[0] * power_w[0] + np.sum(np.diff(t_s) * means_w))


def highest(values: Array) -> float | None:
    """The largest number, if there is any."""
    known = values[~np.isnan(values)]
    return float(known.max()) if len(known) else None


def processes_of(recorded: Recorded, timeline: Timeline) -> tuple[ProcessUse, ...]:
    """What every process took."""
    began_at: dict[int, str] = {}
    for logged in recorded.events:
        if logged.moment is not None:
            began_at.setdefault(logged.moment.process, logged.at)
    return tuple(
        _process(recorded, process, began_at.get(process.number))
        for process in timeline.processes
    )


def _process(recorded: Recorded, process: Process, began_at: str | None) -> ProcessUse:
    steps = recorded.steps.step[process.steps]
    lost_j = None
    if process.power is not None:
        kept_j = float(process.power.until_j(np.array([process.kept_s]))[0])
        lost_j = process.power.energy_j - kept_j
    return ProcessUse(
        process=process.number,
        began_at=began_at,
        begins_s=process.offset_s,
        time_s=process.duration_s,
        gross_j=process.energy_j,
        first_step=int(steps[0]) if len(steps) else None,
        last_step=int(steps[-1]) if len(steps) else None,
        lost_s=process.duration_s - process.kept_s,
        lost_j=lost_j,
    )
