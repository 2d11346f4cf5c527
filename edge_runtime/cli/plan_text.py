"""What `edge-train plan` prints: the plan for people, or as one JSON document."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_runtime.cli.quantities import count_text
from edge_runtime.cli.table import aligned
from edge_runtime.units import bytes_text, duration_text, energy_text, power_text, step_text

if TYPE_CHECKING:
    from edge_runtime.facts import Budget, CostProfile, Plan, SingleRungCost
    from edge_runtime.planning import EpochChoice


class PlanFacts(NamedTuple):
    """A plan and its inputs."""

    package: Path
    profile_path: Path
    profile: "CostProfile"
    calibration_path: Path | None  # None: the objective is token-blocks
    budget: "Budget"
    epochs: int
    is_auto: bool  # the number of epochs is that of `best`
    # For this budget; None: neither time nor energy is limited, or the objective cannot tell
    best: "EpochChoice | None"
    images: int  # per epoch
    batch_size: int
    trained: str  # the set of parameters that its rungs train
    plan: "Plan"
    alone: "tuple[SingleRungCost, ...]"
    refused_sets: Mapping[str, str] = {}  # preferred ones: why no plan of them is feasible


def table_of(facts: PlanFacts) -> dict[str, Any]:
    """The document that `--json` prints; docs/planning.md has its keys."""
    from edge_runtime.schema import unstructure

    profile = unstructure(facts.profile)
    del profile["rungs"]
    return {
        "package": str(facts.package),
        "profile": {"path": str(facts.profile_path), **profile},
        "calibration": None if facts.calibration_path is None else str(facts.calibration_path),
        "budget": unstructure(facts.budget),
        "epochs": facts.epochs,
        "auto_epochs": None if facts.best is None else facts.best.epochs,
        "images": facts.images,
        "batch_size": facts.batch_size,
        "energy_is_estimate": facts.profile.energy_is_estimate,
        "trained": facts.trained,
        "refused_sets": dict(facts.refused_sets),
        "plan": unstructure(facts.plan),
        "alone": [unstructure(run) for run in facts.alone],
        "advice": advice(facts.profile),
    }


def advice(profile: "CostProfile") -> list[str]:
    """What would keep more within the same budget, one line each."""
    threads, cpus = profile.threads, profile.cpus
    if threads is None or cpus is None or threads >= cpus:
        return []
    return [
        f"{threads} of {cpus:g} usable processors train; without --threads all of them do, "
        "once `edge-train profile` has measured that"
    ]


def render_text(facts: PlanFacts) -> str:
    """The plan for people."""
    from edge_runtime.facts.plan import steps_text

    plan, profile = facts.plan, facts.profile
    mark = " (estimate)" if profile.energy_is_estimate else ""
    rows = [
        (
            "profile",
            f"{facts.profile_path}, of {profile.created_at} on {profile.board} with "
            f"{profile.engine} ({profile.runtime})",
        ),
        ("budget", str(facts.budget) or "none"),
        ("run", _run_text(facts)),
        *_set_rows(facts),
        ("plan", steps_text((part.rung, part.steps) for part in plan.segments)),
        ("takes", _totals(plan, mark)),
        ("limited by", ", ".join(map(_limit_text, plan.binding)) or _unlimited(facts)),
    ]
    if (error := plan.gradient_error) is not None:
        text = f"by {facts.calibration_path}, {error:.3g} of the dense rung's on average"
        rows.append(("gradient error", text))
    if facts.budget.temperature_c is not None:
        rows.append(("note", "a temperature is not planned; the run watches it, and pauses"))
    rows += [("advice", line) for line in advice(profile)]
    tables = [*_verdict_lines(plan, mark), "", *_comparison_lines(facts, mark)]
    return "\n".join([*aligned(rows), "", *tables])


def _set_rows(facts: PlanFacts) -> list[tuple[str, str]]:
    """What is trained, and why nothing that is preferred to it, if another set is."""
    if not facts.refused_sets:
        return []
    refused = [(f"not {name}", reason) for name, reason in facts.refused_sets.items()]
    return [("trained", facts.trained), *refused]


def _unlimited(facts: PlanFacts) -> str:
    if not facts.budget.is_limited:
        return "nothing"
    is_best = "all steps keep the most" if facts.calibration_path is None else "it is the best"
    return f"none of the limits: {is_best}"


def _limit_text(name: str) -> str:
    """As the flag that somebody has set, if one has."""
    from edge_runtime.facts.budget import LIMITS

    return f"--{name}" if name in [limit.name for limit in LIMITS] else name


def _run_text(facts: PlanFacts) -> str:
    text = f"{facts.epochs} epochs of {facts.images} pictures: {facts.plan.steps} steps"
    return f"{text}; {facts.best.reason}" if facts.is_auto and facts.best else text


def _totals(plan: "Plan", mark: str) -> str:
    parts = [duration_text(plan.time_s)]
    if plan.wait_s:
        parts[0] += f", of which {duration_text(plan.wait_s)} idle to keep --power"
    if plan.energy_j is not None:
        parts.append(f"{energy_text(plan.energy_j)}{mark}")
    if plan.power_w is not None:
        parts.append(f"{power_text(plan.power_w)} on average{mark}")
    if plan.peak_bytes is not None:
        parts.append(f"{bytes_text(plan.peak_bytes)} at most")
    return "; ".join(parts)


def _verdict_lines(plan: "Plan", mark: str) -> list[str]:
    rows = [("rung", "token-blocks", "step", "energy", "power", "memory", "steps", "why")]
    for verdict in plan.verdicts:
        is_measured = verdict.source == "measured"
        step_mark = "" if is_measured else f" ({verdict.source})"
        row = (
            verdict.rung,
            count_text(verdict.token_blocks),
            _cell(step_text, verdict.step_s, step_mark),
            _cell(energy_text, verdict.step_j, mark),
            _cell(power_text, verdict.power_w, mark),
            _cell(bytes_text, verdict.peak_bytes, "" if is_measured else " (predicted)"),
            str(verdict.steps),
            verdict.reason,
        )
        rows.append(row)
    return aligned(rows)


def _comparison_lines(facts: PlanFacts, mark: str) -> list[str]:
    """The plan beside all steps on each rung alone."""
    rows = [("all steps on", "time", "energy", "memory", "fits", "epochs that fit")]
    for run in facts.alone:
        row = (
            run.rung,
            _cell(duration_text, run.time_s, ""),
            _cell(energy_text, run.energy_j, mark),
            _cell(bytes_text, run.peak_bytes, ""),
            "yes" if run.fits else "no",
            "any" if run.epochs is None else str(run.epochs),
        )
        rows.append(row)
    plan, best = facts.plan, facts.best
    of_plan = (
        "the plan's",
        duration_text(plan.time_s),
        _cell(energy_text, plan.energy_j, mark),
        _cell(bytes_text, plan.peak_bytes, ""),
        "yes",
        f"auto: {best.epochs}"
        if best
        else "not planned"
        if facts.budget.is_bounded
        else "any",
    )
    return aligned([*rows, of_plan])


def _cell(text: Callable[[float], str], value: float | None, mark: str) -> str:
    return "unknown" if value is None else f"{text(value)}{mark}"
