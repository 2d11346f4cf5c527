"""One run, read, into its `RunSummary`. Pure: the same records give the same numbers."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from edge_runtime.facts.budget import LIMITS
from edge_runtime.records import events, has_estimates
from edge_runtime.report.summary import event_rows, model, usage
from edge_runtime.report.summary.loader import Array, RunRecords
from edge_runtime.report.summary.timeline import Timeline, total
from edge_runtime.report.summary.usage import highest
from edge_runtime.report.summary.warnings import notes_of

_LIMITS = {  # of the budget: their unit, and the total that they limit
    "memory": ("bytes", "peak_bytes"),
    "energy": ("J", "gross_j"),
    "time": ("s", "time_s"),
    "power": ("W", "mean_w"),
    "temperature": ("C", "peak_temperature_c"),
}


def summarize_run(records: RunRecords, timeline: Timeline, name: str) -> model.RunSummary:
    """All numbers of one run."""
    info = records.run.info
    processes = usage.processes_of(records, timeline)
    totals = _totals(records, timeline, processes)
    metering = _power_quality(records, timeline)
    is_incomplete = totals.gross_j is not None and metering.after_s > 0
    summary = model.RunSummary(
        name=name,
        path=str(records.run.path),
        created_at=info.created_at,
        state=_state(records),
        energy_is_estimate=has_estimates(info, records.events),
        energy_is_incomplete=is_incomplete,
        notes=(),
        trained=_training_setup(records),
        conditions=model.copy_fields(model.RunEnvironment, info),
        totals=totals,
        metering=metering,
        budget=_limits(records, totals, is_incomplete=is_incomplete),
        stages=usage.stages_of(records, timeline),
        rungs=usage.rungs_of(records, timeline),
        rails=usage.rails_of(records, timeline),
        processes=processes,
        windows=event_rows.windows_of(records, timeline),
        decisions=event_rows.decisions_of(records, timeline),
        plan=event_rows.plan_of(records, totals),
        evaluations=event_rows.evaluations_of(records),
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
        case events.LimitUnknown(limit=limit):
            return f"ended, its {limit} limit cannot be judged"
        case events.Diverged():
            return "diverged"
        case _:
            return "unfinished"


def _training_setup(records: RunRecords) -> model.TrainingSetup:
    info, manifest = records.run.info, records.manifest
    encoder = manifest.model if manifest else None
    return model.copy_fields(
        model.TrainingSetup,
        info,
        info.settings,
        method=manifest.method if manifest else None,
        tokens=manifest.token_policy if manifest else None,
        model=encoder.name if encoder else None,
        image_size_px=encoder.image_size_px if encoder else None,
        patch_size_px=encoder.patch_size_px if encoder else None,
        depth=encoder.depth if encoder else None,
        width=encoder.width if encoder else None,
        total_epochs=info.settings.epochs,
    )


def _totals(
    records: RunRecords, timeline: Timeline, processes: Sequence[model.ProcessUse]
) -> model.Totals:
    steps, samples, info = records.steps, records.samples, records.run.info
    time_s, gross_j = timeline.duration_s, timeline.gross_j
    count, images = len(steps.step), int(steps.images.sum())
    epochs = count / info.steps_per_epoch
    idle_j = None if info.idle_w is None else info.idle_w * time_s
    throttled, resident = highest(samples.throttled), highest(steps.rss_bytes)
    peaks = [
        e.event.peak_bytes for e in records.events if isinstance(e.event, events.Finished)
    ]
    peaks += [] if resident is None else [int(resident)]
    return model.Totals(
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
        first_loss=_finite_mean(steps.loss[:1]),
        last_loss=_finite_mean(steps.loss[-info.steps_per_epoch :]),
    )


def _finite_mean(losses: Array) -> float | None:
    """Of the steps whose loss was finite."""
    known = losses[~np.isnan(losses)]
    return float(np.mean(known)) if len(known) else None


def _ratio(a: float | None, b: float | None) -> float | None:
    """Unknown if a part is, or if it is of nothing."""
    return None if a is None or not b else a / b


def _power_quality(records: RunRecords, timeline: Timeline) -> model.PowerQuality:
    limit_s = timeline.gap_s
    measured = [process for process in timeline.processes if process.energy_j is not None]
    readings_s = [timeline.known_s[each.readings] for each in measured]
    gaps_s = [np.diff(each) for each in readings_s]
    ends = [(float(each[0]), float(each[-1])) for each in readings_s]
    before_s = [first - each.begin_s for each, (first, _) in zip(measured, ends, strict=True)]
    after_s = [each.end_s - last for each, (_, last) in zip(measured, ends, strict=True)]
    known = int((~np.isnan(records.samples.total_w)).sum())
    return model.PowerQuality(
        samples=len(records.samples.t_s),
        known_samples=known,
        mean_rate_hz=_ratio(known, sum(last - first for first, last in ends)),
        largest_gap_s=max((float(each.max()) for each in gaps_s if len(each)), default=None),
        gap_s=sum((float(each[each > limit_s].sum()) for each in gaps_s), 0.0),
        gap_limit_s=limit_s,
        # Only what is too long for a pause between two readings.
        before_s=sum((each for each in before_s if each > limit_s), 0.0),
        after_s=sum((each for each in after_s if each > limit_s), 0.0),
    )


def _limits(
    records: RunRecords, totals: model.Totals, *, is_incomplete: bool
) -> tuple[model.LimitUse, ...]:
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
        use = model.LimitUse(
            limit=limit.name,
            unit=unit,
            allowed=allowed,
            used=used,
            share=_ratio(used, allowed),
            kept=kept,
        )
        uses.append(use)
    return tuple(uses)
