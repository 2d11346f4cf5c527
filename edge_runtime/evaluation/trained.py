"""What a run has trained so far, with the package that it was trained from."""

from pathlib import Path
from typing import NamedTuple

from edge_runtime.errors import PackageError
from edge_runtime.package import Package, open_package
from edge_runtime.records import Run, open_run
from edge_runtime.state import State


class Trained(NamedTuple):
    """The newest checkpoint of a run."""

    package: Package
    step: int
    state: State


def open_trained(run_folder: Path, package_folder: Path | None) -> Trained:
    """Read the newest checkpoint and its package.

    Args:
        run_folder: of a finished, a broken or a going run.
        package_folder: where the package is now; None looks where the run found it.

    Raises:
        RecordsError: no run folder, or without a checkpoint that can be used.
        PackageError: the package has moved, is damaged, or is another one.
    """
    run = open_run(run_folder)
    checkpoint = run.newest_checkpoint()
    package = _open_package_of(run, package_folder)
    return Trained(package, checkpoint.info.step, checkpoint.state)


def _open_package_of(run: Run, package_folder: Path | None) -> Package:
    folder = package_folder or Path(run.info.package_path)
    if package_folder is None and not folder.exists():
        raise PackageError(
            f"{run.path} was trained from the package {folder}, which is not there any more. "
            "Say where it is now with --package PKG."
        )
    package = open_package(folder)
    wanted = run.info.settings.package_digest
    if package.digest != wanted:
        raise PackageError(
            f"{folder} is not the package that {run.path} was trained from: its digest is "
            f"{package.digest[:12]}, the run's {wanted[:12]}. Give the right one with "
            "--package PKG."
        )
    return package
