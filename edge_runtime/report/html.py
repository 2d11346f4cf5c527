"""Pieces of the page: numbers that carry their exact value, tables, lists of facts.

A number is a `<data>` element: its text is rounded for people, its value is that of the JSON
document, and `data-key` is where it stands there. The last letters of a field's name are its
unit and decide how it is written.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from html import escape
from typing import Any, NamedTuple

from edge_runtime.units import (
    bytes_text,
    duration_text,
    energy_text,
    power_text,
    temperature_text,
)


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _small_energy(value: float) -> str:
    return f"{1000 * value:.3g} mJ" if abs(value) < 1 else energy_text(value)


def _short_time(value: float) -> str:
    return f"{1000 * value:.3g} ms" if value < 1 else duration_text(value)


def _rate(unit: str) -> Callable[[float], str]:
    return lambda value: f"{value:,.3g} {unit}" if value < 100 else f"{value:,.0f} {unit}"


_BY_NAME: dict[str, Callable[[float], str]] = {
    "share": _percent,
    "relative": lambda value: f"{100 * value:+.1f} %",
    "accuracy": _percent,
    "untrained_accuracy": _percent,
    "energy_per_image_j": _small_energy,
    "images_per_j": _rate("images/J"),
    "images_per_s": _rate("images/s"),
    "seconds_per_image": _short_time,
    "step_s": _short_time,
    "profile_step_s": _short_time,
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
    "J/image": _small_energy,
    "J/epoch": energy_text,
    "images/J": _rate("images/J"),
    "images/s": _rate("images/s"),
    "steps": lambda value: f"{value:,.0f}",
    "images": lambda value: f"{value:,.0f}",
    "": lambda value: f"{value:.4g}",
}
_ENERGY = ("_j", "_w")
ESTIMATE = '<abbr class="mark" title="estimate: not measured">est.</abbr>'
PARTIAL = '<abbr class="mark" title="power is unknown for a part of the run">at least</abbr>'


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
            return written(value) if value >= 0 else f"−{written(-value)}"
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def is_energy(name: str, unit: str = "") -> bool:
    """Whether it is computed from power."""
    return name.endswith(_ENERGY) or name == "images_per_j" or unit.startswith(("J", "W"))


def number(key: str, value: Any, *, text: str | None = None, mark: str = "") -> str:
    """A value with its place in the JSON document, and a mark behind it."""
    where = f'data-key="{escape(key)}"'
    if value is None:
        return f'<span class="unknown" {where}>unknown</span>'
    name = key.rpartition(".")[2]
    if isinstance(value, float) and not math.isfinite(value):
        return f'<span class="unknown" {where}>no number</span>'
    exact = str(value).lower() if isinstance(value, bool) else str(value)
    shown = escape(text_of(name, value) if text is None else text)
    return f'<data {where} value="{escape(exact)}">{shown}</data>{mark}'


class Column(NamedTuple):
    """One column of a table."""

    title: str
    field: str
    is_text: bool = False
    unit_field: str | None = None  # the field of the row that names the unit


def table(
    caption: str,
    columns: Sequence[Column],
    rows: Sequence[Mapping[str, Any]],
    *,
    key: str,
    mark: Callable[[str, Mapping[str, Any]], str],
    is_tall: bool = False,
) -> str:
    """Rows of the JSON document, as they stand there under `key`.

    Args:
        caption: what it shows.
        columns: those that are shown.
        rows: plain tables.
        key: of the list in the document.
        mark: what stands behind a field of a row.
        is_tall: scrolls by itself.
    """
    head = "".join(
        f'<th scope="col"{_class(column)}>{escape(column.title)}</th>' for column in columns
    )
    body = "".join(
        "<tr>"
        + "".join(_cell(column, row, f"{key}.{index}", mark) for column in columns)
        + "</tr>"
        for index, row in enumerate(rows)
    )
    return (
        f'<div class="scroll{" tall" if is_tall else ""}" tabindex="0" role="region" '
        f'aria-label="{escape(caption)}"><table><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _class(column: Column) -> str:
    return ' class="text"' if column.is_text else ""


def _cell(
    column: Column,
    row: Mapping[str, Any],
    key: str,
    mark: Callable[[str, Mapping[str, Any]], str],
) -> str:
    value, place = row[column.field], f"{key}.{column.field}"
    if column.is_text:
        return f'<td class="text">{escape("" if value is None else str(value))}</td>'
    text = None
    if column.unit_field and value is not None:
        text = with_unit(value, row[column.unit_field], sign=column.field == "difference")
    behind = mark(column.field, row) if value is not None else ""
    return f"<td>{number(place, value, text=text, mark=behind)}</td>"


def with_unit(value: float, unit: str, *, sign: bool = False) -> str:
    """A number whose unit stands beside it."""
    written = BY_UNIT.get(unit, BY_UNIT[""])
    before = "−" if value < 0 else "+" if sign and value > 0 else ""
    return before + written(abs(value))


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A list of names with HTML beside them."""
    items = "".join(f"<dt>{escape(name)}</dt><dd>{value}</dd>" for name, value in rows)
    return f'<dl class="facts">{items}</dl>'
