"""The events of a run as rows: windows, decisions, the first plan, evaluations."""

from typing import Any

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
        if moment is not None and (start_s := _number(window, "start_s")) is not None:
            begins_s = timeline.elapsed_s(moment.process, start_s)
        row = Window(
            name=str(window.get("name", "?")),
            process=moment.process if moment else None,
            begins_s=begins_s,
            is_estimate=window.get("is_estimate"),
            **{
                name: _number(window, name)
                for name in ("duration_s", "gross_j", "net_j", "mean_w", "peak_w", "gap_s")
            },
        )
        found.append(row)
    return tuple(found)


def _number(table: dict[str, Any], key: str) -> float | None:
    value = table.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value)


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


def _plan_text(plan: dict[str, Any]) -> str:
    parts = [f"{part['steps']} steps on {part['rung']}" for part in plan.get("segments", ())]
    limits = ", ".join(plan.get("binding", ()))
    return f"{', then '.join(parts) or 'nothing'}; limited by {limits or 'nothing'}"


def plan_of(recorded: Recorded, totals: Totals) -> tuple[PlanCheck, ...]:
    """The first plan beside what became of it; empty where there was none."""
    plans = [e.event.plan for e in recorded.events if isinstance(e.event, events.Planned)]
    if not plans:
        return ()
    plan = plans[0]
    estimated = bool(recorded.profile and recorded.profile.energy_is_estimate)
    rows = [
        _check("time", "s", _number(plan, "time_s"), totals.time_s),
        _check("energy", "J", _number(plan, "energy_j"), totals.gross_j, estimated),
        _check("mean power", "W", _number(plan, "power_w"), totals.mean_w, estimated),
        _check("peak memory", "bytes", _number(plan, "peak_bytes"), totals.peak_bytes),
        _check("steps", "steps", _number(plan, "steps"), totals.steps),
    ]
    planned: dict[str, float] = {}
    for part in plan.get("segments", ()):
        planned[part["rung"]] = planned.get(part["rung"], 0) + part["steps"]
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
        scores = event.results.get(key)
        if not isinstance(scores, dict) or _number(scores, "accuracy") is None:
            continue
        test = event.results.get("test")
        pictures = test.get("pictures") if isinstance(test, dict) else None
        row = EvaluationRow(
            at=at,
            step=event.step,
            classifier=classifier,
            accuracy=float(scores["accuracy"]),
            untrained_accuracy=_number(scores, "untrained_accuracy"),
            test_pictures=pictures if type(pictures) is int else None,
            spent_s=event.spent_s,
            energy_j=event.energy_j,
            energy_is_estimate=event.energy_is_estimate,
        )
        rows.append(row)
    return rows
