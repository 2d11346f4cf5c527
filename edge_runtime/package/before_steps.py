"""The encoders that run before a step: which ones a package has, and checks of their graphs.

Reads no file.
"""

from collections.abc import Iterator

from edge_runtime.package.manifest import (
    FrozenEncoder,
    Manifest,
    Rung,
    TeacherFirst,
)
from edge_runtime.package.names import (
    EMA,
    FEATURES,
    IMAGES,
    LATE,
    NEXT,
    TARGET,
    TARGET_PREFIX,
    TEACHER_PREFIX,
)
from edge_runtime.state import DTYPES

_FORWARD_AXES = {
    IMAGES: (("images", "size", "size", "3"), "uint8"),
    FEATURES: (("images", "width"), "float32"),
}


def encoders(
    manifest: Manifest,
) -> Iterator[tuple[FrozenEncoder | TeacherFirst, str, str]]:
    """The encoders that run before a step: prefix of the inputs that they feed, and key."""
    if manifest.frozen_encoder is not None:
        yield manifest.frozen_encoder, TARGET_PREFIX, "frozen_encoder"
    if manifest.teacher_first is not None:
        yield manifest.teacher_first, TEACHER_PREFIX, "teacher_first"


def graphs_of(rung: Rung) -> Iterator[str]:
    """Paths of the graphs that take the batches of a rung."""
    yield from rung.graphs.values()
    if rung.ort_training is not None:
        yield from (rung.ort_training.training, rung.ort_training.eval)


def forward(manifest: Manifest, path: str) -> Iterator[str]:
    """Check that a forward graph maps images to features."""
    graph = manifest.graphs.get(path)
    if graph is None:
        return  # reported by _files
    for specs, role in ((graph.inputs, IMAGES), (graph.outputs, FEATURES)):
        found = [spec for spec in specs if spec.role == role]
        if len(found) != 1:
            yield f"{path}: expected one tensor of role {role!r}, got {len(found)}"
            continue
        (spec,), (axes, dtype) = found, _FORWARD_AXES[role]
        if spec.dtype not in DTYPES:
            continue  # reported by _kinds
        # Only the number of images may be unknown
        if spec.dtype != dtype or len(spec.shape) != len(axes) or None in spec.shape[1:]:
            yield (
                f"{path}: {spec.name!r} is {spec.dtype} {list(spec.shape)}, expected {dtype} "
                f"[{', '.join(axes)}]"
            )


def targets(manifest: Manifest) -> Iterator[str]:
    """Check that the encoders before a step take the views, and give what the steps read."""
    for encoder, prefix, key in encoders(manifest):
        if encoder.graph in manifest.graphs:  # otherwise reported by _files
            yield from _target(manifest, encoder, prefix, key)


def _target(
    manifest: Manifest, encoder: FrozenEncoder | TeacherFirst, prefix: str, key: str
) -> Iterator[str]:
    if problems := list(forward(manifest, encoder.graph)):
        yield from problems
        return
    graph = manifest.graphs[encoder.graph]
    (images,) = (spec.shape for spec in graph.inputs if spec.role == IMAGES)
    (features,) = (spec.shape for spec in graph.outputs if spec.role == FEATURES)
    count, width = (*images[:1], *features[1:]) if images and len(features) == 2 else (0, 0)
    if not count or not width or features[0] != count or manifest.batch_size % count:
        yield f"{encoder.graph}: images {images} do not give features {features} of a batch"
        return
    groups = {group.name: group for group in manifest.views}
    for name in encoder.groups:
        if name not in groups:
            yield f"{key}: unknown view group {name!r}"
        elif images != (count, groups[name].size_px, groups[name].size_px, 3):
            yield f"{encoder.graph}: images {images} are not views of group {name!r}"
    for rung in manifest.rungs:
        pictures = rung.micro_batch or manifest.batch_size
        for path in graphs_of(rung):
            step = manifest.graphs.get(path)
            for spec in step.inputs if step is not None else ():
                group = groups.get(spec.name.removeprefix(prefix))
                if spec.role != TARGET or group is None:
                    continue  # an unknown one is reported by _tensors
                expected = (len(group.views), pictures, width)
                if spec.dtype != "float32" or spec.shape != expected:
                    given = f"{spec.dtype} {spec.shape}"
                    yield f"{path}: {spec.name!r} is {given}, expected float32 {expected}"


def renewals(manifest: Manifest) -> Iterator[str]:
    """Check that what changes the teachers changes all of them: encoders and heads."""
    teacher = manifest.teacher_first
    if teacher is not None and teacher.delay and teacher.graph in manifest.graphs:
        used = {teacher.prefix + spec.name for spec in manifest.teacher_weights}
        late = used | _in_state(manifest, LATE)
        for rung in manifest.rungs:
            if not manifest.graphs.keys() >= set(rung.graphs.values()):
                continue  # reported by _files
            if missing := sorted(late - manifest.changed_state(rung)):
                yield f"rung {rung.id!r}: its steps do not renew {missing[0]!r}"
    path = manifest.ort_training.update
    update = None if path is None else manifest.graphs.get(path)
    if update is not None:
        given = {spec.name.removeprefix(NEXT) for spec in update.outputs}
        if missing := sorted(_in_state(manifest, EMA, LATE) - given):
            yield f"{path}: it does not renew {missing[0]!r}"


def _in_state(manifest: Manifest, *prefixes: str) -> set[str]:
    return {spec.name for spec in manifest.state if spec.name.startswith(prefixes)}
