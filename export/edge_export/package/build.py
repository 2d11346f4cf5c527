"""Export a training package: trace, lower, write, verify, publish."""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from torch import Tensor

from edge_export.package.few_pictures import verify_with_few_pictures
from edge_export.package.initial import encoder_from_timm, encoder_source, frozen_source
from edge_export.package.ranker import ranker_state
from edge_export.package.verify import artifacts_problem, verify
from edge_export.package.writer import PackageWriter
from edge_export.recipe import Recipe
from edge_export.step.program import Program
from edge_export.vit import encoder_parameters
from edge_runtime.errors import ConfigError
from edge_runtime.package import Package, open_package
from edge_runtime.package.names import EMA, LATE, PARAM
from edge_runtime.storage import new_folder

Tensors = Mapping[str, Tensor]
# Stage, and its wall and CPU seconds: None when it begins
Report = Callable[[str, float | None, float | None], None]


def export_package(
    recipe: Recipe,
    target: Path,
    *,
    init: Path | None,
    report: Report,
    teacher: Path | None = None,
    ranker: Path | None = None,
    verify_all: bool = False,
) -> Package:
    """Write a verified package, or nothing.

    Args:
        recipe: what to train.
        target: the package's folder; must not exist.
        init: a timm checkpoint to start from.
        report: called when a stage begins and when it ends.
        teacher: a timm checkpoint of the frozen encoder; if the recipe distils, and only then.
        ranker: a file of `edge-train rank`; if the token policy is `ranked`, and only then.
        verify_all: compare every rung with PyTorch on a whole batch, which may take many times
            as long as all the rest; otherwise see `verify_with_few_pictures`.

    Raises:
        ConfigError: the target exists, or a checkpoint is missing or of another model.
        PackageError: the written graphs differ from PyTorch.
        EngineError: no engine of this environment can run the package.
        StorageError: it cannot be written.
    """
    if os.path.lexists(target):
        raise ConfigError(f"{target} exists; choose another folder or remove it.")
    program, stage = Program(recipe), partial(_stage, report=report)
    with new_folder(target) as folder:
        with stage("initial state"):
            state = initial_state(program, init) | ranker_state(program, ranker)
            frozen = frozen_weights(program, teacher)
        writer = PackageWriter(folder, program, state, stage, frozen=frozen)
        writer.write()
        package = open_package(folder)
        if verify_all:
            verify(package, program, stage)
            problem = artifacts_problem(package, program, stage)
        else:
            with stage("verification"):
                problem = verify_with_few_pictures(package, program, state)
        if problem is not None:
            writer.refuse_artifacts(problem)
            writer.write_manifest()
    return open_package(target)


def initial_state(program: Program, init: Path | None) -> dict[str, Tensor]:
    """Fresh state, or with the encoder of a timm checkpoint (in the teacher too)."""
    state = program.initial_state()
    if init is not None:
        declared = encoder_parameters(program.model)
        encoder = encoder_from_timm(encoder_source(init), program.model, declared)
        for name, value in encoder.items():
            state[PARAM + name] = value
            for copy in (EMA + name, LATE + name):
                if copy in state:
                    state[copy] = value.clone()
    return state


def frozen_weights(program: Program, teacher: Path | None) -> dict[str, Tensor]:
    """Weights of the frozen encoder by name; none if the recipe does not distil.

    Raises:
        ConfigError: the checkpoint is missing, superfluous, or of another model.
    """
    if program.frozen is None and teacher is None:
        return {}
    if program.frozen is None:
        raise ConfigError(
            f"--teacher {teacher}: distillation.weight is 0, so nothing learns from it. Give "
            "a weight, such as --set distillation.weight=1, or leave out the teacher."
        )
    if teacher is None:
        raise ConfigError(
            "distillation.weight: there is no teacher to learn from. Give --teacher FILE, "
            "a timm checkpoint, or set the weight to 0."
        )
    declared = encoder_parameters(program.frozen)
    return encoder_from_timm(frozen_source(teacher), program.frozen, declared)


@contextmanager
def _stage(name: str, *, report: Report) -> Iterator[None]:
    wall_s, cpu_s = time.monotonic(), time.process_time()
    try:  # from the first word on: an interruption ends the line that was begun
        report(name, None, None)
        yield
    finally:
        report(name, time.monotonic() - wall_s, time.process_time() - cpu_s)
