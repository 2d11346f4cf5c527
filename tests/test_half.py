"""Which devices train packages of precision fp16, and what is said of the others."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edge_runtime.cli.main import main
from edge_runtime.engines import create_engine, half, require_supported, supported_rungs
from edge_runtime.errors import EngineError, PackageError
from edge_runtime.package.manifest import TensorSpec
from edge_runtime.state import encode_state

REASON = (
    "it is of precision fp16, which processors compute in float32 with conversions, slower "
    "than fp32. Export it with --precision fp32, or use a GPU (--device webgpu or cuda)"
)


@pytest.fixture
def half_package(package):
    """The package of `training_fakes`, which says that it is of precision fp16."""
    file = package.path / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "precision": "fp16"}))
    return replace(package, manifest=replace(package.manifest, precision="fp16"))


def test_a_processor_refuses_it_with_the_reason(half_package) -> None:
    engine = create_engine("ort")
    assert engine.unsupported_reason(half_package) == REASON
    for refuse in (
        lambda: engine.open(half_package, half_package.initial_state()),
        lambda: require_supported(engine, half_package, half_package.manifest.rungs[0]),
        lambda: supported_rungs(
            engine, half_package, half_package.manifest.rungs, pytest.fail
        ),
    ):
        with pytest.raises(EngineError) as caught:
            refuse()
        wanted = f"engine ort cannot train {half_package.path}: {REASON}."
        assert str(caught.value) == wanted  # and not: use engine ort


def test_other_packages_are_not_refused(package) -> None:
    assert create_engine("ort").unsupported_reason(package) is None


@pytest.mark.parametrize("command", ["run", "profile"])
def test_commands_end_before_anything_is_written(
    half_package, tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    words = [command, str(half_package.path)]
    words += ["digits", "-o", str(tmp_path / "run")] if command == "run" else []
    assert main(words) == 5
    captured = capsys.readouterr()
    assert REASON in captured.err
    assert captured.out == ""
    assert not (tmp_path / "run").exists()


def test_the_probe_adds_in_float16() -> None:
    """The file is what these lines make, byte for byte."""
    onnx = pytest.importorskip("onnx", reason="it makes the file")
    from onnx import TensorProto, helper

    nodes = [
        helper.make_node("Cast", ["x"], ["half"], to=TensorProto.FLOAT16),
        helper.make_node("Add", ["half", "half"], ["sum"]),
        helper.make_node("Cast", ["sum"], ["y"], to=TensorProto.FLOAT),
    ]
    border = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    model = helper.make_model(
        helper.make_graph(nodes, "half", border[:1], border[1:]),
        producer_name="edge-train",
        opset_imports=[helper.make_opsetid("", 18)],
        ir_version=10,
    )
    onnx.checker.check_model(model, full_check=True)
    assert half._PROBE.read_bytes() == model.SerializeToString(deterministic=True)


@pytest.mark.parametrize("scale", [0.0, -1.0, math.inf, math.nan])
def test_a_loss_scale_that_cannot_be_is_refused(package, scale) -> None:
    """Every step would be skipped, until the run is called diverged."""
    state = {**package.initial_state(), "buffer.loss_scale": np.array(scale, np.float32)}
    package.file(package.manifest.state_file).write_bytes(encode_state(state))
    spec = TensorSpec(name="buffer.loss_scale", dtype="float32", shape=(), role="state")
    manifest = replace(package.manifest, state=(*package.manifest.state, spec))
    with pytest.raises(PackageError, match=r"buffer\.loss_scale is .*finite number above 0"):
        replace(package, manifest=manifest).initial_state()
