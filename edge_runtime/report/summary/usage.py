"""Time and energy of a run by stage, by rung, by rail and by process. Seconds and joules."""

import math
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from edge_runtime.facts import RungCost
from edge_runtime.records.events import CheckpointSaved
from edge_runtime.report.summary.loader import Array, RunRecords
from edge_runtime.report.summary.model import ProcessUse, RailUse, RungUse, StageUse
from edge_runtime.report.summary.timeline import Timeline
from edge_runtime.report.summary.unknown import highest, minus, ratio, total

STEP, WAIT, PAUSE, CHECKPOINT = "step", "waiting for input", "pause", "checkpoint"
START_UP, OTHER, LOST = "start-up", "other", "lost work"
STAGES = (START_UP, STEP, WAIT, PAUSE, CHECKPOINT, OTHER, LOST)

MEAN_OVER_S = 2.0  # joules of a step are only given as a mean over this long


def stages_of(records: RunRecords, timeline: Timeline) -> Iterator[StageUse]:
    """Every moment of every process belongs to one stage; `OTHER` is the rest."""
    spans, idle_w = _spans(records, timeline), records.run.info.idle_w
    time_s = {name: float(np.sum(end_s - begin_s)) for name, (begin_s, end_s) in spans.items()}
    gross_j = {name: float(np.sum(timeline.between_j(*span))) for name, span in spans.items()}
    time_s[OTHER] = max(0.0, timeline.duration_s - math.fsum(time_s.values()))
    gross_j[OTHER] = (timeline.gross_j or 0.0) - math.fsum(gross_j.values())
    for name in STAGES:
        stage_j = None if timeline.gross_j is None else gross_j[name]
        idle_j = None if idle_w is None else idle_w * time_s[name]
        yield StageUse(
            stage=name,
            time_s=time_s[name],
            share=ratio(time_s[name], timeline.duration_s),
            gross_j=stage_j,
            idle_j=idle_j,
            net_j=minus(stage_j, idle_j),
        )


def _spans(records: RunRecords, timeline: Timeline) -> dict[str, Array]:
    """Begins and ends of all stages but the rest, in the run."""
    steps, processes = records.steps, timeline.processes
    began_s, done_s = timeline.began_s, timeline.done_s
    ready_s, asked_s = done_s - steps["step_s"], began_s - steps["pause_s"]
    starts = [
        (each.begin_s, min([*asked_s[each.steps][:1], each.kept_s])) for each in processes
    ]
    kept_s = {each.number: each.kept_s for each in processes}
    saves = [
        (saved_s - logged.event.save_s, saved_s)
        for logged in records.events
        if isinstance(logged.event, CheckpointSaved) and logged.moment is not None
        if (saved_s := timeline.elapsed_s(logged) or 0.0) <= kept_s[logged.moment.process]
    ]
    losses = [(each.kept_s, each.end_s) for each in processes]
    spans: dict[str, Array] = {
        name: np.array(pairs, dtype="float64").reshape(-1, 2).T
        for name, pairs in {START_UP: starts, CHECKPOINT: saves, LOST: losses}.items()
    }
    times_s = np.array([asked_s, began_s, ready_s, done_s])
    spans |= {name: times_s[i : i + 2] for i, name in enumerate((PAUSE, WAIT, STEP))}
    return spans


def rungs_of(records: RunRecords, timeline: Timeline) -> Iterator[RungUse]:
    """The rungs that were trained, and those that the profile or the package know."""
    profile, manifest = records.run.info.profile, records.manifest
    costs = {cost.rung: cost for cost in profile.rungs} if profile else {}
    ratios = {rung.id: rung.keep_ratio for rung in manifest.rungs} if manifest else {}
    rungs = [
        _rung(records, timeline, name, costs.get(name), ratios.get(name))
        for name in dict.fromkeys([*records.rungs, *costs, *ratios])
    ]
    rungs.sort(key=lambda rung: (-(rung.keep_ratio or 0.0), rung.rung))
    for rung in rungs:
        better = (other.rung for other in rungs if _dominates(other, rung))
        yield replace(rung, dominated_by=next(better, None))


def _rung(
    records: RunRecords,
    timeline: Timeline,
    name: str,
    cost: RungCost | None,
    keep_ratio: float | None,
) -> RungUse:
    """A rung whose cost the profile says, and its keep-ratio the package, if they do."""
    steps, profile = records.steps, records.run.info.profile
    mine = steps["rung"] == (records.rungs.index(name) if name in records.rungs else -1)
    count, images = int(np.sum(mine)), int(np.sum(steps["images"][mine]))
    time_s = float(np.sum(steps["step_s"][mine] + steps["wait_s"][mine]))
    gross_j, means = _energy_of(records, timeline, mine)
    peak_bytes = highest(steps["rss_bytes"][mine])
    return RungUse(
        rung=name,
        keep_ratio=float(steps["keep_ratio"][mine][0]) if count else keep_ratio,
        steps=count,
        images=images,
        time_s=time_s,
        gross_j=gross_j,
        step_s=ratio(time_s, count),
        step_j=means.get("step_j"),
        mean_w=means.get("mean_w"),
        seconds_per_image=ratio(time_s, images),
        energy_per_image_j=means.get("energy_per_image_j"),
        peak_bytes=None if peak_bytes is None else int(peak_bytes),
        token_blocks=cost.token_blocks if cost else None,
        profile_step_s=cost.step_s if cost else None,
        profile_step_j=cost.step_j if cost else None,
        profile_peak_bytes=cost.likely_peak_bytes if cost else None,
        profile_source=cost.source if cost else None,
        profile_is_estimate=profile.energy_is_estimate if profile and cost else None,
        dominated_by=None,
    )


def _energy_of(
    records: RunRecords, timeline: Timeline, mine: Array
) -> tuple[float | None, dict[str, float]]:
    """Joules of some steps, and means of those whose power is known, if for long enough."""
    steps, known = records.steps, mine & timeline.is_measured
    measured = [each.number for each in timeline.processes if each.energy_j is not None]
    if not np.isin(steps["process"][mine], measured).all():
        return None, {}
    took_s = timeline.done_s[known] - timeline.began_s[known]
    gross_j = float(
        np.sum(timeline.between_j(timeline.began_s[known], timeline.done_s[known]))
    )
    if (covered_s := float(np.sum(took_s))) < MEAN_OVER_S:
        return gross_j, {}
    return gross_j, {
        "step_j": gross_j / len(took_s),
        "mean_w": gross_j / covered_s,
        "energy_per_image_j": gross_j / int(np.sum(steps["images"][known])),
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


def rails_of(records: RunRecords, timeline: Timeline) -> Iterator[RailUse]:
    """What every rail took: trapezoids, as only the total is recorded as joules."""
    t_s = records.samples["t_s"]
    for rail, rail_w in records.rails_w.items():
        energy_j = total(
            _rail_j(t_s[each.samples], rail_w[each.samples]) for each in timeline.processes
        )
        calibration = records.run.info.calibration.get(rail, {})
        yield RailUse(
            rail=rail,
            energy_j=energy_j,
            mean_w=ratio(energy_j, timeline.duration_s),
            peak_w=highest(rail_w),
            gain=calibration.get("gain"),
            offset_w=calibration.get("offset_w"),
        )


def _rail_j(t_s: Array, power_w: Array) -> float | None:
    """Of one process; before its first sample at that one's power."""
    known = ~np.isnan(power_w)
    if not known.any():
        return None
    t_s, power_w = t_s[known], power_w[known]
    means_w = (power_w[1:] + power_w[:-1]) / 2
    return float(t_s[0] * power_w[0] + np.sum(np.diff(t_s) * means_w))


def processes_of(records: RunRecords, timeline: Timeline) -> Iterator[ProcessUse]:
    """What every process took."""
    newest_first = reversed(records.events)
    began_at = {logged.moment.process: logged.at for logged in newest_first if logged.moment}
    for process in timeline.processes:
        steps = records.steps["step"][process.steps].tolist()
        lost_j = float(timeline.between_j(process.kept_s, process.end_s))
        yield ProcessUse(
            process=process.number,
            began_at=began_at.get(process.number),
            begins_s=process.begin_s,
            time_s=process.duration_s,
            gross_j=process.energy_j,
            first_step=steps[0] if steps else None,
            last_step=steps[-1] if steps else None,
            lost_s=process.lost_s,
            lost_j=None if process.energy_j is None else lost_j,
        )
