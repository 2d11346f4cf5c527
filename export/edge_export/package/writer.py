"""Write a training package's files: lower each graph, describe it, and the manifest last."""

import hashlib
import importlib.metadata
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path

import onnx
import torch
from torch import Tensor

from edge_export.analysis.liveness import arena_bytes
from edge_export.axes import RungSettings
from edge_export.declaration import PeriodicUpdate
from edge_export.declaration import ViewGroup as Group
from edge_export.ort_training import artifacts as ort_training
from edge_export.package import graphs
from edge_export.package.initial import encoder_tensors
from edge_export.step.program import Program
from edge_export.step.rung import RungProgram
from edge_export.vit import encoder_parameters
from edge_runtime.errors import EngineError
from edge_runtime.package.manifest import (
    FORMAT,
    FrozenEncoder,
    GraphSpec,
    Manifest,
    OrtTraining,
    OrtTrainingGraphs,
    PeriodicGraph,
    Rung,
    TeacherFirst,
    TensorSpec,
    ViewGroup,
)
from edge_runtime.package.names import ACCUMULATE, APPLY, IMAGES, STATE, STEP, SUM
from edge_runtime.package.reader import MANIFEST
from edge_runtime.schema import unstructure
from edge_runtime.state import encode_state
from edge_runtime.storage import storage_errors
from edge_runtime.version import __version__

STATE_FILE, FROZEN_WEIGHTS = "state.safetensors", "frozen_encoder.safetensors"
EMBED, MERGE, UPDATE, FROZEN, TEACHER = (
    f"graphs/{name}.onnx" for name in ("embed", "merge", "update", "frozen_encoder", "teacher")
)

Tensors = Mapping[str, Tensor]
Stage = Callable[[str], AbstractContextManager[object]]  # entered while that stage runs


class PackageWriter:
    """Writes one package's files to a folder and collects their descriptions."""

    def __init__(
        self,
        folder: Path,
        program: Program,
        state: Tensors,
        stage: Stage,
        settings: Sequence[RungSettings] | None = None,
        *,
        frozen: Tensors | None = None,
    ) -> None:
        """Prepare to write.

        Args:
            folder: exists and is empty.
            program: of the recipe.
            state: the initial one.
            stage: for each stage.
            settings: of the rungs to write; default: all.
            frozen: weights of the frozen encoder, if there is one.
        """
        self._folder = folder
        self._program = program
        self._state = state
        self._stage = stage
        self._settings = settings or program.settings
        self._frozen = frozen
        self._forward_bytes = 0  # of the tensors in runs of the graphs before a step
        self._specs: dict[str, GraphSpec] = {}
        self._sha256: dict[str, str] = {}
        # File and peak memory of each optimizer graph, by the sums that it takes
        self._apply: dict[frozenset[str], tuple[str, int]] = {}
        self._rungs: tuple[Rung, ...] = ()
        self._refused = ort_training.refusal(program)

    def write(self) -> None:
        """All files, the manifest last."""
        with self._stage("checks"):
            tokens = {
                settings.id: graphs.tokens_per_block(self._program.bind(settings), self._state)
                for settings in self._settings
            }
        arrays = {name: value.numpy() for name, value in self._state.items()}
        self._file(STATE_FILE, encode_state(arrays))
        with self._stage("embedding graph"):
            self._graph(EMBED, graphs.embed_graph(self._program, self._state))
        if self._program.recipe.parametrization.name != "none":
            self._graph(MERGE, graphs.merge_graph(self._program, self._state))
        if self._frozen:
            arrays = {name: value.numpy() for name, value in self._frozen.items()}
            self._file(FROZEN_WEIGHTS, encode_state(arrays))
            self._before_steps(FROZEN, partial(graphs.frozen_graph, weights=self._frozen))
        if self._program.teacher_delay is not None:
            self._before_steps(TEACHER, partial(graphs.teacher_graph, state=self._state))
        for update in self._program.declaration.periodic:
            graph = graphs.periodic_graph(self._program, update, self._state)
            self._graph(_periodic_file(update), graph)
        self._rungs = tuple(
            self._rung(settings, tokens[settings.id]) for settings in self._settings
        )
        if self._refused is None:
            self._write_artifacts()
        self.write_manifest()

    def _before_steps(self, path: str, graph_of: Callable[..., graphs.Graph]) -> None:
        """The graph of an encoder that runs before a step, for images of a micro-batch."""
        images = min(self._program.bind(settings).images for settings in self._settings)
        with self._stage(f"{Path(path).stem.replace('_', ' ')} graph"):
            graph = graph_of(self._program, images=images)
            self._graph(path, graph)
        self._forward_bytes += arena_bytes(graph.model)

    def refuse_artifacts(self, reason: str) -> None:
        """Remove the ort-training artifacts: the package is complete without them."""
        self._refused = reason
        for files in (self._specs, self._sha256):
            for path in [path for path in files if path.startswith("ort_training/")]:
                del files[path]
            files.pop(UPDATE, None)
        self._rungs = tuple(replace(rung, ort_training=None) for rung in self._rungs)
        with storage_errors("write", self._folder):
            shutil.rmtree(self._folder / "ort_training", ignore_errors=True)
            (self._folder / UPDATE).unlink(missing_ok=True)

    def write_manifest(self) -> None:
        """Write the manifest, which describes all files."""
        text = json.dumps(unstructure(self._manifest()), indent=1, sort_keys=True)
        self._write(MANIFEST, text.encode() + b"\n")

    def _rung(self, settings: RungSettings, tokens: dict[str, tuple[int, ...]]) -> Rung:
        rung = self._program.bind(settings)
        if settings.micro_batch is None:
            files, activation_bytes = self._step(rung)
        else:
            files, activation_bytes = self._micro_batches(rung)
        return Rung(
            id=settings.id,
            keep_ratio=settings.keep_ratio,
            patch_size_px=settings.patch_size_px,
            trained=settings.trained,
            micro_batch=settings.micro_batch,
            tokens_per_block=tokens,
            flops=self._step_flops(rung, files),
            peak_activation_bytes=activation_bytes + self._forward_bytes,
            draws=rung.draws,
            graphs=files,
            ort_training=None,
        )

    def _step(self, rung: RungProgram) -> tuple[dict[str, str], int]:
        """Files of a rung that takes its batch at once, by kind, and their activations."""
        path = f"graphs/{rung.settings.id}/step.onnx"
        with self._stage(f"{rung.settings.id} step graph"):
            graph = graphs.step_graph(rung, self._state)
            self._graph(path, graph)
        return {STEP: path}, arena_bytes(graph.model)

    def _micro_batches(self, rung: RungProgram) -> tuple[dict[str, str], int]:
        """The same for a rung with micro-batches."""
        rung_id = rung.settings.id
        path = f"graphs/{rung_id}/accumulate.onnx"
        with self._stage(f"{rung_id} micro-batch graph"):
            graph = graphs.accumulate_graph(rung, self._state)
            self._graph(path, graph)
        sums = {spec.name: spec.size_bytes for spec in graph.spec.inputs if spec.role == SUM}
        apply, apply_bytes = self._apply_graph(rung, graph, frozenset(sums))
        # Both graphs keep their memory, each in a separate arena.
        activation_bytes = arena_bytes(graph.model) + apply_bytes + sum(sums.values())
        return {ACCUMULATE: path, APPLY: apply}, activation_bytes

    def _apply_graph(
        self, rung: RungProgram, accumulate: graphs.Graph, sums: frozenset[str]
    ) -> tuple[str, int]:
        """File and peak memory of the optimizer graph for these sums, written once."""
        if sums not in self._apply:
            folder = f"{rung.settings.id}/" if self._apply else ""
            path = f"graphs/{folder}apply.onnx"
            with self._stage("optimizer graph"):
                graph = graphs.apply_graph(rung, self._state, accumulate)
                self._graph(path, graph)
            self._apply[sums] = path, arena_bytes(graph.model)
        return self._apply[sums]

    def _step_flops(self, rung: RungProgram, files: Mapping[str, str]) -> int:
        parts = self._program.recipe.batch_size // rung.images
        runs = {STEP: 1, ACCUMULATE: parts, APPLY: 1}
        trained = sum(runs[kind] * (self._specs[p].flops or 0) for kind, p in files.items())
        program = self._program
        before = self._flops_before(FROZEN, program.target_groups)
        return trained + before + self._flops_before(TEACHER, program.teacher_groups)

    def _flops_before(self, path: str, groups: Sequence[Group]) -> int:
        """Of an encoder that runs before a step, on the views of a batch."""
        if path not in self._specs:
            return 0
        (images,) = (s.shape[0] for s in self._specs[path].inputs if s.role == IMAGES)
        views = sum(len(group.views) for group in groups)
        batch_size = self._program.recipe.batch_size
        return views * batch_size // (images or 1) * (self._specs[path].flops or 0)

    def _write_artifacts(self) -> None:
        """The ort-training artifacts of all rungs, or none if the generator fails."""
        program = self._program
        try:
            self._rungs = tuple(
                replace(rung, ort_training=self._artifacts(program.bind(settings)))
                for rung, settings in zip(self._rungs, self._settings, strict=True)
            )
        except EngineError as error:
            self.refuse_artifacts(str(error))
            return
        if program.teacher_names:
            self._graph(UPDATE, graphs.teacher_update_graph(program, self._state))

    def _artifacts(self, rung: RungProgram) -> OrtTrainingGraphs | None:
        """The ort-training artifacts of one rung, if it has any."""
        if rung.settings.micro_batch is not None:
            return None
        paths = ort_training.paths_of(rung.settings.id)
        with self._stage(f"{rung.settings.id} ort-training artifacts"):
            forward = graphs.loss_graph(rung, self._state)
            made = ort_training.artifacts(
                forward.model, list(self._program.parameters), self._program.hyper_parameters
            )
            # Inputs that the API provides are not described: parameters and gradients.
            inputs = {spec.name: spec.role for spec in forward.spec.inputs}
            outputs = {spec.name: spec.role for spec in forward.spec.outputs}
            for path, model in ((paths.training, made.training), (paths.eval, made.eval)):
                self._graph(
                    path, graphs.Graph(model, graphs.described(model, inputs, outputs))
                )
            self._file(paths.optimizer, _bytes(made.optimizer))
            self._file(ort_training.CHECKPOINT, made.checkpoint)  # the same for every rung
        return paths

    def _manifest(self) -> Manifest:
        program, recipe = self._program, self._program.recipe
        return Manifest(
            format=FORMAT,
            producer=_versions(),
            recipe=recipe.table(),
            method=recipe.method.name,
            token_policy=recipe.tokens.name,
            parametrization=recipe.parametrization.name,
            precision=recipe.precision,
            batch_size=recipe.batch_size,
            model=program.model,
            views=tuple(
                ViewGroup(name=group.name, size_px=group.size_px, views=group.views)
                for group in program.views
            ),
            hyper_parameters=program.hyper_parameters,
            encoder=encoder_tensors(encoder_parameters(program.model)),
            encoder_prefix=program.encoder_prefix,
            embed=EMBED,
            merge=MERGE if MERGE in self._specs else None,
            state_file=STATE_FILE,
            state=tuple(map(_state_spec, self._state.items())),
            rungs=self._rungs,
            periodic=tuple(
                PeriodicGraph(graph=_periodic_file(update), every_steps=update.every_steps)
                for update in program.declaration.periodic
            ),
            ort_training=OrtTraining(
                refused=self._refused,
                checkpoint=ort_training.CHECKPOINT if self._refused is None else None,
                update=UPDATE if UPDATE in self._specs else None,
            ),
            frozen_encoder=None if FROZEN not in self._specs else self._frozen_encoder(),
            teacher_first=self._teacher_first(),
            graphs=self._specs,
            sha256=self._sha256,
        )

    def _frozen_encoder(self) -> FrozenEncoder:
        groups = tuple(group.name for group in self._program.target_groups)
        return FrozenEncoder(graph=FROZEN, weights_file=FROZEN_WEIGHTS, groups=groups)

    def _teacher_first(self) -> TeacherFirst | None:
        delay = self._program.teacher_delay
        if delay is None:
            return None
        groups = tuple(group.name for group in self._program.teacher_groups)
        return TeacherFirst(graph=TEACHER, delay=delay, groups=groups)

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


def _periodic_file(update: PeriodicUpdate) -> str:
    return f"graphs/periodic/{update.name}.onnx"


def _state_spec(item: tuple[str, Tensor]) -> TensorSpec:
    name, value = item
    dtype = str(value.dtype).removeprefix("torch.")
    return TensorSpec(name=name, dtype=dtype, shape=tuple(value.shape), role=STATE)


def _bytes(model: onnx.ModelProto) -> bytes:
    content: bytes = model.SerializeToString(deterministic=True)
    return content


def _versions() -> dict[str, str]:
    return {
        "edge-train": __version__,
        "torch": torch.__version__.partition("+")[0],
        "onnx": importlib.metadata.version("onnx"),
    }
