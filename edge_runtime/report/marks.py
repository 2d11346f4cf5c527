"""Which numbers are marked on the page: estimates, and joules that are too few."""

from collections.abc import Mapping
from typing import Any

ESTIMATE = '<abbr class="mark" title="estimate, not measured">≈</abbr>'
AT_LEAST = '<abbr class="mark" title="power is unknown for a part of the run">≥</abbr>'

AT_MOST = '<abbr class="mark" title="power is unknown for a part of the run">≤</abbr>'

_FROM_POWER = ("_j", "_w")  # endings of names
_CHOSEN = {"allowed", "offset_w"}  # a person's, not a measurement
_BY_UNIT = {"used", "planned", "actual", "difference"}
_WHOLE = {
    *("gross_j", "net_j", "energy_j", "used", "actual", "lost_j"),
    *("mean_w", "energy_per_image_j", "energy_per_epoch_j"),
}

Row = Mapping[str, Any]


def is_from_power(field: str, row: Row) -> bool:
    """Whether a number is computed from power."""
    if field in _CHOSEN:
        return False
    if field in _BY_UNIT:
        return str(row.get("unit", "")).startswith(("J", "W"))
    return field.endswith(_FROM_POWER) or field == "images_per_j"


def mark_of(run: Row, field: str, row: Row) -> str:
    """What stands before a number.

    Args:
        run: whose number it is.
        field: its name in `row`.
        row: the table of the JSON document that it stands in.
    """
    if not is_from_power(field, row):
        return ""
    if field == "profile_step_j":
        is_estimate = row["profile_is_estimate"]
    elif field == "planned":
        is_estimate = row["is_estimate"]
    else:
        is_estimate = row.get("energy_is_estimate", run["energy_is_estimate"])
    if is_estimate:
        return ESTIMATE
    if not run["energy_is_incomplete"]:
        return ""
    return AT_MOST if field == "images_per_j" else AT_LEAST if field in _WHOLE else ""
