"""The sign before a number of the page: an estimate, or power is unknown for a part."""

from collections.abc import Mapping
from typing import Any, NamedTuple

Row = Mapping[str, Any]


class Annotation(NamedTuple):
    """A sign before a number, and what it means."""

    sign: str
    meaning: str


ESTIMATE = Annotation("≈", "estimate, not measured")
AT_LEAST = Annotation("≥", "power is unknown for a part of the run")
AT_MOST = Annotation("≤", "power is unknown for a part of the run")

# Fields whose unit is another field of their row.
BY_UNIT = {"allowed", "used", "planned", "actual", "difference"}
_CHOSEN = {"allowed", "offset_w"}  # a person's, not a measurement
_WHOLE = {
    *("gross_j", "net_j", "energy_j", "used", "actual", "lost_j"),
    *("mean_w", "energy_per_image_j", "energy_per_epoch_j"),
}


def annotation_of(run: Row, field: str, row: Row) -> Annotation | None:
    """What stands before a number.

    Args:
        run: whose number it is.
        field: its name in `row`.
        row: the table of the JSON document that it stands in.
    """
    if not _is_from_power(field, row):
        return None
    if field == "profile_step_j":
        is_estimate = row["profile_is_estimate"]
    elif field == "planned":
        is_estimate = row["is_estimate"]
    else:
        is_estimate = row.get("energy_is_estimate", run["energy_is_estimate"])
    if is_estimate:
        return ESTIMATE
    if not run["energy_is_incomplete"]:
        return None
    return AT_MOST if field == "images_per_j" else AT_LEAST if field in _WHOLE else None


def _is_from_power(field: str, row: Row) -> bool:
    """Whether a number is computed from power."""
    if field in _CHOSEN:
        return False
    if field in BY_UNIT:
        return str(row["unit"]).startswith(("J", "W"))
    return field.endswith(("_j", "_w")) or field == "images_per_j"
