"""Artifacts of ONNX Runtime's official on-device training API.

For programs that train with `onnxruntime.training.api` in Python, C, C# or Java. The last
release is 1.19.2; its generator is frozen, and every work-around for it is in this file.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import onnx

from edge_export.axes import ALL
from edge_export.lowering.graph import IR_VERSION
from edge_export.step.program import Program
from edge_runtime.errors import EngineError
from edge_runtime.package.curves import Curve
from edge_runtime.package.manifest import OrtTrainingGraphs
from edge_runtime.package.names import FP32
from edge_runtime.storage import storage_errors

CHECKPOINT = "ort_training/checkpoint"
MISSING = "onnxruntime-training-cpu was not installed where the package was exported"


def is_available() -> bool:
    """Whether the generator is installed here."""
    try:
        import onnxruntime.training.artifacts  # noqa: F401
    except ImportError:
        return False
    return True


def paths_of(rung_id: str) -> OrtTrainingGraphs:
    """Paths of a rung's artifacts in a package."""
    folder = f"ort_training/{rung_id}"
    return OrtTrainingGraphs(
        training=f"{folder}/training_model.onnx",
        eval=f"{folder}/eval_model.onnx",
        optimizer=f"{folder}/optimizer_model.onnx",
    )


def refusal(program: Program) -> str | None:
    """Why the official training API cannot train this recipe; `None` if it can.

    Its optimizer has one group of parameters and a constant weight decay, and no state besides
    parameters and moments.
    """
    curves, recipe = program.hyper_parameters, program.recipe
    if recipe.precision != FP32:
        return f"precision {recipe.precision}: the official training API scales no losses"
    if recipe.optimizer.exempt_vectors:
        return "optimizer.exempt_vectors: the ort-training optimizer decays every parameter"
    if not curves["weight_decay"].is_constant:
        decay = curves["weight_decay"]
        return (
            f"weight decay changes from {decay.first:g} to {decay.final:g}: the "
            "ort-training optimizer's is constant"
        )
    if program.buffers:
        name = next(iter(program.buffers))
        return f"buffer {name!r}: the official training API has no such state"
    if recipe.self_distillation.weight:
        return "self_distillation.weight: the official training API cannot stop a gradient"
    if recipe.parametrization.name != "none":
        return f"parametrization {recipe.parametrization.name!r} is not supported by it"
    if set(recipe.trained) != {ALL}:
        return "trained: the ort-training optimizer updates every parameter"
    return None if is_available() else MISSING


class Artifacts(NamedTuple):
    """Output of the generator for one rung."""

    training: onnx.ModelProto
    eval: onnx.ModelProto
    optimizer: onnx.ModelProto
    checkpoint: bytes


def artifacts(
    forward: onnx.ModelProto, trained: Collection[str], curves: Mapping[str, Curve]
) -> Artifacts:
    """Training, eval and optimizer model, and the checkpoint.

    Args:
        forward: the loss as its first output; trained tensors are initializers.
        trained: names of the trained tensors.
        curves: hyper-parameters; betas, eps and weight decay are constants of the optimizer.

    Raises:
        EngineError: the generator failed.
        StorageError: its files cannot be written.
    """
    from onnxruntime.training import artifacts as generator
    from onnxruntime.training.onnxblock.optim import AdamW

    loss, *others = [output.name for output in forward.graph.output]
    optimizer = AdamW(
        betas=(curves["beta1"].first, curves["beta2"].first),
        eps=curves["eps"].first,
        weight_decay=curves["weight_decay"].first,
    )
    with (
        storage_errors("write to", Path(tempfile.gettempdir())),
        tempfile.TemporaryDirectory() as folder,
        _without_native_log(),
    ):
        try:
            generator.generate_artifacts(
                forward,
                requires_grad=list(trained),
                optimizer=optimizer,
                artifact_directory=folder,
                additional_output_names=others,
                loss_input_names=[loss],
            )
        except RuntimeError as error:
            raise EngineError(
                f"generate_artifacts failed on the forward graph: {error}"
            ) from error
        training, evaluation, optimizer_model = (
            _corrected(onnx.load(Path(folder) / f"{name}_model.onnx"))
            for name in ("training", "eval", "optimizer")
        )
        checkpoint = (Path(folder) / "checkpoint").read_bytes()
    return Artifacts(training, evaluation, optimizer_model, checkpoint)


@contextlib.contextmanager
def _without_native_log() -> Iterator[None]:
    """Silence the generator's native code, which logs every graph pass on descriptor 2."""
    sys.stderr.flush()
    kept = os.dup(2)
    silent = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(silent, 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(silent)


def _corrected(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that 1.19.2 can load, reproducible, and with PyTorch's AdamW.

    The generator writes the IR version of the installed onnx, numbers its nodes and tensors
    (`onnx::...`) per process, and sets the mode of Hugging Face's AdamW (decay after the
    update).
    """
    model.ir_version = IR_VERSION
    del model.graph.value_info[:]
    numbered = dict.fromkeys(
        name for node in model.graph.node for name in node.output if name.startswith("onnx::")
    )
    renamed = {name: f"onnx::{number}" for number, name in enumerate(numbered)}
    for value in model.graph.output:
        value.name = renamed.get(value.name, value.name)
    for number, node in enumerate(model.graph.node):
        node.name = f"n{number}"
        node.doc_string = ""
        for names in (node.input, node.output):
            names[:] = [renamed.get(name, name) for name in names]
        for attribute in node.attribute:
            if node.op_type == "AdamWOptimizer" and attribute.name == "adam_mode":
                attribute.i = 0
    return model
