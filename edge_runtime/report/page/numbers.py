"""How the page writes numbers: rounded for people, with the exact value beside it.

The last letters of a field's name are its unit and decide how it is written. A sign before a
number says that it is an estimate, or that power is unknown for a part of the run.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

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
    "keep_ratio": "{:g}".format,
}
# By the unit as it ends the name of a field, or stands in its row.
BY_UNIT: dict[str, _Format] = {
    "j": energy_text,
    "w": power_text,
    "s": duration_text,
    "bytes": bytes_text,
    "c": temperature_text,
    "hz": _rate("Hz"),
    "steps": "{:,.0f}".format,
}
# Fields whose unit is another field of their row.
_UNIT_BESIDE = {"allowed", "used", "planned", "actual", "difference"}
_CHOSEN = {"allowed", "offset_w"}  # a person's, not a measurement
_WHOLE = {  # too low where power is unknown for a part of the run
    *("gross_j", "net_j", "energy_j", "used", "actual", "lost_j"),
    *("mean_w", "energy_per_image_j", "energy_per_epoch_j"),
}
_IS_ESTIMATE = {"profile_step_j": "profile_is_estimate", "planned": "is_estimate"}


class Annotation(NamedTuple):
    """A sign before a number, and what it means."""

    sign: str
    meaning: str


_ESTIMATE = Annotation("≈", "estimate, not measured")
_AT_LEAST = Annotation("≥", "power is unknown for a part of the run")
_AT_MOST = Annotation("≤", "power is unknown for a part of the run")


class Number(NamedTuple):
    """A value of the JSON document as the page shows it."""

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
        return Number(None, "unknown", None)
    exact = str(value).lower() if isinstance(value, bool) else str(value)
    run = document["runs"][int(path[1])] if path[0] == "runs" else None
    return Number(exact, _text(field, value, row), run and _annotation(run, field, row))


def _text(field: str, value: Any, row: Row) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if field in _BY_NAME:
        return _BY_NAME[field](value)
    written = BY_UNIT.get(_unit(field, row))
    if written is None:
        return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
    # Units are written for amounts; a difference may be below zero.
    sign = "\u2212" if value < 0 else "+" if field == "difference" and value > 0 else ""
    return sign + written(abs(value))


def _unit(field: str, row: Row) -> str:
    return str(row["unit"]).lower() if field in _UNIT_BESIDE else field.rpartition("_")[2]


def _annotation(run: Row, field: str, row: Row) -> Annotation | None:
    """What stands before a number of a run that is computed from power."""
    is_from_power = _unit(field, row) in ("j", "w") and field not in _CHOSEN
    if not is_from_power:
        return None
    if row.get(_IS_ESTIMATE.get(field, "energy_is_estimate"), run["energy_is_estimate"]):
        return _ESTIMATE
    if not run["energy_is_incomplete"]:
        return None
    return _AT_MOST if field == "images_per_j" else _AT_LEAST if field in _WHOLE else None
