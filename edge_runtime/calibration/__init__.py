"""Gradient errors of a package's rungs: measured at stages of a run, kept in a file."""

from edge_runtime.calibration.files import load_calibration, save_calibration
from edge_runtime.calibration.measure import CalibrationOptions, calibrate
from edge_runtime.calibration.schedule import (
    calibrated_rungs,
    require_epochs,
    unlimited_schedule,
)
from edge_runtime.calibration.stages import initial_stage, stages_of_run

__all__ = [
    "CalibrationOptions",
    "calibrate",
    "calibrated_rungs",
    "initial_stage",
    "load_calibration",
    "require_epochs",
    "save_calibration",
    "stages_of_run",
    "unlimited_schedule",
]
