"""Time and energy of a run by stage, by rung, by rail and by process. Seconds and joules."""

import math
from dataclasses import replace

import numpy as np

from edge_runtime.records.events import CheckpointSaved
from edge_runtime.report.summary.loader import Array, RunRecords
from edge_runtime.report.summary.model import ProcessUse, RailUse, RungUse, StageUse
from edge_runtime.report.summary.timeline import Process, Timeline, total

STEP, WAIT, PAUSE, CHECKPOINT = "step", "waiting for input", "pause", "checkpoint"
START_UP, OTHER, LOST = "start-up", "other", "lost work"
STAGES = (START_UP, STEP, WAIT, PAUSE, CHECKPOINT, OTHER, LOST)

MEAN_OVER_S = 2.0  # joules of a step are only given as a mean over this long


def stages_of(records: RunRecords, timeline: Timeline) -> tuple[StageUse, ...]:
    """Every moment of every process belongs to one stage; `OTHER` is the rest."""
    spans = [(process, _spans(records, process)) for process in timeline.processes]
    time_s = {
        name: math.fsum(float(np.sum(found[name][1] - found[name][0])) for _, found in spans)
        for name in STAGES
        if name != OTHER
    }
    time_s[OTHER] = max(0.0, timeline.duration_s - math.fsum(time_s.values()))
    gross_j = timeline.gross_j
    stage_j: dict[str, float | None] = dict.fromkeys(STAGES)
    if gross_j is not None:
        for name in time_s.keys() - {OTHER}:
            stage_j[name] = math.fsum(
                float(np.sum(process.power.between_j(*found[name])))
                for process, found in spans
                if process.power
            )
        stage_j[OTHER] = gross_j - math.fsum(joules or 0.0 for joules in stage_j.values())
    idle_w, duration_s = records.run.info.idle_w, timeline.duration_s
    return tuple(
        _stage(name, time_s[name], stage_j[name], idle_w, duration_s) for name in STAGES
    )


def _stage(
    name: str, time_s: float, gross_j: float | None, idle_w: float | None, duration_s: float
) -> StageUse:
    idle_j = None if idle_w is None else idle_w * time_s
    return StageUse(
        stage=name,
        time_s=time_s,
        share=time_s / duration_s if duration_s else None,
        gross_j=gross_j,
        idle_j=idle_j,
        net_j=None if gross_j is None or idle_j is None else gross_j - idle_j,
    )


def _spans(records: RunRecords, process: Process) -> dict[str, tuple[Array, Array]]:
    """Begins and ends of all stages of a process but the rest, in its seconds."""
    steps = process.steps
    saves = [
        (moment.t_s - event.save_s, moment.t_s)
        for _, moment, event in records.events
        if isinstance(event, CheckpointSaved)
        and moment is not None
        and moment.process == process.number
        and moment.t_s <= process.kept_s
    ]
    ready_s = steps.t_s - steps.step_s
    asked_s = steps.began_s - steps.pause_s
    started_s = min([*asked_s[:1], process.kept_s])
    begin_saves_s, end_saves_s = np.array(saves, dtype="float64").reshape(-1, 2).T
    return {
        START_UP: (np.array([0.0]), np.array([started_s])),
        PAUSE: (asked_s, steps.began_s),
        WAIT: (steps.began_s, ready_s),
        STEP: (ready_s, steps.t_s),
        CHECKPOINT: (begin_saves_s, end_saves_s),
        LOST: (np.array([process.kept_s]), np.array([process.duration_s])),
    }


def rungs_of(records: RunRecords, timeline: Timeline) -> tuple[RungUse, ...]:
    """The rungs that were trained, and those that the profile or the package know."""
    profile, manifest = records.run.info.profile, records.manifest
    names = [*records.steps.rungs]
    names += [cost.rung for cost in profile.rungs] if profile else []
    names += [rung.id for rung in manifest.rungs] if manifest else []
    rungs = [_rung(records, timeline, name) for name in dict.fromkeys(names)]
    rungs.sort(key=lambda rung: (-(rung.keep_ratio or 0.0), rung.rung))
    return tuple(
        replace(rung, dominated_by=next((o.rung for o in rungs if _dominates(o, rung)), None))
        for rung in rungs
    )


def _rung(records: RunRecords, timeline: Timeline, name: str) -> RungUse:
    steps, profile = records.steps, records.run.info.profile
    code = steps.rungs.index(name) if name in steps.rungs else -1
    mine = steps.rung == code
    count, images = int(np.sum(mine)), int(np.sum(steps.images[mine]))
    time_s = float(np.sum(steps.step_s[mine] + steps.wait_s[mine]))
    gross_j, means = _energy_of(timeline, code) if count else (0.0, {})
    cost = (
        next((cost for cost in profile.rungs if cost.rung == name), None) if profile else None
    )
    return RungUse(
        rung=name,
        keep_ratio=float(steps.keep_ratio[mine][0]) if count else _keep_ratio(records, name),
        steps=count,
        images=images,
        time_s=time_s,
        gross_j=gross_j,
        step_s=time_s / count if count else None,
        step_j=means.get("step_j"),
        mean_w=means.get("mean_w"),
        seconds_per_image=time_s / images if images else None,
        energy_per_image_j=means.get("energy_per_image_j"),
        peak_bytes=None if (peak := highest(steps.rss_bytes[mine])) is None else int(peak),
        token_blocks=cost.token_blocks if cost else None,
        profile_step_s=cost.step_s if cost else None,
        profile_step_j=cost.step_j if cost else None,
        profile_peak_bytes=cost.likely_peak_bytes if cost else None,
        profile_source=cost.source if cost else None,
        profile_is_estimate=profile.energy_is_estimate if profile and cost else None,
        dominated_by=None,
    )


def _keep_ratio(records: RunRecords, name: str) -> float | None:
    """Of a rung that was not trained, as its package says."""
    rungs = records.manifest.rungs if records.manifest else ()
    return next((rung.keep_ratio for rung in rungs if rung.id == name), None)


def _energy_of(timeline: Timeline, code: int) -> tuple[float | None, dict[str, float]]:
    """Joules of the steps of a rung; means of those steps whose power is known long enough."""
    joules: list[float | None] = []
    covered_s, covered_steps, covered_images = 0.0, 0, 0
    for process in timeline.processes:
        if code not in process.steps.rung:
            continue
        steps, steps_j = process.measured_steps(code)
        joules.append(float(np.sum(steps_j)) if process.power else None)
        covered_s += float(np.sum(steps.t_s - steps.began_s))
        covered_steps += len(steps.t_s)
        covered_images += int(np.sum(steps.images))
    gross_j = total(joules)
    if gross_j is None or covered_s < MEAN_OVER_S:
        return gross_j, {}
    return gross_j, {
        "step_j": gross_j / covered_steps,
        "mean_w": gross_j / covered_s,
        "energy_per_image_j": gross_j / covered_images,
    }


def _dominates(other: RungUse, rung: RungUse) -> bool:
    """Whether it keeps at least as much, costs no more of anything, and less of something."""
    if other.token_blocks is None or rung.token_blocks is None:
        return False
    # In the run, or where one of them was not trained as the profile says of both.
    prefix = "" if other.steps and rung.steps else "profile_"
    costs = [
        (getattr(other, prefix + name), getattr(rung, prefix + name))
        for name in ("step_s", "step_j", "peak_bytes")
    ]
    known = [pair for pair in costs if None not in pair]
    if len(known) < 2 or other.token_blocks < rung.token_blocks:
        return False
    return all(a <= b for a, b in known) and any(a < b for a, b in known)


def rails_of(records: RunRecords, timeline: Timeline) -> tuple[RailUse, ...]:
    """What every rail took: trapezoids, as only the total is recorded as joules."""
    duration_s, uses = timeline.duration_s, []
    for rail, rail_w in records.samples.rails_w.items():
        energy_j = total(
            _rail_j(process.samples.t_s, process.samples.rails_w[rail])
            for process in timeline.processes
        )
        calibration = records.run.info.calibration.get(rail, {})
        use = RailUse(
            rail=rail,
            energy_j=energy_j,
            mean_w=energy_j / duration_s if energy_j is not None and duration_s else None,
            peak_w=highest(rail_w),
            gain=calibration.get("gain"),
            offset_w=calibration.get("offset_w"),
        )
        uses.append(use)
    return tuple(uses)


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


def processes_of(records: RunRecords, timeline: Timeline) -> tuple[ProcessUse, ...]:
    """What every process took."""
    began_at: dict[int, str] = {}
    for at, moment, _ in records.events:
        if moment is not None:
            began_at.setdefault(moment.process, at)
    return tuple(
        ProcessUse(
            process=process.number,
            began_at=began_at.get(process.number),
            begins_s=process.offset_s,
            time_s=process.duration_s,
            gross_j=process.energy_j,
            first_step=int(step[0]) if len(step := process.steps.step) else None,
            last_step=int(step[-1]) if len(step) else None,
            lost_s=process.lost_s,
            lost_j=process.lost_j,
        )
        for process in timeline.processes
    )
