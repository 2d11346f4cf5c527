"""The events of a run as rows: windows, decisions, the first plan, evaluations."""

from collections import Counter

from edge_runtime.records import events
from edge_runtime.records.event_text import event_text
from edge_runtime.report.summary import model
from edge_runtime.report.summary.loader import RunRecords
from edge_runtime.report.summary.timeline import Timeline

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


def windows_of(records: RunRecords, timeline: Timeline) -> tuple[model.WindowRow, ...]:
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


def decisions_of(records: RunRecords, timeline: Timeline) -> tuple[model.EventRow, ...]:
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


def plan_of(records: RunRecords, totals: model.Totals) -> tuple[model.PlanRow, ...]:
    """The first plan beside what became of it; empty where there was none."""
    plans = [e.event.plan for e in records.events if isinstance(e.event, events.Planned)]
    if not plans:
        return ()
    plan, profile = plans[0], records.run.info.profile
    is_estimate = bool(profile and profile.energy_is_estimate)
    planned, steps = Counter[str](), records.steps
    for segment in plan.segments:
        planned[segment.rung] += segment.steps
    done = {rung: int((steps.rung == code).sum()) for code, rung in enumerate(steps.rungs)}
    return (
        _plan_row("time", "s", plan.time_s, totals.time_s),
        _plan_row("energy", "J", plan.energy_j, totals.gross_j, is_estimate),
        _plan_row("mean power", "W", plan.power_w, totals.mean_w, is_estimate),
        _plan_row("peak memory", "bytes", plan.peak_bytes, totals.peak_bytes),
        _plan_row("steps", "steps", plan.steps, totals.steps),
        *(
            _plan_row(f"steps on {rung}", "steps", planned[rung], done.get(rung, 0))
            for rung in dict.fromkeys([*planned, *done])
        ),
    )


def _plan_row(
    name: str,
    unit: str,
    planned: float | None,
    actual: float | None,
    is_estimate: bool = False,
) -> model.PlanRow:
    return model.PlanRow(
        name=name,
        unit=unit,
        planned=planned,
        actual=actual,
        difference=None if planned is None or actual is None else actual - planned,
        is_estimate=is_estimate,
    )


def evaluations_of(records: RunRecords) -> tuple[model.EvaluationRow, ...]:
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
