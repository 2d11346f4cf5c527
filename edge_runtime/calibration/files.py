"""The file of a calibration, format 1: written whole, read strictly."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

from edge_runtime.documents import read_document, write_document
from edge_runtime.errors import ConfigError, RecordsError
from edge_runtime.facts import Calibration, CalibrationStage
from edge_runtime.facts.calibration import COST_UNITS, LEAST_VARIANCE
from edge_runtime.package import Package
from edge_runtime.schema import problems_text, shown, structure, unstructure

FORMAT = 1
_COMMAND = "edge-train calibrate PKG DATA"


def save_calibration(calibration: Calibration, path: Path) -> None:
    """Write a calibration, complete or not at all.

    Raises:
        RecordsError: `load_calibration` would refuse it; every problem is listed.
        StorageError: the disk is full, read-only or gone.
    """
    table = unstructure(calibration)
    _checked(table, f"calibration {path} is not written")
    write_document(path, table)


def load_calibration(path: Path, package: Package | None = None) -> Calibration:
    """Read a calibration.

    Args:
        path: the file.
        package: which it has to be of; `None`: any.

    Raises:
        ConfigError: it does not exist, or is of another package.
        RecordsError: it is damaged or of another format; every problem is listed.
    """
    try:
        table = read_document(path, "calibration", version=FORMAT, command=_COMMAND)
    except FileNotFoundError as error:
        raise ConfigError(
            f"calibration {path} does not exist. Measure one with `{_COMMAND}`."
        ) from error
    where = f"calibration {path}"
    calibration = _checked(table, where)
    if package is not None:
        _require_package(calibration, package, where)
    return calibration


def _checked(table: Any, where: str) -> Calibration:
    """A calibration with nothing that no measurement can give.

    Raises:
        RecordsError: it has problems.
    """
    calibration = structure(Calibration, table, where=where, error=RecordsError)
    if problems := list(_problems_of(calibration)):
        raise RecordsError(problems_text(where, problems))
    return calibration


def _problems_of(calibration: Calibration) -> Iterator[str]:
    """What no measurement can give."""
    if calibration.cost_unit not in COST_UNITS:
        known = ", ".join(COST_UNITS)
        yield f"cost_unit: {shown(calibration.cost_unit)} is unknown; known are {known}"
    if calibration.dense not in calibration.costs:
        yield f"dense: {shown(calibration.dense)} is not one of costs"
    if not calibration.stages:
        yield "stages: the list is empty"
    if any(a.progress >= b.progress for a, b in pairwise(calibration.stages)):
        yield "stages: their progress does not ascend"
    for index, stage in enumerate(calibration.stages):
        for problem in _problems_of_stage(stage, calibration):
            yield f"stages[{index}].{problem}"


def _problems_of_stage(stage: CalibrationStage, calibration: Calibration) -> Iterator[str]:
    if sorted(each.rung for each in stage.rungs) != sorted(calibration.costs):
        names = ", ".join(calibration.costs)
        yield f"rungs: expected one of each of costs: {shown(names)}"
        return
    if calibration.dense in calibration.costs:
        dense = stage.of(calibration.dense)
        if dense.squared_bias:
            yield f"rungs: the dense rung has a squared bias of {dense.squared_bias:g}, not 0"
        if dense.variance < LEAST_VARIANCE:
            yield "rungs: the dense rung has no variance, by which errors are divided"


def _require_package(calibration: Calibration, package: Package, where: str) -> None:
    """Refuse the calibration of another package.

    Raises:
        ConfigError: the digests differ.
        RecordsError: its rungs are not those of the package.
    """
    if calibration.package_digest != package.digest:
        raise ConfigError(
            f"{where} is of another package: its digest is "
            f"{shown(calibration.package_digest[:12])}, that of {package.path} is "
            f"{package.digest[:12]!r}. Measure one with "
            f"`edge-train calibrate {package.path} DATA`."
        )
    rungs = {rung.id: rung.trained for rung in package.manifest.rungs}
    if foreign := sorted(calibration.costs.keys() - rungs.keys()):
        raise RecordsError(
            f"{where}: costs: {shown(', '.join(foreign))}: not among the rungs of "
            f"{package.path}."
        )
    if len({rungs[rung] for rung in calibration.costs}) > 1:
        raise RecordsError(f"{where}: costs: its rungs train different parameters.")
