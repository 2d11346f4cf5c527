"""Whether the names in a manifest fit together. Reads no file.

Every name that an engine will look up is looked up here first, so that a foreign or edited
manifest is refused when it is opened instead of failing in the middle of a run.
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import NamedTuple

from edge_runtime.package.manifest import (
    DRAW,
    FEATURES,
    GRADIENT,
    HYPER,
    IMAGES,
    STATE,
    WEIGHT,
    Manifest,
    Rung,
    TensorSpec,
)
from edge_runtime.state import EMA, PARAM

NEXT = "next."  # prefix of a state tensor, or of a gradient, among a graph's outputs
GRAD = "grad."  # prefix of a parameter's gradient
LOSS = "loss"  # the metric of every step
EMA_MOMENTUM = "ema_momentum"  # scheduled only where the method has a teacher
# What `edge_runtime.training.schedule` gives to a step
HYPERS = (
    "lr", "weight_decay", "beta1", "beta2", "eps", "step", "progress", EMA_MOMENTUM,
)  # fmt: skip
LAYOUTS = ("same", "transposed", "patch")


def problems_of(manifest: Manifest) -> list[str]:
    """What does not fit, one line each; none for a sound manifest."""
    return [
        *_files(manifest),
        *_repetitions(manifest),
        *_values(manifest),
        *_tensors(manifest),
        *_interfaces(manifest),
    ]


def is_plain_path(name: str) -> bool:
    """Whether `name` is a relative path in its simplest form that stays where it starts."""
    parts = PurePosixPath(name).parts
    return (
        name != ""
        and name == "/".join(parts)
        and ".." not in parts
        and name.isprintable()
        and "\\" not in name
    )


class _Use(NamedTuple):
    """A graph that something runs."""

    path: str
    weights: str  # prefix in the state of what it takes as weights
    batch: set[str] | None  # images and draws that a step feeds; None: pictures of any number


def _uses(manifest: Manifest) -> Iterator[_Use]:
    yield _Use(manifest.embed, manifest.encoder_prefix, None)
    for path in (manifest.apply, manifest.official.update):
        if path is not None:
            yield _Use(path, PARAM, set())
    images = {f"images.{group.name}" for group in manifest.views}
    for rung in manifest.rungs:
        for path in _graphs_of(rung):
            yield _Use(path, EMA, images | {draw.input for draw in rung.draws})


def _graphs_of(rung: Rung) -> Iterator[str]:
    for path in (rung.step, rung.accumulate, rung.teacher):
        if path is not None:
            yield path
    if rung.official is not None:
        yield from (rung.official.training, rung.official.eval)


def _files(manifest: Manifest) -> Iterator[str]:
    graphs = {use.path for use in _uses(manifest)}
    for name in sorted(graphs - manifest.graphs.keys()):
        yield f"graph {name!r} is not described in graphs"
    used = {*graphs, *manifest.graphs, manifest.state_file}
    used |= {rung.official.optimizer for rung in manifest.rungs if rung.official is not None}
    if manifest.official.checkpoint is not None:
        used.add(manifest.official.checkpoint)
    for name in sorted(used - manifest.sha256.keys()):
        yield f"there is no SHA-256 of {name!r}"
    for name in sorted(manifest.sha256):
        if not is_plain_path(name):
            yield f"{name!r} is no plain path inside the package"


def _repetitions(manifest: Manifest) -> Iterator[str]:
    for what, names in (
        ("rung", [rung.id for rung in manifest.rungs]),
        ("state tensor", [spec.name for spec in manifest.state]),
        ("view group", [group.name for group in manifest.views]),
    ):
        for name, count in Counter(names).items():
            if count > 1:
                yield f"{what} {name!r} is there {count} times"


def _values(manifest: Manifest) -> Iterator[str]:
    if manifest.batch_size < 1:
        yield f"batch_size: want at least 1, got {manifest.batch_size}"
    for key in ("rungs", "views"):
        if not getattr(manifest, key):
            yield f"{key}: want at least one"
    for group in manifest.views:
        if not group.views or group.size_px < 1:
            yield f"view group {group.name!r}: want views of at least 1 px"
    for rung in manifest.rungs:
        if not 0 < rung.keep_ratio <= 1:
            yield f"rung {rung.id!r}: keep_ratio {rung.keep_ratio:g} is outside (0, 1]"
        for draw in rung.draws:
            if draw.views < 1 or not 1 <= draw.kept <= draw.population:
                yield (
                    f"rung {rung.id!r}: cannot draw {draw.kept} of {draw.population} for "
                    f"{draw.views} views"
                )
        yield from _micro_batches(manifest, rung)
    for tensor in manifest.encoder:
        if tensor.layout not in LAYOUTS:
            yield f"encoder tensor {tensor.name!r}: unknown layout {tensor.layout!r}"


def _micro_batches(manifest: Manifest, rung: Rung) -> Iterator[str]:
    """A rung has a step graph, or micro-batches and what they need."""
    micro_batch = rung.micro_batch
    if (rung.step is None) == (rung.accumulate is None):
        yield f"rung {rung.id!r}: want either step or accumulate"
    if (micro_batch is None) != (rung.accumulate is None):
        yield f"rung {rung.id!r}: micro_batch and accumulate go together"
    if rung.accumulate is not None and manifest.apply is None:
        yield f"rung {rung.id!r}: accumulate needs the manifest's apply"
    if micro_batch is not None and (micro_batch < 1 or manifest.batch_size % micro_batch):
        yield (
            f"rung {rung.id!r}: micro_batch {micro_batch} does not divide the batch size "
            f"{manifest.batch_size}"
        )


def _tensors(manifest: Manifest) -> Iterator[str]:
    """Borders of graphs against the state and against what a step feeds."""
    known = {spec.name: (spec.dtype, spec.shape) for spec in manifest.state}
    for tensor in manifest.encoder:
        if (name := manifest.encoder_prefix + tensor.name) not in known:
            yield f"encoder tensor {name!r} is not in the state"
    for use in _uses(manifest):
        graph = manifest.graphs.get(use.path)
        if graph is None:
            continue  # told by _files
        if use.batch is not None:
            for spec in graph.inputs:
                if spec.role in (IMAGES, DRAW) and spec.name not in use.batch:
                    yield f"{use.path}: no view group or draw feeds {spec.name!r}"
        for spec in (*graph.inputs, *graph.outputs):
            wanted = _state_name(spec, use.weights)
            if wanted is not None and known.get(wanted) != (spec.dtype, spec.shape):
                yield f"{use.path}: the state has no {wanted!r} of {spec.dtype} {spec.shape}"


def _interfaces(manifest: Manifest) -> Iterator[str]:
    """What an engine asks of each kind of graph."""
    named = [(rung.step, True, True) for rung in manifest.rungs]
    named += [(rung.accumulate, True, False) for rung in manifest.rungs]
    named.append((manifest.apply, False, True))
    whole = {NEXT + spec.name for spec in manifest.state}
    for path, has_loss, has_state in named:
        graph = manifest.graphs.get(path or "")
        if graph is None:
            continue  # there is none, or it is told by _files
        outputs = {spec.name for spec in graph.outputs}
        if has_loss and LOSS not in outputs:
            yield f"{path}: there is no output {LOSS!r}"
        if has_state and (missing := sorted(whole - outputs)):
            yield f"{path}: {len(missing)} state tensor(s) are lost, first {missing[0]!r}"
    for use in _uses(manifest):
        graph = manifest.graphs.get(use.path)
        inputs = graph.inputs if graph is not None else ()
        for spec in inputs:
            if spec.role == HYPER and not _is_scheduled(manifest, spec.name):
                yield f"{use.path}: the schedule has no {spec.name!r}"
    embed = manifest.graphs.get(manifest.embed)
    if embed is not None:
        for specs, role in ((embed.inputs, IMAGES), (embed.outputs, FEATURES)):
            if (found := sum(spec.role == role for spec in specs)) != 1:
                yield f"{manifest.embed}: want one tensor of role {role!r}, got {found}"


def _is_scheduled(manifest: Manifest, hyper: str) -> bool:
    if hyper == EMA_MOMENTUM:
        return manifest.schedule.ema_momentum is not None
    return hyper in HYPERS


def _state_name(spec: TensorSpec, weights: str) -> str | None:
    """The state tensor that a graph's input or output is, or is shaped like, if any."""
    if spec.role == WEIGHT:
        return weights + spec.name
    if spec.role == GRADIENT:
        return PARAM + spec.name.removeprefix(NEXT).removeprefix(GRAD)
    return spec.name.removeprefix(NEXT) if spec.role == STATE else None
