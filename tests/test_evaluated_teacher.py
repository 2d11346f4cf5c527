"""A method that declares its teacher as the evaluated encoder; with and without masks."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="packages are exported with PyTorch")

import onnx  # noqa: E402
from declaring_parts import MASKED, declaring_parts  # noqa: E402
from paired_objective import Paired  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402
from steps import hyper_of, noise_batch  # noqa: E402

from edge_export.declaration import TEACHER  # noqa: E402
from edge_export.objectives import OBJECTIVES  # noqa: E402
from edge_export.package.build import export_package  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.engines import (  # noqa: E402
    ForwardOptions,
    create_engine,
    create_forward_engine,
    encoder_weights,
)
from edge_runtime.evaluation.encoder_file import export_encoder  # noqa: E402
from edge_runtime.package.encoder import from_timm  # noqa: E402
from edge_runtime.package.names import BUFFER, EMA, PARAM  # noqa: E402

TABLE = {
    "model": {"image_size": 16, "patch_size": 4, "depth": 1, "width": 16, "heads": 1},
    "method": {"name": "evaluated-teacher", "projector_width": 16, "projector_out": 8},
    "tokens": {"name": "none"},
    "batch_size": 4,
}
MASK = f"{BUFFER}mask"


class EvaluatedTeacher(Paired):
    """The only difference to `paired` is the declaration."""

    name = "evaluated-teacher"

    def __init__(self, model, options):
        super().__init__(model, options)
        self.declaration = replace(self.declaration, evaluated=TEACHER)


@pytest.fixture(scope="module", params=["none", "masked"])
def trained(request, tmp_path_factory):
    """A package, its program, and a state in which the teacher is not the student."""
    table = {**TABLE, "parametrization": {"name": request.param}}
    folder = tmp_path_factory.mktemp("evaluated")
    with declaring_parts(), pytest.MonkeyPatch.context() as patch:
        patch.setitem(OBJECTIVES, EvaluatedTeacher.name, EvaluatedTeacher)
        recipe = make_recipe(table, where="test")
        package = export_package(recipe, folder / "package", init=None, report=lambda *_: None)
        program = Program(recipe)
        (rung,) = package.manifest.rungs
        with create_engine("ort", threads=1) as engine:
            engine.open(package, package.initial_state())
            for step in range(1, 4):
                batch = noise_batch(package, rung.id, step)
                engine.step(rung.id, batch, hyper_of(package, step))
            state = engine.snapshot()
        yield package, program, state


def expected_weights(package, state):
    """The teacher's, masked by hand."""
    weights = {each.name: state[EMA + each.name] for each in package.manifest.encoder}
    for name, value in weights.items():
        assert not np.array_equal(value, state[PARAM + name]), name
    if MASK in state:
        weights[MASKED] = np.where(state[MASK], weights[MASKED], 0)
    return weights


def test_the_encoder_is_the_teachers(trained):
    package, program, state = trained
    assert package.manifest.encoder_prefix == program.encoder_prefix == EMA
    assert (package.manifest.merge is not None) == (MASK in state)
    found, expected = encoder_weights(package, state), expected_weights(package, state)
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_the_merge_graph_reads_no_weight_of_the_student(trained):
    package, _, _ = trained
    if package.manifest.merge is None:
        return
    spec = package.manifest.graphs[package.manifest.merge]
    read = {tensor.name for tensor in spec.inputs}
    assert {EMA + each.name for each in package.manifest.encoder} <= read
    assert not [name for name in read if name.startswith(PARAM)]


def test_features_are_those_of_the_teacher(trained):
    package, program, state = trained
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    with create_forward_engine(options=ForwardOptions(threads=1)) as engine:
        engine.open(package, package.manifest.embed, encoder_weights(package, state))
        found = engine.run(images)
    weights = {k: torch.from_numpy(v) for k, v in expected_weights(package, state).items()}
    expected = program.embed(weights, torch.from_numpy(images)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    student = {**weights, **{n: torch.from_numpy(state[PARAM + n]) for n in weights}}
    other = program.embed(student, torch.from_numpy(images)).numpy()
    assert np.abs(other - found).max() > 1e-3


def test_encoder_files_hold_the_teacher(trained, tmp_path):
    package, _, state = trained
    export_encoder(package, state, tmp_path / "encoder.safetensors")
    tensors = load_file(tmp_path / "encoder.safetensors")
    found = from_timm(package.manifest.encoder, tensors)
    export_encoder(package, state, tmp_path / "encoder.onnx")
    model = onnx.load(tmp_path / "encoder.onnx")
    stored = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for name, value in expected_weights(package, state).items():
        np.testing.assert_array_equal(found[name], value, err_msg=name)
        np.testing.assert_array_equal(stored[name], value, err_msg=name)
