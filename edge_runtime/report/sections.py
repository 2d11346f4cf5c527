"""The parts of the page, from the plain data of a report. Every number comes from there."""

from collections.abc import Mapping, Sequence
from functools import partial
from html import escape
from typing import TYPE_CHECKING, Any

from edge_runtime.report import headline
from edge_runtime.report.columns import PROCESSES, SECTIONS, Table
from edge_runtime.report.html import facts, number, table_of
from edge_runtime.report.marks import mark_of

if TYPE_CHECKING:
    from edge_runtime.report.drawing import Drawn

Row = Mapping[str, Any]


def body(document: Row, drawings: "Mapping[str, Sequence[Drawn]]") -> str:
    """All of the page that people read."""
    runs = document["runs"]
    parts = [headline.head(document)]
    for section in SECTIONS:
        content = _figures(drawings.get(section.name, ()))
        content += "".join(_tables(runs, table) for table in section.tables)
        parts.append(_titled(section.name, section.title, content, section.explanation))
    parts.append(_titled("machine", "Machine and measurement", _machine(runs), ""))
    parts.append(
        f"<footer>{escape(document['made_by'])}, report format {document['format']}. Exact "
        "values stand behind the rounded ones: <code>edge-train report --json</code> or "
        "<code>--csv</code>.</footer>"
    )
    return f"<main>{''.join(parts)}</main>"


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


def _tables(runs: Sequence[Row], table: Table) -> str:
    """The same table of every run."""
    return "".join(
        table_of(
            table,
            run[table.name],
            caption=table.caption if len(runs) == 1 else f"{run['name']}: {table.caption}",
            key=f"runs.{index}.{table.name}",
            mark=partial(mark_of, run),
        )
        for index, run in enumerate(runs)
    )


def _machine(runs: Sequence[Row]) -> str:
    lists = []
    for index, run in enumerate(runs):
        title = f"<h3>{escape(run['name'])}</h3>" if len(runs) > 1 else ""
        lists.append(f"<div>{title}{facts(_facts(run, f'runs.{index}'))}</div>")
    processes = ""
    if any(len(run["processes"]) > 1 for run in runs):
        processes = _tables(runs, PROCESSES)
    return f'<div class="side">{"".join(lists)}</div>{processes}'


def _facts(run: Row, key: str) -> list[tuple[str, str]]:
    conditions, trained = run["conditions"], run["trained"]
    machine = conditions["machine"]
    system = [str(machine[name]) for name in ("os", "kernel", "machine") if machine.get(name)]
    versions = [f"{name} {value}" for name, value in conditions["versions"].items()]
    return [
        ("board", _or_unknown(conditions["board"])),
        ("power mode", _or_unknown(conditions["power_mode"])),
        ("processor", _or_unknown(machine.get("cpu_model"))),
        ("system", escape(", ".join(system))),
        (
            "engine",
            f"{escape(conditions['engine'])}, {conditions['threads'] or 'all'} threads",
        ),
        ("versions", escape(", ".join(versions))),
        *_measured_by(run, key),
        ("calibration", _calibration(conditions["calibration"])),
        ("package", escape(f"{trained['package_digest'][:12]}, {trained['package_path']}")),
        ("run folder", escape(f"{run['path']}, made {run['created_at']}")),
    ]


def _measured_by(run: Row, key: str) -> list[tuple[str, str]]:
    def of(field: str, part: str = "metering") -> str:
        mark = mark_of(run, field, run[part])
        return number(f"{key}.{part}.{field}", run[part][field], mark=mark)

    return [
        ("power sensor", escape(run["conditions"]["sensor"] or "none")),
        ("samples", f"{of('samples')}, {of('known_samples')} of them with power"),
        ("sample rate", f"{of('mean_rate_hz')}; at most {of('sample_rate_hz', 'conditions')}"),
        ("largest gap", of("largest_gap_s")),
        ("gaps", f"{of('gap_s')} in gaps over {of('gap_limit_s')}, interpolated"),
        ("before the first reading", f"{of('before_s')}, at its power"),
        ("after the last reading", f"{of('after_s')}, not counted"),
        ("idle power", of("idle_w", "conditions")),
    ]


def _or_unknown(value: object) -> str:
    return '<span class="unknown">unknown</span>' if value is None else escape(str(value))


def _calibration(rails: Mapping[str, Mapping[str, float]]) -> str:
    if not rails:
        return "none: readings are raw"
    parts = [
        f"{rail}: {values.get('gain', 1):g} x read power {values.get('offset_w', 0):+g} W"
        for rail, values in rails.items()
    ]
    return escape("; ".join(parts))
