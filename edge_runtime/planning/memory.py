"""How much memory a rung will take on this board, before anything of it ran.

Unit: bytes of resident memory. Pure: what the board itself takes was measured elsewhere.
"""

from edge_runtime.package.manifest import Manifest, Rung

# docs/results.md has the rungs that these were found with.
ARENA = 1.10  # what the runtime's arena takes, gaps included, over what its tensors need
NODE_BYTES = 3_800  # of a loaded graph, per node of its file


def predicted_peak_bytes(manifest: Manifest, rung: Rung, baseline_bytes: int) -> int:
    """Most resident memory of a process that trains this rung with engine `ort`.

    Args:
        manifest: of the package.
        rung: one of it.
        baseline_bytes: what the same process takes with the runtime loaded and no state.
    """
    nodes = sum(manifest.graphs[path].nodes for path in rung.graphs.values())
    changed = manifest.changed_state(rung)
    # A step reads the old state, and writes the new values of what it changes.
    written_bytes = sum(spec.size_bytes for spec in manifest.state if spec.name in changed)
    held_bytes = baseline_bytes + manifest.state_bytes + written_bytes + NODE_BYTES * nodes
    return held_bytes + round(ARENA * rung.peak_activation_bytes)
