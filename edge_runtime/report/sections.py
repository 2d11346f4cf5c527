"""The parts of the page, from the plain data of a report. Every number comes from there."""

from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from edge_runtime.report import headline
from edge_runtime.report.html import (
    ESTIMATE,
    PARTIAL,
    Column,
    facts,
    is_energy,
    number,
    table,
    text_of,
)

if TYPE_CHECKING:
    from edge_runtime.report.drawing import Drawn

Row = Mapping[str, Any]


_TITLES = {  # section of figures -> its title, and what to know about it
    "power": (
        "Power",
        "Watts by rail; below, which rung was trained when, and what was decided: touch or "
        "point at a symbol for the reason. A click on a name hides its line.",
    ),
    "stages": (
        "Energy by stage",
        "Where the joules went. The stages add up to the whole run.",
    ),
    "step-energy": (
        "Energy of a step",
        "Only means over at least 2 s: power is not known well enough for less.",
    ),
    "rungs": (
        "Cost of the rungs",
        "Lower and further left is cheaper. A hollow symbol is a rung that keeps no more "
        "tokens than another one and costs at least as much of everything.",
    ),
    "memory": ("Memory", "Resident memory of all processes, about once per second."),
    "heat": ("Temperature and clocks", "The hottest zone, and how fast the processors ran."),
    "learning": ("Loss and keep-ratio", "By step. Lost steps are not shown."),
    "spent": ("Plan against reality", "What the first plan expected, and what became of it."),
}

_TABLES: dict[str, tuple[str, str, Sequence[Column]]] = {
    # section -> key in a run, caption, columns
    "budget": (
        "budget",
        "Limits of the budget",
        (
            Column("limit", "limit", is_text=True),
            Column("allowed", "allowed", unit_field="unit"),
            Column("used", "used", unit_field="unit"),
            Column("share", "share"),
            Column("kept", "kept"),
        ),
    ),
    "power": (
        "rails",
        "Rails over the whole run",
        (
            Column("rail", "rail", is_text=True),
            Column("energy", "energy_j"),
            Column("mean", "mean_w"),
            Column("peak", "peak_w"),
        ),
    ),
    "windows": (
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
    ),
    "stages": (
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
    ),
    "rungs": (
        "rungs",
        "Rungs: in this run, and in the cost profile",
        (
            Column("rung", "rung", is_text=True),
            Column("keep-ratio", "keep_ratio"),
            Column("steps", "steps"),
            Column("step", "step_s"),
            Column("per step", "step_j"),
            Column("per image", "energy_per_image_j"),
            Column("mean power", "mean_w"),
            Column("peak memory", "peak_bytes"),
            Column("profile: step", "profile_step_s"),
            Column("profile: per step", "profile_step_j"),
        ),
    ),
    "spent": (
        "plan",
        "The first plan, and the run",
        (
            Column("", "name", is_text=True),
            Column("planned", "planned", unit_field="unit"),
            Column("run", "actual", unit_field="unit"),
            Column("difference", "difference", unit_field="unit"),
        ),
    ),
    "decisions": (
        "decisions",
        "What was decided and what happened",
        (
            Column("at", "elapsed_s"),
            Column("step", "step"),
            Column("what", "kind", is_text=True),
            Column("rung", "rung", is_text=True),
            Column("why", "text", is_text=True),
        ),
    ),
    "evaluations": (
        "evaluations",
        "Evaluations: processes of their own, not part of the totals",
        (
            Column("classifier", "classifier", is_text=True),
            Column("after step", "step"),
            Column("accuracy", "accuracy"),
            Column("untrained", "untrained_accuracy"),
            Column("test pictures", "test_pictures"),
            Column("took", "spent_s"),
            Column("energy", "energy_j"),
        ),
    ),
    "processes": (
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
    ),
}


def body(document: Row, drawings: "Mapping[str, Sequence[Drawn]]") -> str:
    """All of the page that people read."""
    runs = document["runs"]
    parts = [headline.head(document)]
    parts.append(_titled("budget", "Budget", _tables(runs, "budget"), ""))
    for section, (title, explanation) in _TITLES.items():
        content = _figures(drawings.get(section, ())) + _tables(runs, section)
        if section == "power":
            content += _tables(runs, "windows")
        parts.append(_titled(section, title, content, explanation))
        if section == "power":
            parts.append(_titled("decisions", "Decisions", _tables(runs, "decisions"), ""))
    parts.append(_titled("evaluations", "Evaluation", _tables(runs, "evaluations"), ""))
    parts.append(_titled("machine", "Machine and measurement", _machine(runs), ""))
    parts.append(
        f"<footer>{escape(document['made_by'])}, report format {document['format']}. Exact "
        "values stand behind the rounded ones: <code>edge-train report --json</code> or "
        "<code>--csv</code>.</footer>"
    )
    return "<main>" + "".join(parts) + "</main>"


def _titled(name: str, title: str, content: str, explanation: str) -> str:
    if not content:
        return ""
    lead = f'<p class="soft">{escape(explanation)}</p>' if explanation else ""
    return f'<section id="{name}"><h2>{escape(title)}</h2>{lead}{content}</section>\n'


def _figures(drawings: "Sequence[Drawn]") -> str:
    """Each with a text that says the same."""
    figures = "".join(
        f'<figure><div class="plot" id="{drawn.plot_id}" role="img" '
        f'aria-label="{escape(drawn.says)}"></div>'
        f"<figcaption>{escape(drawn.says)}</figcaption></figure>"
        for drawn in drawings
    )
    return f'<div class="side">{figures}</div>' if figures else ""


def _tables(runs: Sequence[Row], section: str) -> str:
    """The table of a section, of every run that has rows for it."""
    if section not in _TABLES:
        return ""
    name, caption, columns = _TABLES[section]
    found = [
        table(
            caption if len(runs) == 1 else f"{run['name']}: {caption}",
            columns,
            run[name],
            key=f"runs.{index}.{name}",
            mark=lambda field, row, run=run: mark_of(run, field, row),  # type: ignore[misc]
            is_tall=len(run[name]) > 16,
        )
        for index, run in enumerate(runs)
        if run[name]
    ]
    return "".join(found)


def mark_of(run: Row, field: str, row: Row) -> str:
    """What stands behind a number: that it is an estimate, or too low."""
    unit = str(row.get("unit", ""))
    if not is_energy(field, unit if field in ("allowed", "used", "planned", "actual") else ""):
        return ""
    if field in ("allowed", "offset_w") or field.startswith("idle_w"):
        return ""
    if field in ("planned", "profile_step_j"):
        return ESTIMATE if row.get("is_estimate") or run["energy_is_estimate"] else ""
    if row.get("energy_is_estimate") or (
        run["energy_is_estimate"] and "energy_is_estimate" not in row
    ):
        return ESTIMATE
    return PARTIAL if run["energy_is_incomplete"] and field.endswith("_j") else ""


def _machine(runs: Sequence[Row]) -> str:
    lists = []
    for index, run in enumerate(runs):
        title = f"<h3>{escape(run['name'])}</h3>" if len(runs) > 1 else ""
        lists.append(f"<div>{title}{facts(_facts(run, f'runs.{index}'))}</div>")
    processes = _tables([run for run in runs if len(run["processes"]) > 1], "processes")
    return f'<div class="side">{"".join(lists)}</div>{processes}'


def _facts(run: Row, key: str) -> list[tuple[str, str]]:
    conditions, metering, trained = run["conditions"], run["metering"], run["trained"]
    machine, versions = conditions["machine"], conditions["versions"]

    def of(part: str, field: str, mark: str = "") -> str:
        return number(f"{key}.{part}.{field}", run[part][field], mark=mark)

    known = [f"{name} {text_of('', value)}" for name, value in versions.items()]
    threads = conditions["threads"]
    return [
        ("board", _or_unknown(conditions["board"])),
        ("power mode", _or_unknown(conditions["power_mode"])),
        ("processor", _or_unknown(machine.get("cpu_model"))),
        ("system", ", ".join(escape(str(machine[k])) for k in ("os", "kernel", "machine") if machine.get(k))),
        ("engine", f"{escape(conditions['engine'])}, {threads or 'all'} threads"),
        ("versions", escape(", ".join(known))),
        ("power sensor", _or_none(conditions["sensor"])),
        ("sample rate", f"{of('metering', 'mean_rate_hz')}; {of('conditions', 'sample_rate_hz')} at most"),
        ("samples", f"{of('metering', 'samples')}, {of('metering', 'known_samples')} with power"),
        ("largest gap", f"{of('metering', 'largest_gap_s')}; gaps over {of('metering', 'gap_limit_s')}: {of('metering', 'gap_s')} in all, interpolated"),
        ("before the first reading", f"{of('metering', 'before_s')}, at its power"),
        ("after the last reading", f"{of('metering', 'after_s')}, not counted"),
        ("idle power", of("conditions", "idle_w", ESTIMATE if run["energy_is_estimate"] else "")),
        ("calibration", _calibration(conditions["calibration"])),
        ("package", f"{escape(trained['package_digest'][:12])}, {escape(trained['package_path'])}"),
        ("run folder", f"{escape(run['path'])}, made {escape(run['created_at'])}"),
    ]  # fmt: skip


def _or_unknown(value: object) -> str:
    return '<span class="unknown">unknown</span>' if value is None else escape(str(value))


def _or_none(value: object) -> str:
    return "none" if value is None else escape(str(value))


def _calibration(rails: Mapping[str, Mapping[str, float]]) -> str:
    if not rails:
        return "none: readings are raw"
    parts = [
        f"{rail}: {values.get('gain', 1):g} x read power {values.get('offset_w', 0):+g} W"
        for rail, values in rails.items()
    ]
    return escape("; ".join(parts))
