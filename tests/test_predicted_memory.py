"""What a rung will take: what the process has, two states, its graphs and its tensors."""

import dataclasses

import pytest
from training_fakes import write_package

from edge_runtime.package.manifest import GraphSpec
from edge_runtime.planning.memory import ARENA, NODE_BYTES, predicted_peak_bytes

MIB = 1 << 20


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_package(tmp_path_factory.mktemp("memory") / "package").manifest


def with_nodes(manifest, **nodes):
    """The manifest with graphs of so many nodes; `step` and `apply` change all of the state."""
    outputs = tuple(
        dataclasses.replace(spec, name=f"next.{spec.name}") for spec in manifest.state
    )
    found = {
        path: GraphSpec(
            inputs=(),
            outputs=() if path == "accumulate" else outputs,
            nodes=count,
            flops=None,
        )
        for path, count in nodes.items()
    }
    return dataclasses.replace(manifest, graphs={**manifest.graphs, **found})


def test_a_rung_takes_both_states_its_graph_and_its_tensors(manifest):
    rung = dataclasses.replace(
        manifest.rungs[0], graphs={"step": "step"}, peak_activation_bytes=100 * MIB
    )
    state_bytes = sum(4 * 64 for _ in manifest.state)  # float32 (64,) each
    assert state_bytes > 0
    found = predicted_peak_bytes(with_nodes(manifest, step=1000, apply=7), rung, 50 * MIB)
    assert found == pytest.approx(
        50 * MIB + 2 * state_bytes + 1000 * NODE_BYTES + ARENA * 100 * MIB, abs=1
    )
    assert isinstance(found, int)


def test_micro_batches_hold_the_graphs_of_gradient_and_optimizer(manifest):
    whole = dataclasses.replace(manifest.rungs[0], graphs={"step": "step"})
    graphs = {"accumulate": "accumulate", "apply": "apply"}
    parts = dataclasses.replace(whole, graphs=graphs, micro_batch=2)
    known = with_nodes(manifest, step=300, accumulate=200, apply=100)
    assert predicted_peak_bytes(known, whole, 0) == predicted_peak_bytes(known, parts, 0)
    more = with_nodes(manifest, step=300, accumulate=200, apply=101)
    assert predicted_peak_bytes(more, parts, 0) == NODE_BYTES + predicted_peak_bytes(
        known, parts, 0
    )


def test_room_is_taken_for_what_a_rung_changes_alone(manifest):
    """The next values of a tensor that a rung does not train are never written."""
    rung = dataclasses.replace(manifest.rungs[0], graphs={"step": "step"})
    known = with_nodes(manifest, step=1)
    spec = known.graphs["step"]
    some = dataclasses.replace(spec, outputs=spec.outputs[:1])
    fewer = dataclasses.replace(known, graphs={**known.graphs, "step": some})
    left_bytes = sum(tensor.size_bytes for tensor in spec.outputs[1:])
    assert left_bytes > 0
    assert predicted_peak_bytes(fewer, rung, 0) == (
        predicted_peak_bytes(known, rung, 0) - left_bytes
    )
