"""Predicted memory, held against what benchmarks/memory_truth.py measured."""

import dataclasses
import json
from itertools import groupby
from pathlib import Path
from statistics import mean

import pytest
from training_fakes import write_package

from edge_runtime.package.manifest import GraphSpec
from edge_runtime.planning.costs import NODE_BYTES, predicted_peak_bytes

MIB = 1 << 20
RESULTS = Path(__file__).parents[1] / "docs/results/memory_truth.json"


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    return write_package(tmp_path_factory.mktemp("memory") / "package").manifest


def with_nodes(manifest, **nodes):
    """The manifest with graphs of so many nodes; all but `accumulate` change the state."""
    outputs = tuple(
        dataclasses.replace(spec, name=f"next.{spec.name}") for spec in manifest.state
    )
    graphs = {
        path: GraphSpec(
            inputs=(),
            outputs=() if path == "accumulate" else outputs,
            nodes=count,
            flops=None,
        )
        for path, count in nodes.items()
    }
    return dataclasses.replace(manifest, graphs={**manifest.graphs, **graphs})


def measured_pairs() -> list:
    """The largest and the smallest rung of each package and runtime that was measured."""
    rows = json.loads(RESULTS.read_text())["rows"]
    groups = groupby(rows, key=lambda row: (row["package"], row["onnxruntime"]))
    pairs = [(name, list(group)) for name, group in groups]
    return [pytest.param(group[0], group[-1], id=" ".join(name)) for name, group in pairs]


def error_of_difference(manifest, high, low) -> float:
    """How far the predicted difference of two rungs is off, as a share of the measured peak.

    Baseline, state and graph are the same: what differs are the tensors.
    """
    first, second = (
        predicted_peak_bytes(
            manifest,
            dataclasses.replace(
                manifest.rungs[0], peak_activation_bytes=row["peak_activation_bytes"]
            ),
            row["baseline_bytes"],
        )
        for row in (high, low)
    )
    measured = high["measured_bytes"] - low["measured_bytes"]
    return (first - second - measured) / high["measured_bytes"]


@pytest.mark.parametrize(("high", "low"), measured_pairs())
def test_rungs_differ_by_what_was_measured(manifest, high, low):
    """A plan allows for 10 % more than predicted; the difference may take half of that."""
    assert abs(error_of_difference(manifest, high, low)) < 0.05


def test_on_average_rungs_differ_by_what_was_measured(manifest):
    errors = [error_of_difference(manifest, *pair.values) for pair in measured_pairs()]
    assert 0 < mean(errors) < 0.02  # rather too much than too little


def test_a_rung_takes_the_process_and_two_states(manifest):
    rung, more = manifest.rungs[0], 10 * MIB
    before = predicted_peak_bytes(manifest, rung, 50 * MIB)
    assert predicted_peak_bytes(manifest, rung, 60 * MIB) == before + more
    tensor = dataclasses.replace(manifest.state[0], name="param.more", shape=(more // 4,))
    changed = dataclasses.replace(tensor, name="next.param.more")
    path = rung.graphs["step"]
    step = manifest.graphs[path]
    step = dataclasses.replace(step, outputs=(*step.outputs, changed))
    larger = dataclasses.replace(
        manifest,
        state=(*manifest.state, tensor),
        graphs={**manifest.graphs, path: step},
    )
    assert predicted_peak_bytes(larger, rung, 50 * MIB) == before + 2 * more
    # What lies in the state is more than nothing: tensors of float32 (64,).
    assert before - 50 * MIB >= 2 * sum(4 * 64 for _ in manifest.state)


def test_only_the_graph_that_is_trained_is_held(manifest):
    rung = dataclasses.replace(manifest.rungs[0], graphs={"step": "step"})
    known = predicted_peak_bytes(with_nodes(manifest, step=1000, apply=7), rung, 0)
    assert predicted_peak_bytes(with_nodes(manifest, step=1000, apply=9), rung, 0) == known
    more = predicted_peak_bytes(with_nodes(manifest, step=2000, apply=7), rung, 0)
    assert 1 * MIB < more - known < 10 * MIB  # a node takes some kilobytes


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
