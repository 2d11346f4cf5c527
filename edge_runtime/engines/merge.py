"""The weights of the encoder for evaluation, from the state of a run."""

import numpy as np

from edge_runtime.engines.runtime import native_errors
from edge_runtime.engines.session import open_session
from edge_runtime.package import Package
from edge_runtime.package.names import STATE, WEIGHT
from edge_runtime.state import Array, State


def encoder_weights(
    package: Package, state: State, *, threads: int | None = None
) -> dict[str, Array]:
    """The weights of the embedding graph, by its input names.

    If a package transforms its parameters before use, its merge graph computes them.

    Raises:
        EngineError: the merge graph is needed, and no runtime is installed or it failed.
    """
    manifest = package.manifest
    embed = manifest.graphs[manifest.embed]
    names = [tensor.name for tensor in embed.inputs if tensor.role == WEIGHT]
    if manifest.merge is None:
        return {name: state[manifest.encoder_prefix + name] for name in names}
    spec = manifest.graphs[manifest.merge]
    session = open_session(package.file(manifest.merge), device="cpu", threads=threads)
    feeds = {t.name: np.asarray(state[t.name]) for t in spec.inputs if t.role == STATE}
    with native_errors(f"run {manifest.merge}"):
        values = session.run(names, feeds)
    return dict(zip(names, values, strict=True))
