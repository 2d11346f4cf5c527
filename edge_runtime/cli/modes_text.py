"""What `edge-train modes` prints: the comparison for people, or as one JSON document."""

import os
import shlex
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from edge_runtime.cli.quantities import count_text
from edge_runtime.cli.table import aligned
from edge_runtime.storage import cache_folder
from edge_runtime.units import duration_text, energy_text, power_text

if TYPE_CHECKING:
    from edge_runtime.device import Board, ModeClocks
    from edge_runtime.facts import Budget, Plan, SingleRungCost
    from edge_runtime.profiling import ModeCosts


class ModeRun(NamedTuple):
    """The work in one mode."""

    costs: "ModeCosts"
    alone: "tuple[SingleRungCost, ...]" = ()  # all of it on one rung
    plan: "Plan | None" = None  # with the most token-blocks
    no_plan: str | None = None  # why there is none
    reason: str | None = None  # why its costs do not tell

    @property
    def problem(self) -> str | None:
        """Why nothing is known of this mode."""
        return self.costs.problem or self.reason


class ModesFacts(NamedTuple):
    """A comparison and its inputs."""

    package: Path
    board: "Board"
    kind: str  # of the modes
    before: str  # the mode that was set, and is set again
    budget: "Budget"
    epochs: int
    steps: int
    trained: str  # the set of parameters that its rungs train
    runs: tuple[ModeRun, ...]


class BestRun(NamedTuple):
    """All steps on one rung in one mode."""

    mode: str
    run: "SingleRungCost"


def least(
    runs: Iterable[ModeRun],
    value: "Callable[[SingleRungCost], float | None]",
    rung: str | None = None,
) -> BestRun | None:
    """The mode and rung with the least known value that fit the budget.

    Args:
        runs: of all modes.
        value: time or energy.
        rung: the only one that counts; `None`: any.
    """
    choices = [
        (known, BestRun(run.costs.mode, alone))
        for run in runs
        for alone in run.alone
        if rung in (None, alone.rung) and alone.fits
        if (known := value(alone)) is not None
    ]
    return min(choices, key=lambda pair: pair[0])[1] if choices else None


def least_energy(runs: Iterable[ModeRun], rung: str | None = None) -> BestRun | None:
    """The mode and rung that take the fewest joules; `None`: unknown, or nothing fits."""
    return least(runs, lambda alone: alone.energy_j, rung)


def least_time(runs: Iterable[ModeRun], rung: str | None = None) -> BestRun | None:
    """The mode and rung that take the least time; `None`: nothing fits."""
    return least(runs, lambda alone: alone.time_s, rung)


def most_tokens(runs: Iterable[ModeRun]) -> ModeRun | None:
    """The mode whose plan keeps the most token-blocks; of equal ones the fastest."""
    planned = [(run.plan.token_blocks, -run.plan.time_s, run) for run in runs if run.plan]
    return max(planned, key=lambda row: row[:2])[2] if planned else None


def table_of(facts: ModesFacts) -> dict[str, Any]:
    """The document that `--json` prints; docs/commands/modes.md has its keys."""
    from edge_runtime.schema import unstructure

    def choice(found: BestRun | None) -> dict[str, Any] | None:
        return None if found is None else {"mode": found.mode, **unstructure(found.run)}

    best = most_tokens(facts.runs)
    return {
        "package": str(facts.package),
        "board": facts.board.id,
        "kind": facts.kind,
        "before": facts.before,
        "budget": unstructure(facts.budget),
        "epochs": facts.epochs,
        "steps": facts.steps,
        "trained": facts.trained,
        "least_energy": choice(least_energy(facts.runs)),
        "least_time": choice(least_time(facts.runs)),
        "most_tokens": None if best is None else best.costs.mode,
        "rungs": {
            rung: {
                "least_energy": choice(least_energy(facts.runs, rung)),
                "least_time": choice(least_time(facts.runs, rung)),
            }
            for rung in _rungs(facts)
        },
        "modes": [
            {
                "mode": run.costs.mode,
                "problem": run.problem,
                "profile": None if run.costs.path is None else str(run.costs.path),
                "was_cached": run.costs.was_cached,
                "throttled": run.costs.throttled,
                "alone": unstructure(run.alone),
                "plan": None if run.plan is None else unstructure(run.plan),
                "no_plan": run.no_plan,
            }
            for run in facts.runs
        ],
    }


def render_text(facts: ModesFacts) -> str:
    """The comparison for people."""
    rows = [
        ("board", f"{facts.board.name}; modes of {facts.kind}, {facts.before} is set"),
        ("work", f"{facts.epochs} epochs: {facts.steps} steps of {facts.package}"),
        ("budget", str(facts.budget) or "none"),
        ("least energy", _choice_text(least_energy(facts.runs), _why_unknown(facts))),
        ("least time", _choice_text(least_time(facts.runs), "nothing fits the budget")),
        *_rung_rows(facts),
        *_plan_rows(facts),
        *[(f"not {run.costs.mode}", why) for run in facts.runs if (why := run.problem)],
        *_notes(facts),
    ]
    return "\n".join([*aligned(rows), "", *_table(facts)])


def _rungs(facts: ModesFacts) -> list[str]:
    """In the order of the package."""
    return list(dict.fromkeys(alone.rung for run in facts.runs for alone in run.alone))


def _choice_text(choice: BestRun | None, why_not: str) -> str:
    if choice is None:
        return why_not
    return f"{choice.run.rung} in {choice.mode}: {_costs_text(choice.run)}"


def _costs_text(run: "SingleRungCost") -> str:
    parts = [] if run.time_s is None else [duration_text(run.time_s)]
    parts += [] if run.energy_j is None else [energy_text(run.energy_j)]
    return ", ".join(parts)


def _why_unknown(facts: ModesFacts) -> str:
    """Why no energy is compared."""
    profiles = [run.costs.profile for run in facts.runs if run.costs.profile is not None]
    if all(profile.sensor is None for profile in profiles):
        return "unknown: no power sensor works on this board, see `edge-train doctor`"
    if all(profile.energy_is_estimate for profile in profiles):
        return (
            "unknown: this board has no power sensor, and the estimate from processor load "
            "does not know the clock rates of a mode"
        )
    if any(alone.energy_j is not None for run in facts.runs for alone in run.alone):
        return "nothing fits the budget"
    return "unknown: the power sensor had no true readings"


def _rung_rows(facts: ModesFacts) -> list[tuple[str, str]]:
    """For each rung, in which mode it is best: fewer tokens are less work."""
    rows = []
    for rung in _rungs(facts):
        parts = []
        if choice := least_energy(facts.runs, rung):
            parts.append(f"least energy in {choice.mode} ({_costs_text(choice.run)})")
        if choice := least_time(facts.runs, rung):
            parts.append(f"least time in {choice.mode} ({_costs_text(choice.run)})")
        rows.append((f"all on {rung}", "; ".join(parts) or "does not fit the budget"))
    return rows


def _plan_rows(facts: ModesFacts) -> list[tuple[str, str]]:
    """With a budget, the mode that keeps the most tokens."""
    from edge_runtime.facts.plan import steps_text

    best = most_tokens(facts.runs) if facts.budget.is_limited else None
    if best is None or best.plan is None:
        return []
    steps = steps_text((part.rung, part.steps) for part in best.plan.segments)
    blocks = count_text(best.plan.token_blocks)
    return [("most tokens", f"in {best.costs.mode}: {steps}, {blocks} token-blocks")]


def _notes(facts: ModesFacts) -> list[tuple[str, str]]:
    notes = [
        (
            "note",
            f"the board was throttled in {run.costs.mode}: with better cooling it is faster, "
            "and these costs are not kept",
        )
        for run in facts.runs
        if run.costs.throttled
    ]
    if any(run.costs.problem for run in facts.runs) and os.geteuid() != 0:
        cache = shlex.quote(str(cache_folder().absolute()))
        notes.append(
            (
                "note",
                "modes are changed as root: "
                f'`sudo env EDGE_TRAIN_CACHE={cache} "$(command -v edge-train)" modes ...`',
            )
        )
    return notes


def _table(facts: ModesFacts) -> list[str]:
    documented = facts.board.power.modes
    heads = ("mode", "all steps on", "time", "energy", "power", "fits", "clocks by profile")
    rows: list[Sequence[str]] = [heads]
    for run in facts.runs:
        clocks = _clocks_text(documented.get(run.costs.mode))
        rows += [(run.costs.mode, *_cells(alone), clocks) for alone in run.alone]
    return aligned(rows if documented else [row[:-1] for row in rows])


def _cells(alone: "SingleRungCost") -> tuple[str, str, str, str, str]:
    energy_j, time_s = alone.energy_j, alone.time_s
    power_w = energy_j / time_s if energy_j is not None and time_s else None
    return (
        alone.rung,
        _cell(duration_text, time_s),
        _cell(energy_text, energy_j),
        _cell(power_text, power_w),
        "yes" if alone.fits else "no",
    )


def _clocks_text(clocks: "ModeClocks | None") -> str:
    """What the board's profile says of a mode."""
    if clocks is None:
        return ""
    parts = [] if clocks.cpus is None else [f"{clocks.cpus} CPUs"]
    parts += [] if clocks.cpu_mhz is None else [f"CPU {clocks.cpu_mhz:g} MHz"]
    parts += [] if clocks.gpu_mhz is None else [f"GPU {clocks.gpu_mhz:g} MHz"]
    return ", ".join(parts)


def _cell(text: Callable[[float], str], value: float | None) -> str:
    return "unknown" if value is None else text(value)
