"""What `edge-train calibrate` prints: a table for people, or one JSON document."""

from typing import TYPE_CHECKING, Any

from edge_runtime.cli.table import aligned

if TYPE_CHECKING:
    from edge_runtime.facts import Calibration, CalibrationStage


def table_of(calibration: "Calibration") -> dict[str, Any]:
    """The file, and the cost-adjusted error of each rung at each stage."""
    from edge_runtime.schema import unstructure

    table: dict[str, Any] = unstructure(calibration)
    for stage, of_stage in zip(calibration.stages, table["stages"], strict=True):
        of_stage["errors"] = {
            each.rung: calibration.error(stage, each.rung) for each in stage.rungs
        }
    return table


def render_text(calibration: "Calibration") -> str:
    """One row per stage and rung; values relative to the dense rung's mean gradient."""
    mark = ", an estimate" if calibration.cost_is_estimate else ""
    dense = calibration.dense
    lines = [
        f"gradients of {calibration.batches} batches of {calibration.batch_size} pictures per "
        f"stage, compared with those of rung {dense}; costs in {calibration.cost_unit}{mark}",
        "",
    ]
    rows = [
        ("progress", "rung", "cost", "bias^2/|g|^2", "noise", "variance/|g|^2", "error", "")
    ]
    for stage in calibration.stages:
        rows += _rows(calibration, stage)
    lines += aligned(rows)
    lines += [
        "",
        f"error: squared bias + cost * variance, over that of {dense}: below 1 is better than "
        f"{dense} for the same cost; a squared bias below its noise may be chance",
    ]
    return "\n".join(lines)


def _rows(
    calibration: "Calibration", stage: "CalibrationStage"
) -> list[tuple[str, str, str, str, str, str, str, str]]:
    errors = {each.rung: calibration.error(stage, each.rung) for each in stage.rungs}
    smallest = min(errors, key=errors.__getitem__)
    return [
        (
            f"{stage.progress:.0%}",
            each.rung,
            f"{calibration.relative_cost(each.rung):.2f}",
            _relative(each.squared_bias, stage.squared_norm),
            _relative(each.bias_noise, stage.squared_norm),
            _relative(each.variance, stage.squared_norm),
            f"{errors[each.rung]:.3g}",
            "smallest" if each.rung == smallest else "",
        )
        for each in stage.rungs
    ]


def _relative(square: float, squared_norm: float | None) -> str:
    return "unknown" if squared_norm is None else f"{square / squared_norm:.3g}"
