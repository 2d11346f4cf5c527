"""The newest checkpoint of a run, with the package it was trained from."""

import os
from pathlib import Path
from typing import NamedTuple

from edge_runtime.device import require_room
from edge_runtime.engines import encoder_state_names
from edge_runtime.errors import PackageError
from edge_runtime.evaluation.room import READING_ADVICE, reading_bytes
from edge_runtime.package import Package, open_package
from edge_runtime.records import Run, open_run
from edge_runtime.state import State
from edge_runtime.storage import StrPath


class TrainedState(NamedTuple):
    """The newest checkpoint of a run."""

    package: Package
    step: int
    state: State  # the tensors of its encoder only


def open_trained(run_folder: StrPath, package_folder: StrPath | None = None) -> TrainedState:
    """Read the newest checkpoint and its package.

    Args:
        run_folder: of a run that finished, was interrupted or is still running.
        package_folder: where the package is now; `None`: where it was during the run.

    Raises:
        DeviceError: the encoder does not fit into the memory that is left.
        RecordsError: it is not a run folder, or has no valid checkpoint.
        PackageError: the package was moved, is damaged, or is another one.
    """
    run = open_run(run_folder)
    package = _open_package_of(run, package_folder)
    require_room(f"reading the encoder of {run.path}", reading_bytes(package), READING_ADVICE)
    checkpoint = run.newest_checkpoint(
        encoder_state_names(package), expected=package.expected_state()
    )
    return TrainedState(package, checkpoint.info.step, checkpoint.state)


def _open_package_of(run: Run, package_folder: StrPath | None) -> Package:
    folder = Path(package_folder or run.info.package_path)
    if package_folder is None and not os.path.exists(folder):  # it may be no path at all
        raise PackageError(
            f"{run.path} was trained from the package {folder}, which does not exist "
            "any more. Give its current folder with --package PKG."
        )
    package = open_package(folder)
    expected = run.info.settings.package_digest
    if package.digest != expected:
        raise PackageError(
            f"{folder} is not the package that {run.path} was trained from: its digest is "
            f"{package.digest[:12]}, the run's {expected[:12]}. Give the right one with "
            "--package PKG."
        )
    return package
