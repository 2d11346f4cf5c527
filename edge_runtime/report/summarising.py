"""One run, read, into its `RunSummary`. Pure: the same records give the same numbers."""

from dataclasses import replace

import numpy as np

from edge_runtime.facts.budget import LIMITS
from edge_runtime.records import events, has_estimates
from edge_runtime.report.happened import decisions_of, evaluations_of, plan_of, windows_of
from edge_runtime.report.noting import notes_of
from edge_runtime.report.recorded import Recorded
from edge_runtime.report.stages import (
    gross_j,
    highest,
    plus,
    processes_of,
    rails_of,
    rungs_of,
    stages_of,
)
from edge_runtime.report.summary import (
    Conditions,
    LimitUse,
    Metering,
    ProcessUse,
    RungUse,
    RunSummary,
    Totals,
    Trained,
)
from edge_runtime.report.timeline import Timeline

_UNITS = {"memory": "bytes", "energy": "J", "time": "s", "power": "W", "temperature": "C"}
_USED = {
    "memory": "peak_bytes",
    "energy": "gross_j",
    "time": "time_s",
    "power": "mean_w",
    "temperature": "peak_temperature_c",
}


def summarise_run(recorded: Recorded, timeline: Timeline, name: str) -> RunSummary:
    """All numbers of one run."""
    info = recorded.run.info
    processes = processes_of(recorded, timeline)
    totals = _totals(recorded, timeline, processes)
    metering = _metering(recorded, timeline)
    is_incomplete = totals.gross_j is not None and metering.after_s > 0
    summary = RunSummary(
        name=name,
        path=str(recorded.run.path),
        created_at=info.created_at,
        state=_state(recorded),
        energy_is_estimate=has_estimates(info, recorded.events),
        energy_is_incomplete=is_incomplete,
        notes=(),
        trained=_trained(recorded),
        conditions=_conditions(recorded),
        totals=totals,
        metering=metering,
        budget=_budget(recorded, totals, is_incomplete=is_incomplete),
        stages=stages_of(recorded, timeline),
        rungs=_marked(rungs_of(recorded, timeline)),
        rails=rails_of(recorded, timeline),
        processes=processes,
        windows=windows_of(recorded, timeline),
        decisions=decisions_of(recorded, timeline),
        plan=plan_of(recorded, totals),
        evaluations=evaluations_of(recorded),
    )
    return replace(summary, notes=notes_of(recorded, summary))


def _state(recorded: Recorded) -> str:
    """How the last process ended, by the last event that says so."""
    for logged in reversed(recorded.events):
        match logged.event:
            case events.Finished(stopped_by=None):
                return "finished"
            case events.Finished(stopped_by=limit):
                return f"stopped by its {limit} limit"
            case events.Interrupted():
                return "interrupted"
            case events.SourceLost():
                return "out of pictures"
            case events.Diverged():
                return "diverged"
            case events.Evaluation():
                continue
            case _:
                return "unfinished"
    return "unfinished"


def _trained(recorded: Recorded) -> Trained:
    info, manifest = recorded.run.info, recorded.manifest
    model = manifest.model if manifest else None
    return Trained(
        package_digest=info.settings.package_digest,
        package_path=info.package_path,
        method=manifest.method if manifest else None,
        tokens=manifest.token_policy if manifest else None,
        model=model.name if model else None,
        image_size_px=model.image_size_px if model else None,
        patch_size_px=model.patch_size_px if model else None,
        depth=model.depth if model else None,
        width=model.width if model else None,
        source=info.source,
        seed=info.settings.seed,
        batch_size=info.settings.batch_size,
        total_epochs=info.settings.epochs,
        steps_per_epoch=info.steps_per_epoch,
        total_steps=info.total_steps,
    )


def _conditions(recorded: Recorded) -> Conditions:
    info = recorded.run.info
    return Conditions(
        board=info.board,
        power_mode=info.power_mode,
        engine=info.engine,
        threads=info.threads,
        machine=info.machine,
        versions=info.versions,
        sensor=info.sensor,
        power_is_estimate=info.power_is_estimate,
        calibration=info.calibration,
        sample_rate_hz=info.sample_rate_hz,
        idle_w=info.idle_w,
    )


def _totals(
    recorded: Recorded, timeline: Timeline, processes: tuple[ProcessUse, ...]
) -> Totals:
    steps, samples, info = recorded.steps, recorded.samples, recorded.run.info
    time_s, energy_j = timeline.duration_s, gross_j(timeline)
    count, images = len(steps.step), int(steps.images.sum())
    epochs = count / info.steps_per_epoch
    idle_j = None if info.idle_w is None else info.idle_w * time_s
    throttled = highest(samples.throttled)
    recent = steps.loss[-info.steps_per_epoch :]
    return Totals(
        time_s=time_s,
        steps=count,
        epochs=epochs,
        images=images,
        images_per_s=_over(images, time_s),
        gross_j=energy_j,
        idle_j=idle_j,
        net_j=None if energy_j is None or idle_j is None else energy_j - idle_j,
        mean_w=_over(energy_j, time_s),
        peak_w=highest(samples.total_w),
        energy_per_image_j=_over(energy_j, images),
        images_per_j=_over(images, energy_j),
        energy_per_epoch_j=_over(energy_j, epochs),
        peak_bytes=_peak_bytes(recorded),
        peak_temperature_c=highest(samples.temperature_c),
        throttled=None if throttled is None else throttled > 0,
        lost_s=sum(process.lost_s for process in processes),
        lost_j=plus(process.lost_j for process in processes),
        first_loss=float(steps.loss[0]) if count else None,
        last_loss=float(np.mean(recent)) if count else None,
    )


def _over(a: float | None, b: float | None) -> float | None:
    """A quotient; unknown if a part is, or if it is of nothing."""
    return None if a is None or not b else a / b


def _peak_bytes(recorded: Recorded) -> int | None:
    """The highest that processes told at their end, or that their steps saw."""
    told = [
        e.event.peak_bytes for e in recorded.events if isinstance(e.event, events.Finished)
    ]
    seen = highest(recorded.steps.rss_bytes)
    return max([*told, *([] if seen is None else [int(seen)])], default=None)


def _metering(recorded: Recorded, timeline: Timeline) -> Metering:
    samples = recorded.samples
    gaps_s: list[float] = []
    before_s = after_s = long_s = span_s = 0.0
    for process in timeline.processes:
        if process.power is None:
            continue
        t_s = process.power.t_s
        before_s += _if_gap(float(t_s[0]), timeline.gap_s)
        after_s += _if_gap(process.duration_s - float(t_s[-1]), timeline.gap_s)
        span_s += float(t_s[-1] - t_s[0])
        if len(t_s) > 1:
            apart_s = np.diff(t_s)
            gaps_s.append(float(apart_s.max()))
            long_s += float(apart_s[apart_s > timeline.gap_s].sum())
    known = int((~np.isnan(samples.total_w)).sum())
    return Metering(
        samples=len(samples.t_s),
        known_samples=known,
        mean_rate_hz=_over(known, span_s),
        largest_gap_s=max(gaps_s, default=None),
        gap_s=long_s,
        gap_limit_s=timeline.gap_s,
        before_s=before_s,
        after_s=after_s,
    )


def _if_gap(apart_s: float, limit_s: float) -> float:
    """Only what is too long for a pause between two readings."""
    return apart_s if apart_s > limit_s else 0.0


def _budget(
    recorded: Recorded, totals: Totals, *, is_incomplete: bool
) -> tuple[LimitUse, ...]:
    found = []
    for limit in LIMITS:
        allowed = recorded.budget.value(limit)
        if not isinstance(allowed, int | float):
            continue
        used = getattr(totals, _USED[limit.name])
        kept = None if used is None else used <= allowed
        if kept and is_incomplete and limit.name in ("energy", "power"):
            kept = None  # it took more than is known
        use = LimitUse(
            limit=limit.name,
            unit=_UNITS[limit.name],
            allowed=allowed,
            used=used,
            share=_over(used, allowed),
            kept=kept,
        )
        found.append(use)
    return tuple(found)


def _marked(rungs: tuple[RungUse, ...]) -> tuple[RungUse, ...]:
    """With each rung the one that makes it pointless, if there is one."""
    return tuple(
        replace(
            rung,
            dominated_by=next(
                (o.rung for o in rungs if o is not rung and _beats(o, rung)), None
            ),
        )
        for rung in rungs
    )


def _beats(other: RungUse, rung: RungUse) -> bool:
    """Whether it keeps at least as much, costs no more of anything, and less of something."""
    if other.token_blocks is None or rung.token_blocks is None:
        return False
    in_run = bool(other.steps and rung.steps)  # else as the profile says, of both
    mine, theirs = _costs_of(rung, in_run=in_run), _costs_of(other, in_run=in_run)
    both = [
        (a, b) for a, b in zip(mine, theirs, strict=True) if a is not None and b is not None
    ]
    if len(both) < 2 or other.token_blocks < rung.token_blocks:
        return False
    return all(b <= a for a, b in both) and any(b < a for a, b in both)


def _costs_of(rung: RungUse, *, in_run: bool) -> tuple[float | None, ...]:
    if in_run:
        return rung.step_s, rung.step_j, rung.peak_bytes
    return rung.profile_step_s, rung.profile_step_j, rung.profile_peak_bytes
