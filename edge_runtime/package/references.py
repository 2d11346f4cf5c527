"""Checks that the names in a manifest are consistent. Reads no file.

Every name that an engine looks up is checked here first, so that a foreign or edited manifest
is refused when it is opened instead of failing during a run.
"""

import math
from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from edge_runtime.package.before_steps import (
    encoders,
    forward,
    graphs_of,
    renewals,
    targets,
)
from edge_runtime.package.curves import COUNT, SHAPES
from edge_runtime.package.manifest import (
    DrawSpec,
    Manifest,
    Rung,
    TeacherFirst,
    TensorSpec,
)
from edge_runtime.package.names import (
    ACCUMULATE,
    APPLY,
    BUFFER,
    DRAW,
    EMA,
    FP16,
    GRAD,
    HYPER,
    IMAGES,
    IMAGES_PREFIX,
    LOSS,
    LOSS_SCALE,
    MEAN,
    NEXT,
    PARAM,
    PRECISIONS,
    STATE,
    STEP,
    SUM,
    TARGET,
    WEIGHT,
)
from edge_runtime.reading import MAX_STATE_BYTES
from edge_runtime.state import DTYPES

RECORDED = "lr"  # the hyper-parameter in every step's record
LAYOUTS = ("same", "transposed", "patch")
MAX_AXES = 8
FEATURE_KINDS = ("class-token", "mean-patches")


def problems_of(manifest: Manifest) -> list[str]:
    """Inconsistencies, one line each; empty for a valid manifest."""
    return [
        *_files(manifest),
        *_repetitions(manifest),
        *_values(manifest),
        *_kinds(manifest),
        *_tensors(manifest),
        *_interfaces(manifest),
    ]


def is_plain_path(name: str) -> bool:
    """Whether `name` is a relative path in its simplest form that stays inside its folder."""
    parts = PurePosixPath(name).parts
    return (
        name != ""
        and name == "/".join(parts)
        and ".." not in parts
        and name.isprintable()
        and "\\" not in name
    )


class _Use(NamedTuple):
    """A graph, and how it is used."""

    path: str
    weights: str | None  # prefix in the state of its weights; None: they are not in it
    batch: set[str] | None  # images, targets and draws of a step; None: any number of images


def _uses(manifest: Manifest) -> Iterator[_Use]:
    yield _Use(manifest.embed, manifest.encoder_prefix, None)
    others = [manifest.merge, manifest.ort_training.update]
    others += [periodic.graph for periodic in manifest.periodic]
    for path in others:
        if path is not None:
            yield _Use(path, PARAM, set())
    batch = {IMAGES_PREFIX + group.name for group in manifest.views}
    for encoder, prefix, _ in encoders(manifest):
        in_state = encoder.prefix if isinstance(encoder, TeacherFirst) else None
        yield _Use(encoder.graph, in_state, None)
        batch |= {prefix + group for group in encoder.groups}
    for rung in manifest.rungs:
        for path in graphs_of(rung):
            yield _Use(path, EMA, batch | {draw.input for draw in rung.draws})


def _files(manifest: Manifest) -> Iterator[str]:
    graphs = {use.path for use in _uses(manifest)}
    for name in sorted(graphs - manifest.graphs.keys()):
        yield f"graph {name!r} is not described in graphs"
    used = {*graphs, *manifest.graphs, manifest.state_file}
    artifacts = [rung.ort_training for rung in manifest.rungs]
    used |= {files.optimizer for files in artifacts if files is not None}
    if manifest.ort_training.checkpoint is not None:
        used.add(manifest.ort_training.checkpoint)
    if manifest.frozen_encoder is not None:
        used.add(manifest.frozen_encoder.weights_file)
    for name in sorted(used - manifest.sha256.keys()):
        yield f"the SHA-256 of {name!r} is missing"
    for name in sorted(manifest.sha256):
        if not is_plain_path(name):
            yield f"{name!r} is not a plain path inside the package"


def _repetitions(manifest: Manifest) -> Iterator[str]:
    groups = ((f"group of {key}", e.groups) for e, _, key in encoders(manifest))
    for what, names in (
        ("rung", [rung.id for rung in manifest.rungs]),
        ("state tensor", [spec.name for spec in manifest.state]),
        ("view group", [group.name for group in manifest.views]),
        *groups,
    ):
        for name, count in Counter(names).items():
            if count > 1:
                yield f"{what} {name!r} appears {count} times"


def _values(manifest: Manifest) -> Iterator[str]:
    for key in ("rungs", "views"):
        if not getattr(manifest, key):
            yield f"{key}: expected at least one"
    for key in ("mean", "std"):
        if len(getattr(manifest.model, key)) != 3:
            yield f"model.{key}: expected three numbers, for red, green and blue"
    if manifest.precision not in PRECISIONS:
        yield f"precision: unknown {manifest.precision!r}"
    has_scale = BUFFER + LOSS_SCALE in {spec.name for spec in manifest.state}
    if has_scale and manifest.precision != FP16:
        yield f"precision: {manifest.precision!r}, but the state has {BUFFER}{LOSS_SCALE}"
    if manifest.model.features not in FEATURE_KINDS:
        yield f"model.features: unknown {manifest.model.features!r}"
    for group in manifest.views:
        if not group.views:
            yield f"view group {group.name!r}: expected at least one view"
        for view in group.views:
            if view.min_area > view.max_area:
                yield (
                    f"view group {group.name!r}: min_area {view.min_area:g} is above max_area "
                    f"{view.max_area:g}"
                )
    for rung in manifest.rungs:
        yield from (f"rung {rung.id!r}: {problem}" for problem in _rung(manifest, rung))
    for name, curve in manifest.hyper_parameters.items():
        if curve.shape not in (*SHAPES, COUNT):
            yield f"hyper-parameter {name!r}: unknown shape {curve.shape!r}"
    if RECORDED not in manifest.hyper_parameters:
        yield f"hyper_parameters: {RECORDED!r} is missing"
    if manifest.encoder_prefix not in (PARAM, EMA):
        yield f"encoder_prefix: expected {PARAM!r} or {EMA!r}, got {manifest.encoder_prefix!r}"
    artifacts = manifest.ort_training
    if artifacts.refused is None and artifacts.checkpoint is None:
        yield "ort_training: there is no checkpoint, and no reason why"
    has_teacher = any(spec.name.startswith(EMA) for spec in manifest.state)
    if artifacts.refused is None and artifacts.update is None and has_teacher:
        yield "ort_training: nothing updates the EMA teacher"
    for tensor in manifest.encoder:
        if tensor.layout not in LAYOUTS:
            yield f"encoder tensor {tensor.name!r}: unknown layout {tensor.layout!r}"


def _rung(manifest: Manifest, rung: Rung) -> Iterator[str]:
    if not is_plain_path(rung.id) or "/" in rung.id:  # files of the cache are named after it
        yield "its id is not a plain name"
    for draw in rung.draws:
        if draw.kept > draw.population:
            yield f"cannot draw {draw.kept} of {draw.population} for {draw.input!r}"
        yield from _non_overlap(manifest, draw)
    groups = {group.name for group in manifest.views}
    for name in sorted(rung.tokens_per_block.keys() - groups):
        yield f"tokens_per_block: unknown view group {name!r}"
    micro_batch = rung.micro_batch
    expected = {STEP} if micro_batch is None else {ACCUMULATE, APPLY}
    if rung.graphs.keys() != expected:
        kind = "without" if micro_batch is None else "with"
        yield (
            f"expected graphs {' and '.join(sorted(expected))} {kind} micro-batches, got "
            f"{', '.join(sorted(rung.graphs)) or 'none'}"
        )
    if micro_batch is not None and manifest.batch_size % micro_batch:
        yield f"micro_batch {micro_batch} does not divide the batch size {manifest.batch_size}"


def _non_overlap(manifest: Manifest, draw: DrawSpec) -> Iterator[str]:
    """Check that a draw by overlap has two views of square grids."""
    law = draw.non_overlap
    if law is None:
        return
    views = {group.name: len(group.views) for group in manifest.views}
    if law.group not in views:
        yield f"draw {draw.input!r}: unknown view group {law.group!r}"
    elif (views[law.group], draw.views) != (2, 2):
        yield f"draw {draw.input!r}: overlap is that of two views"
    if math.isqrt(draw.population) ** 2 != draw.population:
        yield f"draw {draw.input!r}: {draw.population} patches are not a square grid"


def _kinds(manifest: Manifest) -> Iterator[str]:
    """Check dtypes and sizes of all tensors."""
    graphs = manifest.graphs.values()
    borders = [spec for graph in graphs for spec in (*graph.inputs, *graph.outputs)]
    for spec in (*manifest.state, *borders):
        if spec.dtype not in DTYPES:
            yield f"tensor {spec.name!r}: unknown dtype {spec.dtype!r}"
        elif len(spec.shape) > MAX_AXES or spec.size_bytes > MAX_STATE_BYTES:
            yield f"tensor {spec.name!r}: the shape {list(spec.shape)} is too large"


def _tensors(manifest: Manifest) -> Iterator[str]:
    """Check inputs and outputs of graphs against the state and the inputs of a step."""
    known = {spec.name: (spec.dtype, spec.shape) for spec in manifest.state}
    for tensor in manifest.encoder:
        if (name := manifest.encoder_prefix + tensor.name) not in known:
            yield f"encoder tensor {name!r} is not in the state"
    for use in _uses(manifest):
        graph = manifest.graphs.get(use.path)
        if graph is None:
            continue  # reported by _files
        if use.batch is not None:
            for spec in graph.inputs:
                if spec.role in (IMAGES, TARGET, DRAW) and spec.name not in use.batch:
                    yield f"{use.path}: no view group or draw feeds {spec.name!r}"
        for spec in (*graph.inputs, *graph.outputs):
            tensor_name = _state_name(spec, use.weights)
            if tensor_name is None:
                continue
            if known.get(tensor_name) != (spec.dtype, spec.shape):
                kind = f"{spec.dtype} {spec.shape}"
                yield f"{use.path}: the state has no {tensor_name!r} of {kind}"


def _interfaces(manifest: Manifest) -> Iterator[str]:
    """Check what an engine requires of each kind of graph."""
    for rung in manifest.rungs:
        for kind, path in rung.graphs.items():
            yield from (f"{path}: {problem}" for problem in _outputs(manifest, kind, path))
    for use in _uses(manifest):
        graph = manifest.graphs.get(use.path)
        for spec in graph.inputs if graph is not None else ():
            if spec.role == HYPER and spec.name not in manifest.hyper_parameters:
                yield f"{use.path}: unknown hyper-parameter {spec.name!r}"
    yield from forward(manifest, manifest.embed)
    yield from targets(manifest)
    yield from renewals(manifest)
    yield from _merged(manifest)


def _outputs(manifest: Manifest, kind: str, path: str) -> Iterator[str]:
    """Check that a step returns its loss and changes the state, and passes its sums on."""
    graph = manifest.graphs.get(path)
    if graph is None:
        return  # reported by _files
    outputs = {spec.name for spec in graph.outputs}
    if kind != APPLY and LOSS not in outputs:
        yield f"output {LOSS!r} is missing"
    if kind != ACCUMULATE and not any(spec.role == STATE for spec in graph.outputs):
        yield "it does not change the state"
    sums = {NEXT + spec.name for spec in graph.inputs if spec.role == SUM}
    if kind == ACCUMULATE and (missing := sorted(sums - outputs)):
        yield f"{len(missing)} sum(s) are not passed on, first {missing[0]!r}"


def _merged(manifest: Manifest) -> Iterator[str]:
    """Check that the merge graph returns the weights of the embedding graph."""
    merge, embed = (
        manifest.graphs.get(manifest.merge or ""),
        manifest.graphs.get(manifest.embed),
    )
    if merge is None or embed is None:
        return
    given = {spec.name for spec in merge.outputs if spec.role == WEIGHT}
    wanted = {spec.name for spec in embed.inputs if spec.role == WEIGHT}
    if missing := sorted(wanted - given):
        yield f"{manifest.merge}: {len(missing)} weight(s) are missing, first {missing[0]!r}"


def _state_name(spec: TensorSpec, weights: str | None) -> str | None:
    """The state tensor of a graph's input or output, or with its shape, if any."""
    name = spec.name.removeprefix(NEXT)
    if spec.role == WEIGHT:
        return None if weights is None else weights + spec.name
    if spec.role == SUM:
        return (
            name.removeprefix(MEAN)
            if name.startswith(MEAN)
            else PARAM + name.removeprefix(GRAD)
        )
    return name if spec.role == STATE else None
