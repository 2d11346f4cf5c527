"""Verify a package in about the time of lowering it: with few pictures, on two rungs.

PyTorch needs minutes and gigabytes for a whole batch, and graphs have a fixed batch size. So
the first and the last rung of the ladder are lowered again for a few pictures, and verified
like that (`edge_export.package.verify`). The package's own graphs must then have the same
operators in the same order, and differ in sizes only: a rung where they do not is verified
with its whole batch.
"""

import dataclasses
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path

import onnx
import torch
from torch import Tensor

from edge_export.axes import RungSettings
from edge_export.package.verify import (
    artifacts_problem,
    frozen_tensors,
    verify_other_graphs,
    verify_rungs,
)
from edge_export.package.writer import PackageWriter
from edge_export.step.program import Program
from edge_runtime.package import Package, open_package
from edge_runtime.package.manifest import Rung
from edge_runtime.storage import storage_errors

PICTURES = 4  # a loss that compares pictures needs several

Tensors = Mapping[str, Tensor]


def verify_with_few_pictures(package: Package, program: Program, state: Tensors) -> str | None:
    """Verify the first and the last rung with few pictures, and every graph besides steps.

    Returns:
        Why the artifacts of `ort-training` cannot be published, if they cannot.

    Raises:
        PackageError: a result differs; the message says which and by how much.
        EngineError: no engine of this environment can run the package.
        StorageError: the second lowering cannot be written beside the package.
    """
    settings = list(dict.fromkeys([program.settings[0], program.settings[-1]]))
    if program.recipe.batch_size > PICTURES:
        problem = _verified_again(package, program, state, settings)
    else:
        problem = _verified(package, program, [package.rung(each.id) for each in settings])
    verify_other_graphs(package, program)
    return problem


def _verified_again(
    package: Package, program: Program, state: Tensors, settings: Sequence[RungSettings]
) -> str | None:
    """Lower these rungs for few pictures, verify them, and compare the operators."""
    few = Program(dataclasses.replace(program.recipe, batch_size=PICTURES, micro_batches=()))
    smaller = [_with_few_pictures(each, program.recipe.batch_size) for each in settings]
    beside = package.path.parent
    with storage_errors("write to", beside):
        temporary = tempfile.TemporaryDirectory(dir=beside, prefix=f"{package.path.name}-")
    with temporary as folder:
        frozen = frozen_tensors(package)
        PackageWriter(Path(folder), few, state, nullcontext, smaller, frozen=frozen).write()
        again = open_package(Path(folder))
        with _one_thread():
            problem = _verified(again, few, again.manifest.rungs)
        others = [
            package.rung(rung.id)
            for rung in again.manifest.rungs
            if _operators(again, rung) != _operators(package, package.rung(rung.id))
        ]
    return (_verified(package, program, others) if others else None) or problem


@contextmanager
def _one_thread() -> Iterator[None]:
    """PyTorch on one thread: more are slower for few pictures, above all on a busy machine."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _with_few_pictures(settings: RungSettings, batch_size: int) -> RungSettings:
    """The same rung; micro-batches stay a part of the batch, or all of it."""
    if settings.micro_batch is None:
        return settings
    part = PICTURES if settings.micro_batch == batch_size else PICTURES // 2
    return dataclasses.replace(settings, micro_batch=part)


def _verified(package: Package, program: Program, rungs: Sequence[Rung]) -> str | None:
    """Verify some rungs, and return why their artifacts cannot be published, if so."""
    manifest = dataclasses.replace(package.manifest, rungs=tuple(rungs))
    some = dataclasses.replace(package, manifest=manifest)
    verify_rungs(some, program)
    return artifacts_problem(some, program)


def _operators(package: Package, rung: Rung) -> list[list[str]]:
    """The operators of each graph of a rung, in the order of the file."""
    files = [path for _, path in sorted(rung.graphs.items())]
    if rung.ort_training is not None:
        files += [rung.ort_training.training, rung.ort_training.eval]
    return [[n.op_type for n in onnx.load(package.file(path)).graph.node] for path in files]
