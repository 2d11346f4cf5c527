"""Make a training package: trace, lower, write, verify, publish."""

import dataclasses
import hashlib
import importlib.metadata
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx
import torch

from edge_export.analysis.cost import Branch, step_flops
from edge_export.analysis.liveness import peak_bytes
from edge_export.ort_training import artifacts as official
from edge_export.package import graphs
from edge_export.package.initial import encoder_from_timm
from edge_export.package.verify import verify
from edge_export.policies import TokenPolicy
from edge_export.recipe import Recipe
from edge_export.step.program import ENCODER, Program, Tensors
from edge_runtime.errors import ConfigError
from edge_runtime.package import Package, open_package
from edge_runtime.package.manifest import (
    FORMAT,
    GRADIENT,
    EncoderTensor,
    GraphSpec,
    Manifest,
    Official,
    Rung,
    TensorSpec,
)
from edge_runtime.package.reader import MANIFEST
from edge_runtime.schema import unstructure
from edge_runtime.state import EMA, PARAM, encode_state
from edge_runtime.storage import new_folder, storage_errors
from edge_runtime.version import __version__

STATE_FILE = "state.safetensors"
EMBED = "graphs/embed.onnx"
APPLY = "graphs/apply.onnx"
UPDATE = "graphs/update.onnx"

Report = Callable[[str, float, float], None]  # stage, wall seconds, CPU seconds


def export_package(
    recipe: Recipe, target: Path, *, init: Path | None, report: Report
) -> Package:
    """Write a verified package, or nothing.

    Args:
        recipe: what to train.
        target: the package's folder; must not exist.
        init: a timm checkpoint to start from.
        report: called after each stage.

    Raises:
        ConfigError: the target exists, or `init` is not of this model.
        PackageError: the written graphs differ from PyTorch.
        EngineError: no engine of this environment can run the package.
        StorageError: it cannot be written.
    """
    if os.path.lexists(target):
        raise ConfigError(f"{target} exists; choose another folder or remove it.")
    program = Program(recipe)
    with new_folder(target) as folder:
        with _stage("initial state", report):
            state = initial_state(program, init)
        writer = _Writer(folder, program, state, report)
        writer.write()
        with _stage("verification", report):
            verify(open_package(folder), program)
    return open_package(target)


def initial_state(program: Program, init: Path | None) -> Tensors:
    """Fresh state, or with the encoder of a timm checkpoint (in the teacher too)."""
    state = program.initial_state()
    if init is not None:
        encoder = encoder_from_timm(init, encoder_tensors(program), program.parameters)
        for name, value in encoder.items():
            state[PARAM + name] = value
            if EMA + name in state:
                state[EMA + name] = value.clone()
    return state


def encoder_tensors(program: Program) -> tuple[EncoderTensor, ...]:
    """How the encoder's parameters are called and laid out in timm."""
    return tuple(
        EncoderTensor(name=key, timm_name=parameter.name, layout=parameter.layout)
        for key, parameter in program.parameters.items()
        if key.startswith(ENCODER)
    )


@contextmanager
def _stage(name: str, report: Report) -> Iterator[None]:
    wall_s, cpu_s = time.monotonic(), time.process_time()
    yield
    report(name, time.monotonic() - wall_s, time.process_time() - cpu_s)


class _Writer:
    """Writes one package's files into a folder and keeps what the manifest says of them."""

    def __init__(self, folder: Path, program: Program, state: Tensors, report: Report) -> None:
        self._folder = folder
        self._program = program
        self._state = state
        self._report = report
        self._specs: dict[str, GraphSpec] = {}
        self._sha256: dict[str, str] = {}
        self._refused = program.recipe.official_refusal()
        if self._refused is None and not official.is_available():
            self._refused = official.MISSING

    def write(self) -> None:
        """All files, the manifest last."""
        arrays = {name: value.numpy() for name, value in self._state.items()}
        self._file(STATE_FILE, encode_state(arrays))
        with _stage("embedding graph", self._report):
            self._graph(EMBED, graphs.embed_graph(self._program, self._state))
        rungs = [self._rung(ratio) for ratio in self._program.recipe.keep_ratios]
        apply = APPLY if self._program.recipe.micro_batches else None
        if apply is not None:
            rungs = list(self._with_micro_batches(rungs))
        update = None
        if self._refused is None and self._program.teacher_names:
            self._graph(UPDATE, graphs.update_graph(self._program, self._state))
            update = UPDATE
        checkpoint = official.CHECKPOINT if self._refused is None else None
        official_facts = Official(refused=self._refused, checkpoint=checkpoint, update=update)
        table = unstructure(self._manifest(tuple(rungs), apply, official_facts))
        self._write(MANIFEST, json.dumps(table, indent=1, sort_keys=True).encode() + b"\n")

    def _rung(self, keep_ratio: float) -> Rung:
        program, state = self._program, self._state
        policy, rung_id = program.policy(keep_ratio), rung_name(keep_ratio)
        step, teacher = f"graphs/{rung_id}/step.onnx", None
        with _stage(f"{rung_id} step graph", self._report):
            graph = graphs.step_graph(program, policy, state)
            self._graph(step, graph)
        if program.teacher_names and not policy.couples_branches:
            teacher = f"graphs/{rung_id}/teacher.onnx"
            with _stage(f"{rung_id} teacher graph", self._report):
                self._graph(teacher, graphs.teacher_graph(program, policy, state))
        paths = None
        if self._refused is None:
            paths = official.paths_of(rung_id)
            with _stage(f"{rung_id} official artifacts", self._report):
                training, evaluation, optimizer, checkpoint = graphs.official_graphs(
                    program, policy, state
                )
                self._graph(paths.training, training)
                self._graph(paths.eval, evaluation)
                self._file(paths.optimizer, _bytes(optimizer))
                self._file(official.CHECKPOINT, checkpoint)  # the same for every rung
        return Rung(
            id=rung_id,
            keep_ratio=keep_ratio,
            micro_batch=None,
            tokens_per_block=tuple(attended for attended, _ in policy.student_tokens),
            flops=rung_flops(program, policy),
            peak_activation_bytes=peak_bytes(graph.model),
            draws=policy.draws,
            step=step,
            accumulate=None,
            teacher=teacher,
            official=paths,
        )

    def _with_micro_batches(self, rungs: list[Rung]) -> Iterator[Rung]:
        """Each rung, and behind it those that do the same step in micro-batches."""
        with _stage("optimizer graph", self._report):
            graph = graphs.apply_graph(self._program, self._state)
            self._graph(APPLY, graph)
        apply_bytes = peak_bytes(graph.model)
        for rung in rungs:
            yield rung
            for pictures in self._program.recipe.micro_batches:
                yield self._micro_rung(rung, pictures, apply_bytes)

    def _micro_rung(self, whole: Rung, pictures: int, apply_bytes: int) -> Rung:
        """The same step as `whole`, so many pictures at a time."""
        program, rung_id = self._program, f"{whole.id}-m{pictures}"
        path = f"graphs/{rung_id}/accumulate.onnx"
        policy = program.policy(whole.keep_ratio, pictures)
        with _stage(f"{rung_id} micro-batch graph", self._report):
            graph = graphs.accumulate_graph(program, policy, self._state)
            self._graph(path, graph)
        gradients = [t.size_bytes for t in graph.spec.inputs if t.role == GRADIENT]
        return dataclasses.replace(
            whole,
            id=rung_id,
            micro_batch=pictures,
            # Both graphs keep their memory, each in an arena of its own.
            peak_activation_bytes=peak_bytes(graph.model) + apply_bytes + sum(gradients),
            step=None,
            accumulate=path,
            official=None,
        )

    def _manifest(
        self, rungs: tuple[Rung, ...], apply: str | None, official_facts: Official
    ) -> Manifest:
        program, recipe = self._program, self._program.recipe
        return Manifest(
            format=FORMAT,
            producer=_versions(),
            recipe=recipe.table(),
            method=recipe.method.name,
            tokens=recipe.tokens.name,
            batch_size=recipe.batch_size,
            model=program.model,
            views=(program.views,),
            schedule=recipe.schedule(),
            encoder=encoder_tensors(program),
            encoder_prefix=PARAM,
            embed=EMBED,
            state_file=STATE_FILE,
            state=tuple(
                TensorSpec(name=name, dtype="float32", shape=tuple(value.shape), role="state")
                for name, value in self._state.items()
            ),
            rungs=rungs,
            apply=apply,
            official=official_facts,
            graphs=self._specs,
            sha256=self._sha256,
        )

    def _graph(self, path: str, graph: graphs.Graph) -> None:
        self._file(path, _bytes(graph.model))
        self._specs[path] = graph.spec

    def _file(self, path: str, content: bytes) -> None:
        self._write(path, content)
        self._sha256[path] = hashlib.sha256(content).hexdigest()

    def _write(self, path: str, content: bytes) -> None:
        target = self._folder / path
        with storage_errors("write", target):
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)


def rung_flops(program: Program, policy: TokenPolicy) -> int:
    """FLOPs of one step with that policy."""
    heads = {k: p for k, p in program.parameters.items() if not k.startswith(ENCODER)}
    student = Branch(policy.student_patches, policy.student_tokens, list(heads.values()))
    taught = [parameter for key, parameter in heads.items() if key in program.teacher_names]
    teacher = Branch(program.model.tokens - 1, policy.teacher_tokens, taught)
    return step_flops(
        program.model,
        student=student,
        teacher=teacher if program.teacher_names else None,
        sequences=len(program.views.views) * program.recipe.batch_size,
    )


def rung_name(keep_ratio: float) -> str:
    """`k075` for 0.75, `k0333` for 0.333: thousandths only where they are needed."""
    digits = f"{keep_ratio:.2f}" if round(keep_ratio, 2) == keep_ratio else f"{keep_ratio:g}"
    return "k" + digits.replace(".", "")


def _bytes(model: onnx.ModelProto) -> bytes:
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _versions() -> dict[str, str]:
    return {
        "edge-train": __version__,
        "torch": torch.__version__.partition("+")[0],
        "onnx": importlib.metadata.version("onnx"),
    }
