"""Pieces of the page: numbers that carry their exact value, tables, lists of facts.

A number is a `<data>` element: its text is rounded for people, its value is that of the JSON
document, and `data-key` is where it stands there. The last letters of a field's name are its
unit and decide how it is written.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any, TypeAlias

from edge_runtime.report.columns import Column, Table
from edge_runtime.units import (
    bytes_text,
    duration_text,
    energy_text,
    power_text,
    temperature_text,
)

Row: TypeAlias = Mapping[str, Any]
Mark: TypeAlias = Callable[[str, Row], str]

_MOST_ROWS = 16  # of a table that does not scroll by itself


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def short_time_text(value: float) -> str:
    """For example `8.31 ms`, `1.25 s`."""
    return f"{1000 * value:.3g} ms" if value < 1 else duration_text(value)


def _rate(unit: str) -> Callable[[float], str]:
    return lambda value: f"{value:,.3g} {unit}" if value < 100 else f"{value:,.0f} {unit}"


_BY_NAME: dict[str, Callable[[float], str]] = {
    "share": _percent,
    "relative": lambda value: f"{100 * value:+.1f} %",
    "accuracy": _percent,
    "untrained_accuracy": _percent,
    "images_per_j": _rate("images/J"),
    "images_per_s": _rate("images/s"),
    "seconds_per_image": short_time_text,
    "step_s": short_time_text,
    "profile_step_s": short_time_text,
    "first_loss": lambda value: f"{value:.4f}",
    "last_loss": lambda value: f"{value:.4f}",
    "epochs": lambda value: f"{value:.4g}",
    "keep_ratio": lambda value: f"{value:g}",
}
_BY_ENDING: dict[str, Callable[[float], str]] = {
    "_j": energy_text,
    "_w": power_text,
    "_s": duration_text,
    "_bytes": bytes_text,
    "_c": temperature_text,
    "_hz": _rate("Hz"),
    "_px": lambda value: f"{value:g} px",
}
BY_UNIT: dict[str, Callable[[float], str]] = {
    "J": energy_text,
    "W": power_text,
    "s": duration_text,
    "bytes": bytes_text,
    "C": temperature_text,
    "J/image": energy_text,
    "J/epoch": energy_text,
    "images/J": _rate("images/J"),
    "images/s": _rate("images/s"),
    "steps": lambda value: f"{value:,.0f}",
    "images": lambda value: f"{value:,.0f}",
    "": lambda value: f"{value:.4g}",
}


def text_of(name: str, value: Any) -> str:
    """A value as people read it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if not isinstance(value, int | float):
        return str(value)
    if name in _BY_NAME:
        return _BY_NAME[name](value)
    for ending, written in _BY_ENDING.items():
        if name.endswith(ending):
            # Units are written for amounts; a difference may be below zero.
            return written(value) if value >= 0 else f"\u2212{written(-value)}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def number(key: str, value: Any, *, text: str | None = None, mark: str = "") -> str:
    """A value with its place in the JSON document, and a mark before it."""
    where = f'data-key="{escape(key)}"'
    if value is None:
        return f'<span class="unknown" {where}>unknown</span>'
    name = key.rpartition(".")[2]
    exact = str(value).lower() if isinstance(value, bool) else str(value)
    shown = escape(text_of(name, value) if text is None else text)
    return f'<data {where} value="{escape(exact)}">{mark}{shown}</data>'


def table_of(table: Table, rows: Sequence[Row], *, caption: str, key: str, mark: Mark) -> str:
    """Some rows of the JSON document; empty where there is none to show.

    Args:
        table: what is shown of them.
        rows: as they stand in the document under `key`.
        caption: what it shows.
        key: of the list in the document.
        mark: what stands before a field of a row.
    """
    shown = [(index, row) for index, row in enumerate(rows) if table.is_shown(row)]
    if not shown:
        return ""
    columns = [c for c in table.columns if any(row[c.field] is not None for _, row in shown)]
    head = "".join(f'<th scope="col"{_class(c)}>{escape(c.title)}</th>' for c in columns)
    body = "".join(
        f"<tr>{''.join(_cell(c, row, f'{key}.{index}', mark) for c in columns)}</tr>"
        for index, row in shown
    )
    return (
        f'<div class="scroll{" tall" if len(shown) > _MOST_ROWS else ""}" tabindex="0" '
        f'role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}</caption>"
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _class(column: Column) -> str:
    return ' class="text"' if column.is_text else ""


def _cell(column: Column, row: Row, key: str, mark: Mark) -> str:
    value, place = row[column.field], f"{key}.{column.field}"
    if column.is_text:
        shown = "" if value is None else str(value)
        if column.field == "kind":
            shown = shown.replace("_", " ")
        return f'<td class="text">{escape(shown)}</td>'
    if value is None:
        title = 'title="unknown" aria-label="unknown"'
        return f'<td class="unknown" data-key="{escape(place)}" {title}>\u2013</td>'
    text = None
    if column.unit_field:
        text = with_unit(value, row[column.unit_field], sign=column.field == "difference")
    return f"<td>{number(place, value, text=text, mark=mark(column.field, row))}</td>"


def with_unit(value: float, unit: str, *, sign: bool = False) -> str:
    """A number whose unit stands beside it."""
    written = BY_UNIT.get(unit, BY_UNIT[""])
    before = "\u2212" if value < 0 else "+" if sign and value > 0 else ""
    return before + written(abs(value))


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A list of names with HTML beside them."""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in rows)
    return f'<dl class="facts">{items}</dl>'
