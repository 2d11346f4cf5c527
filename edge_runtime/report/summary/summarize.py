"""One run, read, into its `RunSummary`. Pure: the same records give the same numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from edge_runtime.facts import Plan
from edge_runtime.facts.budget import LIMITS
from edge_runtime.records import events, has_estimates
from edge_runtime.records.event_text import event_text
from edge_runtime.report.summary import model, usage
from edge_runtime.report.summary.loader import RunRecords
from edge_runtime.report.summary.timeline import Timeline
from edge_runtime.report.summary.unknown import highest, mean, minus, ratio, total
from edge_runtime.report.summary.warnings import notes_of

_LIMITS = {  # of the budget: their unit, and the total that they limit
    "memory": ("bytes", "peak_bytes"),
    "energy": ("J", "gross_j"),
    "time": ("s", "time_s"),
    "power": ("W", "mean_w"),
    "temperature": ("C", "peak_temperature_c"),
}
_OF_ENCODER = ("image_size_px", "patch_size_px", "depth", "width")
_CLASSIFIERS = {"knn": "kNN", "linear": "linear probe"}
_SHOWN = (
    events.Resumed,
    events.Planned,
    events.RungChanged,
    events.Paused,
    events.SensorLost,
    events.SensorBack,
    events.ReadingRefused,
    events.ZoneLost,
    events.ZoneBack,
    events.CheckpointDamaged,
    events.Interrupted,
    events.SourceLost,
    events.LimitUnknown,
    events.Diverged,
    events.Finished,
)


def summarize_run(records: RunRecords, timeline: Timeline, name: str) -> model.RunSummary:
    """All numbers of one run."""
    info = records.run.info
    processes = tuple(usage.processes_of(records, timeline))
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
        budget=tuple(_limits(records, totals, is_incomplete=is_incomplete)),
        stages=tuple(usage.stages_of(records, timeline)),
        rungs=tuple(usage.rungs_of(records, timeline)),
        rails=tuple(usage.rails_of(records, timeline)),
        processes=processes,
        windows=_windows(records, timeline),
        decisions=_decisions(records, timeline),
        plan=tuple(_plan(records, totals)),
        evaluations=_evaluations(records),
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
        **{name: getattr(encoder, name, None) for name in _OF_ENCODER},
        total_epochs=info.settings.epochs,
    )


def _totals(
    records: RunRecords, timeline: Timeline, processes: Sequence[model.ProcessUse]
) -> model.Totals:
    steps, samples, info = records.steps, records.samples, records.run.info
    time_s, gross_j = timeline.duration_s, timeline.gross_j
    count, images = len(steps["step"]), int(steps["images"].sum())
    epochs = count / info.steps_per_epoch
    idle_j = None if info.idle_w is None else info.idle_w * time_s
    throttled, resident = highest(samples["throttled"]), highest(steps["rss_bytes"])
    peaks = [
        e.event.peak_bytes for e in records.events if isinstance(e.event, events.Finished)
    ]
    peaks += [] if resident is None else [int(resident)]
    return model.Totals(
        time_s=time_s,
        steps=count,
        epochs=epochs,
        images=images,
        images_per_s=ratio(images, time_s),
        gross_j=gross_j,
        idle_j=idle_j,
        net_j=minus(gross_j, idle_j),
        mean_w=ratio(gross_j, time_s),
        peak_w=highest(samples["total_w"]),
        energy_per_image_j=ratio(gross_j, images),
        images_per_j=ratio(images, gross_j),
        energy_per_epoch_j=ratio(gross_j, epochs),
        peak_bytes=max(peaks, default=None),
        peak_temperature_c=highest(samples["temperature_c"]),
        throttled=None if throttled is None else throttled > 0,
        lost_s=sum(process.lost_s for process in processes),
        lost_j=total(process.lost_j for process in processes),
        first_loss=mean(steps["loss"][:1]),
        last_loss=mean(steps["loss"][-info.steps_per_epoch :]),
    )


def _power_quality(records: RunRecords, timeline: Timeline) -> model.PowerQuality:
    read = [
        (each, timeline.readings_s(each))
        for each in timeline.processes
        if each.energy_j is not None
    ]
    gaps_s = np.concatenate([np.zeros(0), *(np.diff(at_s) for _, at_s in read)])
    before_s = np.array([at_s[0] - each.begin_s for each, at_s in read])
    after_s = np.array([each.end_s - at_s[-1] for each, at_s in read])
    limit_s = timeline.gap_s  # only what is too long for a pause between two readings
    known = int((~np.isnan(records.samples["total_w"])).sum())
    return model.PowerQuality(
        samples=len(records.samples["t_s"]),
        known_samples=known,
        mean_rate_hz=ratio(known, sum(at_s[-1] - at_s[0] for _, at_s in read)),
        largest_gap_s=highest(gaps_s),
        gap_s=float(gaps_s[gaps_s > limit_s].sum()),
        gap_limit_s=limit_s,
        before_s=float(before_s[before_s > limit_s].sum()),
        after_s=float(after_s[after_s > limit_s].sum()),
    )


def _limits(
    records: RunRecords, totals: model.Totals, *, is_incomplete: bool
) -> Iterator[model.LimitUse]:
    for limit in LIMITS:
        allowed = records.budget.value(limit)
        if allowed is None:
            continue
        unit, field = _LIMITS[limit.name]
        used = getattr(totals, field)
        kept = None if used is None else used <= allowed
        if kept and is_incomplete and limit.name in ("energy", "power"):
            kept = None  # it took more than is known
        yield model.LimitUse(
            limit=limit.name,
            unit=unit,
            allowed=allowed,
            used=used,
            share=ratio(used, allowed),
            kept=kept,
        )


def _windows(records: RunRecords, timeline: Timeline) -> tuple[model.WindowRow, ...]:
    """The named windows, as the meter measured them."""
    return tuple(
        model.copy_fields(
            model.WindowRow,
            logged.event.window,
            process=logged.moment.process if logged.moment else None,
            begins_s=timeline.elapsed_s(logged, logged.event.window.start_s),
        )
        for logged in records.events
        if isinstance(logged.event, events.WindowEnded)
    )


def _decisions(records: RunRecords, timeline: Timeline) -> tuple[model.EventRow, ...]:
    """What the governor decided and what happened to the run, in the order of events."""
    return tuple(
        model.EventRow(
            at=logged.at,
            process=logged.moment.process if logged.moment else None,
            elapsed_s=timeline.elapsed_s(logged),
            step=getattr(logged.event, "step", None),
            kind=events.event_table(logged.event)["event"],
            rung=getattr(logged.event, "rung", None),
            text=event_text(logged.event),
        )
        for logged in records.events
        if isinstance(logged.event, _SHOWN)
    )


def _plan(records: RunRecords, totals: model.Totals) -> Iterator[model.PlanRow]:
    """The first plan beside what became of it; nothing where there was none."""
    plans = [e.event.plan for e in records.events if isinstance(e.event, events.Planned)]
    for plan in plans[:1]:
        rows = [
            ("time", "s", plan.time_s, totals.time_s),
            ("energy", "J", plan.energy_j, totals.gross_j),
            ("mean power", "W", plan.power_w, totals.mean_w),
            ("peak memory", "bytes", plan.peak_bytes, totals.peak_bytes),
            ("steps", "steps", plan.steps, totals.steps),
            *_planned_steps(plan, records),
        ]
        profile = records.run.info.profile
        is_estimate = bool(profile and profile.energy_is_estimate)
        for name, unit, planned, actual in rows:
            yield model.PlanRow(
                name=name,
                unit=unit,
                planned=planned,
                actual=actual,
                difference=minus(actual, planned),
                is_estimate=is_estimate and unit in ("J", "W"),
            )


def _planned_steps(plan: Plan, records: RunRecords) -> Iterator[tuple[str, str, int, int]]:
    counts = np.bincount(records.steps["rung"], minlength=len(records.rungs)).tolist()
    done = dict(zip(records.rungs, counts, strict=True))
    for rung in dict.fromkeys([*(part.rung for part in plan.segments), *done]):
        planned = sum(part.steps for part in plan.segments if part.rung == rung)
        yield f"steps on {rung}", "steps", planned, done.get(rung, 0)


def _evaluations(records: RunRecords) -> tuple[model.EvaluationRow, ...]:
    """Every evaluation, one row per classifier."""
    return tuple(
        model.copy_fields(
            model.EvaluationRow,
            event,
            scores,
            at=at,
            classifier=classifier,
            test_pictures=event.results.test.pictures,
        )
        for at, _, event in records.events
        if isinstance(event, events.Evaluation)
        for key, classifier in _CLASSIFIERS.items()
        if (scores := getattr(event.results, key)) is not None
    )
