"""States of the weights at which a calibration is measured: the initial one, checkpoints."""

from collections.abc import Callable, Collection
from functools import partial
from pathlib import Path
from typing import NamedTuple

from edge_runtime.errors import PackageError, RecordsError
from edge_runtime.facts.plan import EPOCHS
from edge_runtime.package import Package
from edge_runtime.records import Run
from edge_runtime.records.checkpoints import Checkpoint, checkpoint_paths, load_checkpoint
from edge_runtime.records.run import CHECKPOINTS, STEPS_FILE
from edge_runtime.state import State


class Stage(NamedTuple):
    """One state of a run."""

    step: int  # steps done before
    steps_per_epoch: int
    total_steps: int
    read_state: Callable[[], State]

    @property
    def progress(self) -> float:
        """Share of the run that is done."""
        return self.step / self.total_steps


def initial_stage(package: Package, steps_per_epoch: int) -> Stage:
    """The package's initial state, before the first step of a run of many epochs."""
    total_steps = EPOCHS * steps_per_epoch
    return Stage(0, steps_per_epoch, total_steps, package.initial_state)


def stages_of_run(package: Package, run: Run, report: Callable[[str], None]) -> list[Stage]:
    """The states of a run that are kept, first to last.

    Its initial state is one of them, unless the run was given another one than the package's.

    Args:
        package: that it trained.
        run: finished or not.
        report: called with a line of text for each checkpoint that cannot be used.

    Raises:
        PackageError: the run trained another package.
        RecordsError: no checkpoint can be used.
    """
    info = run.info
    digest = info.settings.package_digest
    if digest != package.digest:
        raise PackageError(
            f"{run.path} was trained from another package than {package.path}: its digest is "
            f"{digest[:12]}, this one's {package.digest[:12]}. Give the package of the run."
        )
    stages = []
    for path in reversed(checkpoint_paths(run.path / CHECKPOINTS)):
        try:
            step = _load(path, run, package, names=()).info.step  # verifies the whole file
        except RecordsError as error:
            report(f"without a damaged checkpoint: {error}")
            continue
        read_state = partial(_state_of, path, run, package)
        stages.append(Stage(step, info.steps_per_epoch, info.total_steps, read_state))
    if not stages or stages[-1].step > info.total_steps:
        raise RecordsError(
            f"{run.path} has no checkpoint that can be used. Continue it with `edge-train run "
            "--resume`, or calibrate the initial state without --from."
        )
    if info.settings.state_sha256 is None and stages[0].step > 0:
        first = Stage(0, info.steps_per_epoch, info.total_steps, package.initial_state)
        stages.insert(0, first)
    return stages


def _state_of(checkpoint: Path, run: Run, package: Package) -> State:
    return _load(checkpoint, run, package).state


def _load(
    path: Path, run: Run, package: Package, names: Collection[str] | None = None
) -> Checkpoint:
    return load_checkpoint(
        path,
        package_digest=package.digest,
        steps_file=run.path / STEPS_FILE,
        expected=package.expected_state(),
        names=names,
    )
