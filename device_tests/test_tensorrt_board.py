"""Engine `tensorrt` on a real board: every forward graph gives the features of engine `ort`.

`pytest device_tests/test_tensorrt_board.py --board NAME`. Packages of another machine are
tested beside that inside edge-train if EDGE_TRAIN_TEST_PACKAGES names their folder.
"""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_tests.real_board.results import RecordProperty, not_run
from edge_runtime.engines import ForwardOptions, encoder_weights, open_forward_engine
from edge_runtime.engines.tensorrt import (
    FLOAT_TOLERANCE,
    HALF_TOLERANCE,
    IMAGES_PER_RUN,
    largest_error,
)
from edge_runtime.engines.tensorrt.api import missing_modules
from edge_runtime.package import Package, open_package
from edge_runtime.package.names import FP16, IMAGES
from edge_runtime.selftest import PACKAGE
from edge_runtime.state import State

VARIABLE = "EDGE_TRAIN_TEST_PACKAGES"
RUNS = 200


def packages() -> list[Path]:
    """The package inside edge-train, and those of the folder in the variable."""
    folder = os.environ.get(VARIABLE)
    found = Path(folder).glob("*/manifest.json") if folder else ()
    return [PACKAGE, *sorted(path.parent for path in found)]


def forward_graphs(package: Package) -> Iterator[tuple[str, State]]:
    """Each forward graph with weights."""
    manifest = package.manifest
    yield manifest.embed, encoder_weights(package, package.initial_state())
    if manifest.frozen_encoder is not None:
        yield manifest.frozen_encoder.graph, package.frozen_weights()


# Boards whose JetPack has a TensorRT that edge-train works with
WITH_TENSORRT = ("jetson-orin-", "jetson-agx-orin-", "jetson-thor", "igx-orin")


@pytest.fixture(autouse=True)
def tensorrt_is_here(board: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A board fails without the TensorRT of its JetPack; each test has an empty cache."""
    if missing := missing_modules():
        without = f"{board} has no {' and no '.join(missing)}: docs/tensorrt.md"
        if not board.startswith(WITH_TENSORRT):
            not_run(without)
        pytest.fail(without)
    monkeypatch.setenv("EDGE_TRAIN_CACHE", str(tmp_path))


@pytest.mark.parametrize("path", packages(), ids=lambda path: path.name)
def test_every_forward_graph_gives_the_features_of_ort(
    path: Path, record_property: RecordProperty
) -> None:
    package = open_package(path)
    is_half = package.manifest.precision == FP16
    tolerance = HALF_TOLERANCE if is_half else FLOAT_TOLERANCE
    for graph, weights in forward_graphs(package):
        inputs = package.manifest.graphs[graph].inputs
        (shape,) = (spec.shape for spec in inputs if spec.role == IMAGES)
        counts = [shape[0]] if shape[0] else [1, IMAGES_PER_RUN, IMAGES_PER_RUN + 1]
        for count in counts:
            size = [count or 1, *(each or 0 for each in shape[1:])]
            images = np.random.default_rng(1).integers(0, 256, size, np.uint8)
            features = []
            for name in ("tensorrt", "ort"):
                said: list[str] = []
                options = ForwardOptions(report=said.append)
                with open_forward_engine(package, graph, weights, name, options) as engine:
                    features.append(engine.run(images))
                    assert not [line for line in said if "without a CUDA graph" in line]
            error = largest_error(*features)
            record_property(f"largest_error of {graph} with {count}", error)
            assert error <= tolerance, graph


def test_many_runs_give_the_same_features_and_another_opening_builds_nothing() -> None:
    package = open_package(PACKAGE)
    graph, weights = next(forward_graphs(package))
    size_px = package.manifest.model.image_size_px
    images = np.random.default_rng(2).integers(0, 256, (40, size_px, size_px, 3), np.uint8)
    first = None
    for opening in range(2):
        said: list[str] = []
        options = ForwardOptions(report=said.append)
        with open_forward_engine(package, graph, weights, "tensorrt", options) as engine:
            for _ in range(RUNS):
                features = engine.run(images)
                first = features if first is None else first
                np.testing.assert_array_equal(features, first)
        assert bool(said) == (opening == 0)


def test_doctor_names_what_ran(board: str, facts: dict[str, Any]) -> None:
    (finding,) = facts["forward_engines"]
    assert finding["works"], f"{board}: {finding['problem']}"
    assert finding["did"]["runtime"].startswith("TensorRT ")
