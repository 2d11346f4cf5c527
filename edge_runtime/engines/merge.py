"""The weights of the encoder for evaluation, from the state of a run."""

import numpy as np

from edge_runtime.engines.devices import open_device
from edge_runtime.engines.runtime import native_errors
from edge_runtime.engines.session import open_session
from edge_runtime.facts.devices import CPU
from edge_runtime.package import Package
from edge_runtime.package.names import STATE, WEIGHT
from edge_runtime.state import Array, State


def encoder_state_names(package: Package) -> list[str]:
    """The state tensors that `encoder_weights` reads."""
    manifest = package.manifest
    if manifest.merge is None:
        return [manifest.encoder_prefix + name for name in _weight_names(package)]
    return [t.name for t in manifest.graphs[manifest.merge].inputs if t.role == STATE]


def _weight_names(package: Package) -> list[str]:
    embed = package.manifest.graphs[package.manifest.embed]
    return [tensor.name for tensor in embed.inputs if tensor.role == WEIGHT]


def encoder_weights(
    package: Package, state: State, *, threads: int | None = None
) -> dict[str, Array]:
    """The weights of the embedding graph, by its input names.

    If a package transforms its parameters before use, its merge graph computes them.

    Args:
        package: of the state.
        state: has at least the tensors of `encoder_state_names`.
        threads: of the runtime.

    Raises:
        EngineError: the merge graph is needed, and no runtime is installed or it failed.
    """
    manifest = package.manifest
    names = _weight_names(package)
    if manifest.merge is None:
        return {name: state[manifest.encoder_prefix + name] for name in names}
    session = open_session(package, manifest.merge, device=open_device(CPU), threads=threads)
    feeds = {name: np.asarray(state[name]) for name in encoder_state_names(package)}
    with native_errors(f"run {manifest.merge}"):
        values = session.run(names, feeds)
    return dict(zip(names, values, strict=True))
