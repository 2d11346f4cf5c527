"""How the page writes numbers: rounded for people, with the exact value beside it.

The last letters of a field's name are its unit and decide how it is written.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from edge_runtime.report.page.annotations import BY_UNIT, Annotation, annotation_of
from edge_runtime.units import (
    bytes_text,
    duration_text,
    energy_text,
    power_text,
    temperature_text,
)

Row = Mapping[str, Any]
_Format = Callable[[float], str]


def short_time_text(value: float) -> str:
    """For example `8.31 ms`, `1.25 s`."""
    return f"{1000 * value:.3g} ms" if value < 1 else duration_text(value)


def _rate(unit: str) -> _Format:
    return lambda value: f"{value:,.3g} {unit}" if value < 100 else f"{value:,.0f} {unit}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _general(value: float) -> str:
    return f"{value:.4g}"


_BY_NAME: dict[str, _Format] = {
    "share": _percent,
    "relative": lambda value: f"{100 * value:+.1f} %",
    "accuracy": _percent,
    "untrained_accuracy": _percent,
    "images_per_j": _rate("images/J"),
    "images_per_s": _rate("images/s"),
    "seconds_per_image": short_time_text,
    "step_s": short_time_text,
    "profile_step_s": short_time_text,
    "first_loss": "{:.4f}".format,
    "last_loss": "{:.4f}".format,
    "epochs": _general,
    "keep_ratio": "{:g}".format,
}
_BY_UNIT: dict[str, _Format] = {  # as it ends the name of a field, or stands in its row
    "j": energy_text,
    "w": power_text,
    "s": duration_text,
    "bytes": bytes_text,
    "c": temperature_text,
    "hz": _rate("Hz"),
    "steps": "{:,.0f}".format,
}


class Number(NamedTuple):
    """A value of the JSON document as the page shows it."""

    key: str  # its place in the document
    exact: str | None  # None: unknown
    text: str
    annotation: Annotation | None


def number_of(document: Row, key: str) -> Number:
    """The value at a place such as `runs.0.totals.gross_j`."""
    *path, field = key.split(".")
    row: Any = document
    for part in path:
        row = row[int(part)] if part.isdecimal() else row[part]
    value = row[field]
    if value is None:
        return Number(key, None, "unknown", None)
    exact = str(value).lower() if isinstance(value, bool) else str(value)
    annotation = None
    if path[0] == "runs":
        annotation = annotation_of(document["runs"][int(path[1])], field, row)
    return Number(key, exact, _text(field, value, row), annotation)


def _text(field: str, value: Any, row: Row) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if field in _BY_NAME:
        return _BY_NAME[field](value)
    unit = row["unit"].lower() if field in BY_UNIT else field.rpartition("_")[2]
    written = _BY_UNIT.get(unit)
    if written is None:
        return f"{value:,}" if isinstance(value, int) else _general(value)
    # Units are written for amounts; a difference may be below zero.
    sign = "\u2212" if value < 0 else "+" if field == "difference" and value > 0 else ""
    return sign + written(abs(value))
