"""Artifacts of ONNX Runtime's own on-device training API.

For everyone who trains with `onnxruntime.training.api` in Python, C, C# or Java. The last
release is 1.19.2; this file holds what has to be mended of what its generator writes.
"""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
from torch import Tensor

from edge_export.lowering.graph import IR_VERSION
from edge_runtime.errors import EngineError
from edge_runtime.package.manifest import OfficialGraphs, Schedule
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


def paths_of(rung_id: str) -> OfficialGraphs:
    """Where a rung's artifacts lie in a package."""
    folder = f"ort_training/{rung_id}"
    return OfficialGraphs(
        training=f"{folder}/training_model.onnx",
        eval=f"{folder}/eval_model.onnx",
        optimizer=f"{folder}/optimizer_model.onnx",
    )


def artifacts(
    forward: onnx.ModelProto, trained: Mapping[str, Tensor], schedule: Schedule
) -> tuple[onnx.ModelProto, onnx.ModelProto, onnx.ModelProto, bytes]:
    """Training, eval and optimizer model, and the checkpoint's bytes.

    Args:
        forward: the loss as its first output; trained tensors are initializers.
        trained: the trained tensors; only their names matter.
        schedule: betas, eps and the (constant) weight decay of AdamW.

    Raises:
        EngineError: the generator failed.
        StorageError: its files cannot be written.
    """
    from onnxruntime.training import artifacts as generator
    from onnxruntime.training.onnxblock.optim import AdamW

    loss, *others = [output.name for output in forward.graph.output]
    optimizer = AdamW(
        betas=(schedule.beta1, schedule.beta2),
        eps=schedule.eps,
        weight_decay=schedule.weight_decay,
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
        models = [
            _mended(onnx.load(Path(folder) / f"{name}_model.onnx"))
            for name in ("training", "eval", "optimizer")
        ]
        checkpoint = (Path(folder) / "checkpoint").read_bytes()
    return models[0], models[1], models[2], checkpoint


@contextlib.contextmanager
def _without_native_log() -> Iterator[None]:
    """The generator's native part reports every graph pass on file descriptor 2, unasked."""
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


def _mended(model: onnx.ModelProto) -> onnx.ModelProto:
    """What 1.19.2 can load, the same bytes in every process, and PyTorch's AdamW.

    The generator writes the IR version of the installed onnx, names nodes and the tensors it
    makes (`onnx::...`) by counters of the process, and sets the mode of Hugging Face's AdamW
    (decay after the update).
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
