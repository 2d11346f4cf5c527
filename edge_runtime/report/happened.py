"""The events of a run as rows: windows, decisions, the first plan, evaluations."""

from edge_runtime.facts import Plan, ProbeResult
from edge_runtime.records import LoggedEvent, events
from edge_runtime.records.events import Event
from edge_runtime.report.recorded import Recorded
from edge_runtime.report.summary import Decision, EvaluationRow, PlanCheck, Totals, Window
from edge_runtime.report.timeline import Timeline
from edge_runtime.units import duration_text

_CLASSIFIERS = {"knn": "kNN", "linear": "linear probe"}


def windows_of(recorded: Recorded, timeline: Timeline) -> tuple[Window, ...]:
    """The named windows, as the meter measured them."""
    found = []
    for logged in recorded.events:
        if not isinstance(logged.event, events.WindowEnded):
            continue
        window, moment = logged.event.window, logged.moment
        begins_s = None
        if moment is not None:
            begins_s = timeline.elapsed_s(moment.process, window.start_s)
        row = Window(
            name=window.name,
            process=moment.process if moment else None,
            begins_s=begins_s,
            duration_s=window.duration_s,
            gross_j=window.gross_j,
            net_j=window.net_j,
            mean_w=window.mean_w,
            peak_w=window.peak_w,
            gap_s=window.gap_s,
            is_estimate=window.is_estimate,
        )
        found.append(row)
    return tuple(found)


def decisions_of(recorded: Recorded, timeline: Timeline) -> tuple[Decision, ...]:
    """What the governor decided and what happened to the run, in the order of events."""
    found = []
    for logged in recorded.events:
        if (text := _text(logged.event)) is None:
            continue
        moment = logged.moment
        decision = Decision(
            at=logged.at,
            process=moment.process if moment else None,
            elapsed_s=timeline.elapsed_s(moment.process, moment.t_s) if moment else None,
            step=getattr(logged.event, "step", None),
            kind=_kind(logged),
            rung=getattr(logged.event, "rung", None),
            text=text,
        )
        found.append(decision)
    return tuple(found)


def _kind(logged: LoggedEvent) -> str:
    return str(events.event_table(logged.event)["event"])


def _text(event: Event) -> str | None:
    """For people; `None` for what is no news."""
    match event:
        case events.Resumed():
            origin = event.checkpoint or "the initial state"
            return f"went on from {origin}, {event.lost_steps} steps to do again"
        case events.Planned():
            return _plan_text(event.plan)
        case events.RungChanged():
            return event.reason or "as the schedule says"
        case events.Paused():
            return f"{event.reason}; for {duration_text(event.pause_s)} at first"
        case events.SensorLost():
            return f"no readings of {event.sensor} from here on: {event.reason}"
        case events.SensorBack():
            return f"{event.sensor} reads again after {duration_text(event.gap_s)}"
        case events.CheckpointDamaged():
            return f"{event.checkpoint} was passed over: {event.reason}"
        case events.Interrupted():
            return "stopped as it was asked to" + (", state saved" if event.checkpoint else "")
        case events.SourceLost() | events.Diverged():
            return event.reason
        case events.Finished():
            return f"ended by its limit of {event.stopped_by}" if event.stopped_by else "done"
        case _:
            return None


def _plan_text(plan: Plan) -> str:
    parts = [f"{part.steps} steps on {part.rung}" for part in plan.segments]
    limits = ", ".join(plan.binding)
    return f"{', then '.join(parts) or 'nothing'}; limited by {limits or 'nothing'}"


def plan_of(recorded: Recorded, totals: Totals) -> tuple[PlanCheck, ...]:
    """The first plan beside what became of it; empty where there was none."""
    plans = [e.event.plan for e in recorded.events if isinstance(e.event, events.Planned)]
    if not plans:
        return ()
    plan = plans[0]
    estimated = bool(recorded.profile and recorded.profile.energy_is_estimate)
    rows = [
        _check("time", "s", plan.time_s, totals.time_s),
        _check("energy", "J", plan.energy_j, totals.gross_j, estimated),
        _check("mean power", "W", plan.power_w, totals.mean_w, estimated),
        _check("peak memory", "bytes", plan.peak_bytes, totals.peak_bytes),
        _check("steps", "steps", plan.steps, totals.steps),
    ]
    planned: dict[str, float] = {}
    for part in plan.segments:
        planned[part.rung] = planned.get(part.rung, 0) + part.steps
    steps = recorded.steps
    done = {rung: int((steps.rung == code).sum()) for code, rung in enumerate(steps.rungs)}
    rows += [
        _check(f"steps on {rung}", "steps", planned.get(rung, 0), done.get(rung, 0))
        for rung in dict.fromkeys([*planned, *done])
    ]
    return tuple(rows)


def _check(
    name: str,
    unit: str,
    planned: float | None,
    actual: float | None,
    is_estimate: bool = False,
) -> PlanCheck:
    unknown = planned is None or actual is None
    return PlanCheck(
        name=name,
        unit=unit,
        planned=planned,
        actual=actual,
        difference=None if unknown else actual - planned,  # type: ignore[operator]
        is_estimate=is_estimate,
    )


def evaluations_of(recorded: Recorded) -> tuple[EvaluationRow, ...]:
    """Every evaluation, one row per classifier."""
    return tuple(
        row
        for logged in recorded.events
        if isinstance(logged.event, events.Evaluation)
        for row in _evaluation(logged.at, logged.event)
    )


def _evaluation(at: str, event: events.Evaluation) -> list[EvaluationRow]:
    rows = []
    for key, classifier in _CLASSIFIERS.items():
        scores: ProbeResult | None = getattr(event.results, key)
        if scores is None:
            continue
        row = EvaluationRow(
            at=at,
            step=event.step,
            classifier=classifier,
            accuracy=scores.accuracy,
            untrained_accuracy=scores.untrained_accuracy,
            test_pictures=event.results.test.pictures,
            spent_s=event.spent_s,
            energy_j=event.energy_j,
            energy_is_estimate=event.energy_is_estimate,
        )
        rows.append(row)
    return rows
