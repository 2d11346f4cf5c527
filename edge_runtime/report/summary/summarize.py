"""One run, read, into its `RunSummary`. Pure: the same records give the same numbers."""

from dataclasses import replace

import numpy as np

from edge_runtime.facts.budget import LIMITS
from edge_runtime.records import events, has_estimates
from edge_runtime.report.summary.event_rows import (
    decisions_of,
    evaluations_of,
    plan_of,
    windows_of,
)
from edge_runtime.report.summary.loader import RunRecords
from edge_runtime.report.summary.model import (
    LimitUse,
    PowerQuality,
    RunEnvironment,
    RunSummary,
    Totals,
    TrainingSetup,
    copy_fields,
)
from edge_runtime.report.summary.timeline import Timeline, total
from edge_runtime.report.summary.usage import (
    highest,
    processes_of,
    rails_of,
    rungs_of,
    stages_of,
)
from edge_runtime.report.summary.warnings import notes_of

_LIMITS = {  # of the budget: their unit, and the total that they limit
    "memory": ("bytes", "peak_bytes"),
    "energy": ("J", "gross_j"),
    "time": ("s", "time_s"),
    "power": ("W", "mean_w"),
    "temperature": ("C", "peak_temperature_c"),
}


def summarize_run(records: RunRecords, timeline: Timeline, name: str) -> RunSummary:
    """All numbers of one run."""
    info = records.run.info
    totals, metering = _totals(records, timeline), _power_quality(records, timeline)
    is_incomplete = totals.gross_j is not None and metering.after_s > 0
    summary = RunSummary(
        name=name,
        path=str(records.run.path),
        created_at=info.created_at,
        state=_state(records),
        energy_is_estimate=has_estimates(info, records.events),
        energy_is_incomplete=is_incomplete,
        notes=(),
        trained=_training_setup(records),
        conditions=copy_fields(RunEnvironment, info),
        totals=totals,
        metering=metering,
        budget=_limits(records, totals, is_incomplete=is_incomplete),
        stages=stages_of(records, timeline),
        rungs=rungs_of(records, timeline),
        rails=rails_of(records, timeline),
        processes=processes_of(records, timeline),
        windows=windows_of(records, timeline),
        decisions=decisions_of(records, timeline),
        plan=plan_of(records, totals),
        evaluations=evaluations_of(records),
    )
    return replace(summary, notes=notes_of(records, summary))


def _state(records: RunRecords) -> str:
    """How the last process ended, by the last event that says so."""
    found = [e.event for e in records.events if not isinstance(e.event, events.Evaluation)]
    match found[-1] if found else None:
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
        case _:
            return "unfinished"


def _training_setup(records: RunRecords) -> TrainingSetup:
    info, manifest = records.run.info, records.manifest
    model = manifest.model if manifest else None
    return copy_fields(
        TrainingSetup,
        info,
        info.settings,
        method=manifest.method if manifest else None,
        tokens=manifest.tokens if manifest else None,
        model=model.name if model else None,
        image_size_px=model.image_size_px if model else None,
        patch_size_px=model.patch_size_px if model else None,
        depth=model.depth if model else None,
        width=model.width if model else None,
        total_epochs=info.settings.epochs,
    )


def _totals(records: RunRecords, timeline: Timeline) -> Totals:
    steps, samples, info = records.steps, records.samples, records.run.info
    time_s, gross_j, processes = timeline.duration_s, timeline.gross_j, timeline.processes
    count, images = len(steps.step), int(steps.images.sum())
    epochs = count / info.steps_per_epoch
    idle_j = None if info.idle_w is None else info.idle_w * time_s
    throttled, resident = highest(samples.throttled), highest(steps.rss_bytes)
    peaks = [
        e.event.peak_bytes for e in records.events if isinstance(e.event, events.Finished)
    ]
    peaks += [] if resident is None else [int(resident)]
    return Totals(
        time_s=time_s,
        steps=count,
        epochs=epochs,
        images=images,
        images_per_s=_ratio(images, time_s),
        gross_j=gross_j,
        idle_j=idle_j,
        net_j=None if gross_j is None or idle_j is None else gross_j - idle_j,
        mean_w=_ratio(gross_j, time_s),
        peak_w=highest(samples.total_w),
        energy_per_image_j=_ratio(gross_j, images),
        images_per_j=_ratio(images, gross_j),
        energy_per_epoch_j=_ratio(gross_j, epochs),
        peak_bytes=max(peaks, default=None),
        peak_temperature_c=highest(samples.temperature_c),
        throttled=None if throttled is None else throttled > 0,
        lost_s=sum(process.lost_s for process in processes),
        lost_j=total(process.lost_j for process in processes),
        first_loss=float(steps.loss[0]) if count else None,
        last_loss=float(np.mean(steps.loss[-info.steps_per_epoch :])) if count else None,
    )


def _ratio(a: float | None, b: float | None) -> float | None:
    """Unknown if a part is, or if it is of nothing."""
    return None if a is None or not b else a / b


def _power_quality(records: RunRecords, timeline: Timeline) -> PowerQuality:
    limit_s = timeline.gap_s
    measured = [
        (process, process.power.t_s) for process in timeline.processes if process.power
    ]
    gaps_s = [np.diff(t_s) for _, t_s in measured]
    before_s = [float(t_s[0]) for _, t_s in measured]
    after_s = [process.duration_s - float(t_s[-1]) for process, t_s in measured]
    known = int((~np.isnan(records.samples.total_w)).sum())
    return PowerQuality(
        samples=len(records.samples.t_s),
        known_samples=known,
        mean_rate_hz=_ratio(known, sum(float(t_s[-1] - t_s[0]) for _, t_s in measured)),
        largest_gap_s=max(
            (float(gap_s.max()) for gap_s in gaps_s if len(gap_s)), default=None
        ),
        gap_s=sum((float(gap_s[gap_s > limit_s].sum()) for gap_s in gaps_s), 0.0),
        gap_limit_s=limit_s,
        # Only what is too long for a pause between two readings.
        before_s=sum((gap_s for gap_s in before_s if gap_s > limit_s), 0.0),
        after_s=sum((gap_s for gap_s in after_s if gap_s > limit_s), 0.0),
    )


def _limits(
    records: RunRecords, totals: Totals, *, is_incomplete: bool
) -> tuple[LimitUse, ...]:
    uses = []
    for limit in LIMITS:
        allowed = records.budget.value(limit)
        if allowed is None:
            continue
        unit, field = _LIMITS[limit.name]
        used = getattr(totals, field)
        kept = None if used is None else used <= allowed
        if kept and is_incomplete and limit.name in ("energy", "power"):
            kept = None  # it took more than is known
        use = LimitUse(
            limit=limit.name,
            unit=unit,
            allowed=allowed,
            used=used,
            share=_ratio(used, allowed),
            kept=kept,
        )
        uses.append(use)
    return tuple(uses)
