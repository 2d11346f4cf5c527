"""One run, read, into its `RunSummary`. Pure: the same records give the same numbers."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from edge_runtime.facts import Plan
from edge_runtime.facts.budget import LIMITS
from edge_runtime.records import events, has_estimates
from edge_runtime.records.event_text import event_text
from edge_runtime.report.summary import model, usage
from edge_runtime.report.summary.digest import RunDigest
from edge_runtime.report.summary.unknown import minus, ratio, total
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
    events.EngineFailed,
    events.LimitUnknown,
    events.Diverged,
    events.Finished,
)


def summarize_run(digest: RunDigest, name: str) -> model.RunSummary:
    """All numbers of one run."""
    info = digest.run.info
    processes = tuple(usage.processes_of(digest))
    totals = _totals(digest, processes)
    metering = _power_quality(digest)
    is_incomplete = totals.gross_j is not None and metering.after_s > 0
    summary = model.RunSummary(
        name=name,
        path=str(digest.run.path),
        created_at=info.created_at,
        state=_state(digest),
        energy_is_estimate=has_estimates(info, digest.events),
        energy_is_incomplete=is_incomplete,
        notes=(),
        trained=_training_setup(digest),
        conditions=model.copy_fields(model.RunEnvironment, info),
        totals=totals,
        metering=metering,
        budget=tuple(_limits(digest, totals, is_incomplete=is_incomplete)),
        stages=tuple(usage.stages_of(digest)),
        rungs=tuple(usage.rungs_of(digest)),
        rails=tuple(usage.rails_of(digest)),
        processes=processes,
        windows=_windows(digest),
        decisions=_decisions(digest),
        plan=tuple(_plan(digest, totals)),
        evaluations=_evaluations(digest),
    )
    return replace(summary, notes=notes_of(digest, summary))


def _state(digest: RunDigest) -> str:
    """How the last process ended, by the last event that says so."""
    found = [e.event for e in digest.events if not isinstance(e.event, events.Evaluation)]
    match found[-1] if found else None:
        case events.Finished(stopped_by=None):
            return "finished"
        case events.Finished(stopped_by=limit):
            return f"stopped by its {limit} limit"
        case events.Interrupted():
            return "interrupted"
        case events.SourceLost():
            return "out of pictures"
        case events.EngineFailed(device=device, out_of_memory=True):
            return f"ended, no memory on device {device}"
        case events.EngineFailed(device=device):
            return f"ended, device {device} failed"
        case events.LimitUnknown(limit=limit):
            return f"ended, its {limit} limit cannot be judged"
        case events.Diverged():
            return "diverged"
        case _:
            return "unfinished"


def _training_setup(digest: RunDigest) -> model.TrainingSetup:
    info, manifest = digest.run.info, digest.manifest
    encoder = manifest.model if manifest else None
    return model.copy_fields(
        model.TrainingSetup,
        info,
        info.settings,
        method=manifest.method if manifest else None,
        tokens=manifest.token_policy if manifest else None,
        precision=manifest.precision if manifest else None,
        model=encoder.name if encoder else None,
        **{name: getattr(encoder, name, None) for name in _OF_ENCODER},
        total_epochs=info.settings.epochs,
    )


def _totals(digest: RunDigest, processes: Sequence[model.ProcessUse]) -> model.Totals:
    info, peaks, losses = digest.run.info, digest.peaks, digest.losses
    time_s, gross_j, images = digest.duration_s, digest.gross_j, digest.images
    epochs = digest.steps / info.steps_per_epoch
    idle_j = None if info.idle_w is None else info.idle_w * time_s
    finished = [e.event for e in digest.events if isinstance(e.event, events.Finished)]
    of_cards = [event.card_bytes for event in finished if event.card_bytes is not None]
    peaks_bytes = [event.peak_bytes for event in finished]
    peaks_bytes += [] if peaks.rss_bytes is None else [int(peaks.rss_bytes)]
    return model.Totals(
        time_s=time_s,
        steps=digest.steps,
        skipped_steps=digest.skipped_steps,
        epochs=epochs,
        images=images,
        images_per_s=ratio(images, time_s),
        gross_j=gross_j,
        idle_j=idle_j,
        net_j=minus(gross_j, idle_j),
        mean_w=ratio(gross_j, time_s),
        peak_w=peaks.total_w,
        energy_per_image_j=ratio(gross_j, images),
        images_per_j=ratio(images, gross_j),
        energy_per_epoch_j=ratio(gross_j, epochs),
        peak_bytes=max(peaks_bytes, default=None),
        card_bytes=max(of_cards, default=None),
        peak_temperature_c=peaks.temperature_c,
        throttled=None if peaks.throttled is None else peaks.throttled > 0,
        lost_s=sum(process.lost_s for process in processes),
        lost_j=total(process.lost_j for process in processes),
        first_loss=losses.first,
        last_loss=losses.last,
    )


def _power_quality(digest: RunDigest) -> model.PowerQuality:
    sums = digest.readings
    return model.PowerQuality(
        samples=sums.samples,
        known_samples=sums.known,
        mean_rate_hz=ratio(sums.known, sums.covered_s),
        largest_gap_s=sums.largest_gap_s,
        gap_s=sums.gap_s,
        gap_limit_s=digest.gap_limit_s,
        before_s=sums.before_s,
        after_s=sums.after_s,
    )


def _limits(
    digest: RunDigest, totals: model.Totals, *, is_incomplete: bool
) -> Iterator[model.LimitUse]:
    for limit in LIMITS:
        allowed = digest.budget.value(limit)
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


def _windows(digest: RunDigest) -> tuple[model.WindowRow, ...]:
    """The named windows, as the meter measured them."""
    return tuple(
        model.copy_fields(
            model.WindowRow,
            logged.event.window,
            process=logged.moment.process if logged.moment else None,
            begins_s=digest.elapsed_s(logged, logged.event.window.start_s),
        )
        for logged in digest.events
        if isinstance(logged.event, events.WindowEnded)
    )


def _decisions(digest: RunDigest) -> tuple[model.EventRow, ...]:
    """What the governor decided and what happened to the run, in the order of events."""
    return tuple(
        model.EventRow(
            at=logged.at,
            process=logged.moment.process if logged.moment else None,
            elapsed_s=digest.elapsed_s(logged),
            step=getattr(logged.event, "step", None),
            kind=events.event_table(logged.event)["event"],
            rung=getattr(logged.event, "rung", None),
            text=event_text(logged.event),
        )
        for logged in digest.events
        if isinstance(logged.event, _SHOWN)
    )


def _plan(digest: RunDigest, totals: model.Totals) -> Iterator[model.PlanRow]:
    """The first plan beside what became of it; nothing where there was none."""
    plans = [e.event.plan for e in digest.events if isinstance(e.event, events.Planned)]
    for plan in plans[:1]:
        rows = [
            ("time", "s", plan.time_s, totals.time_s),
            ("energy", "J", plan.energy_j, totals.gross_j),
            ("mean power", "W", plan.power_w, totals.mean_w),
            ("peak memory", "bytes", plan.peak_bytes, totals.peak_bytes),
            ("steps", "steps", plan.steps, totals.steps),
            *_planned_steps(plan, digest),
        ]
        profile = digest.run.info.profile
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


def _planned_steps(plan: Plan, digest: RunDigest) -> Iterator[tuple[str, str, int, int]]:
    done = {rung: sums.steps for rung, sums in digest.rungs.items()}
    for rung in dict.fromkeys([*(part.rung for part in plan.segments), *done]):
        planned = sum(part.steps for part in plan.segments if part.rung == rung)
        yield f"steps on {rung}", "steps", planned, done.get(rung, 0)


def _evaluations(digest: RunDigest) -> tuple[model.EvaluationRow, ...]:
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
        for at, _, event in digest.events
        if isinstance(event, events.Evaluation)
        for key, classifier in _CLASSIFIERS.items()
        if (scores := getattr(event.results, key)) is not None
    )
