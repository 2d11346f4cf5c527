"""The tables of the page: what of the JSON document each of them shows."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple


class Column(NamedTuple):
    """One column of a table."""

    title: str
    field: str
    is_text: bool = False
    unit_field: str | None = None  # the field of the row that names the unit


class Table(NamedTuple):
    """A list of a run in the document, as the page shows it."""

    name: str  # of the list
    caption: str
    columns: Sequence[Column]
    is_shown: Callable[[Mapping[str, Any]], bool] = lambda row: True


BUDGET = Table(
    "budget",
    "Limits of the budget",
    (
        Column("limit", "limit", is_text=True),
        Column("allowed", "allowed", unit_field="unit"),
        Column("used", "used", unit_field="unit"),
        Column("share", "share"),
        Column("kept", "kept"),
    ),
)
RAILS = Table(
    "rails",
    "Rails over the whole run",
    (
        Column("rail", "rail", is_text=True),
        Column("energy", "energy_j"),
        Column("mean", "mean_w"),
        Column("peak", "peak_w"),
    ),
)
WINDOWS = Table(
    "windows",
    "Named windows, as the meter measured them while they ran",
    (
        Column("window", "name", is_text=True),
        Column("begins at", "begins_s"),
        Column("took", "duration_s"),
        Column("gross", "gross_j"),
        Column("net", "net_j"),
        Column("mean", "mean_w"),
        Column("peak", "peak_w"),
    ),
)
DECISIONS = Table(
    "decisions",
    "What was decided and what happened",
    (
        Column("at", "elapsed_s"),
        Column("step", "step"),
        Column("what", "kind", is_text=True),
        Column("rung", "rung", is_text=True),
        Column("why", "text", is_text=True),
    ),
)
STAGES = Table(
    "stages",
    "Time and energy by stage",
    (
        Column("stage", "stage", is_text=True),
        Column("time", "time_s"),
        Column("share of time", "share"),
        Column("gross", "gross_j"),
        Column("idle board", "idle_j"),
        Column("net", "net_j"),
    ),
    lambda row: row["time_s"] > 0,
)
RUNGS = Table(
    "rungs",
    "Rungs: means in this run, and in the cost profile",
    (
        Column("rung", "rung", is_text=True),
        Column("keep-ratio", "keep_ratio"),
        Column("steps", "steps"),
        Column("time per step", "step_s"),
        Column("energy per step", "step_j"),
        Column("per image", "energy_per_image_j"),
        Column("power", "mean_w"),
        Column("peak memory", "peak_bytes"),
        Column("profile: time", "profile_step_s"),
        Column("profile: energy", "profile_step_j"),
        Column("profile: memory", "profile_peak_bytes"),
    ),
    lambda row: row["steps"] > 0 or row["profile_step_s"] is not None,
)
PLAN = Table(
    "plan",
    "The first plan, and the run",
    (
        Column("", "name", is_text=True),
        Column("planned", "planned", unit_field="unit"),
        Column("run", "actual", unit_field="unit"),
        Column("difference", "difference", unit_field="unit"),
    ),
)
EVALUATIONS = Table(
    "evaluations",
    "By processes of their own, not part of the totals",
    (
        Column("classifier", "classifier", is_text=True),
        Column("after step", "step"),
        Column("accuracy", "accuracy"),
        Column("untrained", "untrained_accuracy"),
        Column("test pictures", "test_pictures"),
        Column("took", "spent_s"),
        Column("energy", "energy_j"),
    ),
)
PROCESSES = Table(
    "processes",
    "Processes that worked on the run, one after the other",
    (
        Column("process", "process"),
        Column("began (UTC)", "began_at", is_text=True),
        Column("time", "time_s"),
        Column("gross", "gross_j"),
        Column("first step", "first_step"),
        Column("last step", "last_step"),
        Column("lost", "lost_s"),
        Column("lost energy", "lost_j"),
    ),
)


class Section(NamedTuple):
    """A part of the page."""

    name: str  # of its figures, too
    title: str
    explanation: str
    tables: Sequence[Table]


SECTIONS = (
    Section("budget", "Budget", "", (BUDGET,)),
    Section(
        "power",
        "Power",
        "Watts by rail; below, which rung was trained when, and what was decided: touch or "
        "point at a symbol for the reason. A click on a name hides its line.",
        (RAILS, WINDOWS),
    ),
    Section("decisions", "Decisions", "", (DECISIONS,)),
    Section(
        "stages",
        "Energy by stage",
        "Where the joules went. The stages add up to the whole run.",
        (STAGES,),
    ),
    Section(
        "step-energy",
        "Energy of a step",
        "Only means over at least 2 s: power is not known well enough for less.",
        (),
    ),
    Section(
        "rungs",
        "Cost of the rungs",
        "Lower and further left is cheaper. A hollow symbol is a rung that keeps no more "
        "tokens than another one and costs at least as much of everything.",
        (RUNGS,),
    ),
    Section(
        "memory", "Memory", "Resident memory of all processes, about once per second.", ()
    ),
    Section(
        "heat", "Temperature and clocks", "The hottest zone, and the processors' clocks.", ()
    ),
    Section(
        "learning",
        "Loss and keep-ratio",
        "By step. Lost steps are not shown. Losses of keep-ratios are not comparable.",
        (),
    ),
    Section(
        "spent",
        "Plan against reality",
        "What the first plan expected, and what became of it.",
        (PLAN,),
    ),
    Section("evaluations", "Evaluation", "", (EVALUATIONS,)),
)
