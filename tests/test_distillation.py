"""Packages that distil a teacher file: targets, costs, engines, and what is refused."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the term is a torch function")

import onnx  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402
from spoilt_package import edit, problems, set_in, sha256  # noqa: E402
from steps import hyper_of, noise_batch  # noqa: E402
from teacher_file import write_teacher  # noqa: E402

from edge_export.analysis.liveness import arena_bytes  # noqa: E402
from edge_export.package.build import export_package  # noqa: E402
from edge_export.package.verify import verify_other_graphs  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.cli.main import main  # noqa: E402
from edge_runtime.engines import ForwardOptions, create_engine  # noqa: E402
from edge_runtime.engines.encoders.targets import Targets  # noqa: E402
from edge_runtime.errors import ConfigError, PackageError  # noqa: E402
from edge_runtime.package import open_package  # noqa: E402
from edge_runtime.planning.costs import NODE_BYTES, predicted_peak_bytes  # noqa: E402
from edge_runtime.profiling.worker import Noise  # noqa: E402
from edge_runtime.training import TrainingOptions, train  # noqa: E402

TERM = "distillation"
FROZEN, WEIGHTS = "graphs/frozen_encoder.onnx", "frozen_encoder.safetensors"
TEACHER = {"name": "vit_tiny", "patch_size": 8, "width": 24, "depth": 2, "heads": 3}
SMALL = {
    "model": {"image_size": 16, "patch_size": 4, "depth": 2, "width": 16, "heads": 2},
    "method": {"name": "distillation"},
    "batch_size": 4,
    "keep_ratios": [0.5],
    "distillation": {"weight": 1.0, "teacher": TEACHER},
}


def frozen_facts():
    return make_recipe(SMALL, where="test").frozen_facts()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A timm checkpoint of random weights, and these by parameter name."""
    path = tmp_path_factory.mktemp("teacher") / "teacher.safetensors"
    return path, write_teacher(path, frozen_facts())


def export(folder, teacher, **changes):
    recipe = make_recipe({**SMALL, **changes}, where="test")
    return export_package(
        recipe,
        folder / "package",
        init=None,
        teacher=teacher,
        report=lambda *_: None,
        verify_all=True,
    )


@pytest.fixture(scope="module")
def alone(tmp_path_factory, teacher):
    """Method `distillation`; the export compares every engine with PyTorch."""
    return export(tmp_path_factory.mktemp("alone"), teacher[0])


@pytest.fixture(scope="module")
def beside(tmp_path_factory, teacher):
    """BYOL, in whole batches and in micro-batches of two."""
    method = {"name": "byol", "projector_width": 16, "projector_out": 8, "head_norm": "layer"}
    folder = tmp_path_factory.mktemp("beside")
    return export(folder, teacher[0], method=method, micro_batches=[2])


def after_a_step(package, rung_id, engine="ort"):
    with create_engine(engine, threads=1) as opened:
        opened.open(package, package.initial_state())
        whole = package.manifest.rungs[0].id
        result = opened.step(rung_id, noise_batch(package, whole, 1), hyper_of(package, 1))
        return result.metrics, opened.snapshot()


def test_the_package_has_the_teachers_weights_and_its_state_does_not(alone, teacher):
    weights = alone.frozen_weights()
    assert weights.keys() == teacher[1].keys()
    for name, value in teacher[1].items():
        np.testing.assert_array_equal(weights[name], value)
    own = {spec.name for spec in alone.manifest.state if TERM in spec.name}
    assert {name.partition(".")[0] for name in own} == {"param", "exp_avg", "exp_avg_sq"}
    assert len(own) == 6  # one linear layer
    assert not [each for each in alone.manifest.encoder if TERM in each.name]


def test_targets_are_the_teachers_features_of_the_whole_views(beside, teacher):
    """As a model of its sizes embeds them, some pictures at a time; no policy prunes it."""
    table = {"model": {**TEACHER, "image_size": 16}, "tokens": {"name": "none"}}
    program = Program(make_recipe(table, where="test"))
    weights = {name: torch.from_numpy(value) for name, value in teacher[1].items()}
    batch = noise_batch(beside, beside.manifest.rungs[0].id, 1)
    targets = Targets(beside, "ort", ForwardOptions(threads=1))
    actual = targets.added_to(batch)
    targets.close()
    assert actual.keys() - batch.keys() == {"target.global"}
    views = torch.from_numpy(batch["images.global"])
    wanted = torch.stack([program.embed(weights, view) for view in views])
    np.testing.assert_allclose(actual["target.global"], wanted, rtol=1e-4, atol=1e-5)


def test_the_loss_is_the_term_alone(alone):
    metrics, _ = after_a_step(alone, "k050")
    assert metrics["loss"] == pytest.approx(metrics[TERM], rel=1e-6)
    assert 0 < metrics[TERM] < 2


def test_the_official_api_trains_it_too(alone):
    """Targets are inputs: no gradient has to be stopped."""
    if alone.manifest.ort_training.refused is not None:
        pytest.skip(alone.manifest.ort_training.refused)
    metrics, state = after_a_step(alone, "k050")
    others, other_state = after_a_step(alone, "k050", "ort-training")
    assert others["loss"] == pytest.approx(metrics["loss"], rel=1e-4)
    name = "exp_avg.distillation.0.weight"
    np.testing.assert_allclose(other_state[name], state[name], rtol=1e-3, atol=1e-7)


def test_micro_batches_are_exact(beside):
    whole, parts = beside.manifest.rungs
    metrics, state = after_a_step(beside, whole.id)
    part_metrics, part_state = after_a_step(beside, parts.id)
    assert part_metrics == pytest.approx(metrics, rel=1e-5)
    for name in (name for name in state if name.startswith("exp_avg.")):
        error = np.linalg.norm(part_state[name] - state[name])
        assert error <= 1e-5 * np.linalg.norm(state[name]) + 1e-8, name


def test_flops_and_memory_have_the_teachers_part(beside):
    """Two views of four pictures, two at a time."""
    manifest = beside.manifest
    spec, (whole, parts) = manifest.graphs[FROZEN], manifest.rungs
    assert [each.shape[0] for each in spec.inputs if each.role == "images"] == [2]
    step_path = whole.graphs["step"]
    step = manifest.graphs[step_path]
    assert spec.flops > 0
    assert whole.flops == step.flops + 4 * spec.flops
    assert parts.flops == whole.flops
    weights = manifest.forward_weight_bytes
    assert weights == sum(value.nbytes for value in beside.frozen_weights().values())
    without = predicted_peak_bytes(replace(manifest, frozen_encoder=None), whole, 0)
    more = predicted_peak_bytes(manifest, whole, 0) - without
    features = (2 * 4 + 2) * 24 * 4  # of the batch, and of the last run
    assert more == weights + NODE_BYTES * spec.nodes + features
    arenas = [arena_bytes(onnx.load(beside.file(path))) for path in (step_path, FROZEN)]
    assert whole.peak_activation_bytes == sum(arenas)


def test_a_run_records_the_term(alone, tmp_path):
    engine = create_engine("ort", threads=1)
    events = list(
        train(alone, Noise(8, 16), tmp_path / "run", TrainingOptions(engine=engine, epochs=1))
    )
    terms = [event.metrics[TERM] for event in events if hasattr(event, "metrics")]
    assert len(terms) == 2
    assert all(0 < term < 2 for term in terms)


def test_half_precision_and_local_views(tmp_path, teacher):
    """DINO's local views are smaller than what the teacher sees, and have no targets."""
    sizes = {"projector_width": 16, "projector_out": 8, "prototypes": 16}
    method = {"name": "dino", "local_views": 1, **sizes}
    package = export(tmp_path, teacher[0], method=method, precision="fp16")
    assert package.manifest.frozen_encoder.groups == ("global",)
    step = package.manifest.graphs["graphs/k050/step.onnx"]
    targets = [(each.name, each.shape) for each in step.inputs if each.role == "target"]
    assert targets == [("target.global", (2, 4, 24))]


# Damaged packages.


@pytest.fixture
def folder(tmp_path, alone):
    shutil.copytree(alone.path, tmp_path / "package")
    return tmp_path / "package"


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (
            set_in("frozen_encoder", "groups", ["local"]),
            "frozen_encoder: unknown view group 'local'",
        ),
        (
            set_in("frozen_encoder", "groups", ["global", "global"]),
            "group of frozen_encoder 'global' appears 2 times",
        ),
        (
            set_in("frozen_encoder", None),
            "graphs/k050/step.onnx: no view group or draw feeds 'target.global'",
        ),
        (
            set_in("frozen_encoder", "graph", "graphs/embed.onnx"),
            "graphs/embed.onnx: images (None, 16, 16, 3) do not give features (None, 16) of a "
            "batch",
        ),
        (
            set_in("frozen_encoder", "graph", "graphs/k050/step.onnx"),
            "graphs/k050/step.onnx: expected one tensor of role 'features', got 0",
        ),
        (set_in("frozen_encoder", "graph", "x"), "graph 'x' is not described in graphs"),
        (
            set_in("frozen_encoder", "weights_file", "x"),
            "the SHA-256 of 'x' is missing",
        ),
        (
            set_in("batch_size", 6),
            f"{FROZEN}: images (4, 16, 16, 3) do not give features (4, 24) of a batch",
        ),
        (
            set_in("views", 0, "size_px", 12),
            f"{FROZEN}: images (4, 16, 16, 3) are not views of group 'global'",
        ),
    ],
)
def test_an_inconsistent_manifest_is_refused(folder, change, wanted):
    edit(folder, change)
    assert wanted in problems(folder)


@pytest.mark.parametrize(
    ("key", "value", "found"),
    [
        ("shape", [1, 4, 25], "float32 (1, 4, 25)"),
        ("shape", [2, 4, 24], "float32 (2, 4, 24)"),  # would be filled with copies
        ("dtype", "int32", "int32 (1, 4, 24)"),
    ],
)
def test_steps_that_read_other_features_are_refused(folder, key, value, found):
    def change(table):
        for spec in table["graphs"]["graphs/k050/step.onnx"]["inputs"]:
            if spec["role"] == "target":
                spec[key] = value

    edit(folder, change)
    wanted = f"'target.global' is {found}, expected float32 (1, 4, 24)"
    assert f"graphs/k050/step.onnx: {wanted}" in problems(folder)


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("encoder.cls_token", "encoder.cls_token: expected"),
        ("encoder.another", "encoder.another: not expected"),
    ],
)
def test_other_weights_than_the_manifests_are_refused(folder, name, problem):
    weights = load_file(folder / WEIGHTS)
    weights[name] = np.zeros((1, 2, 24), np.float32)
    save_file(weights, folder / WEIGHTS)
    edit(folder, set_in("sha256", WEIGHTS, sha256((folder / WEIGHTS).read_bytes())))
    package = open_package(folder)
    engine = create_engine("ort", threads=1)
    with pytest.raises(PackageError, match=f"{WEIGHTS} differs from the manifest: {problem}"):
        engine.open(package, package.initial_state())


def test_the_graph_of_the_frozen_encoder_is_verified(alone, monkeypatch):
    program = Program(make_recipe(SMALL, where="test"))
    verify_other_graphs(alone, program)
    right = Program.targets
    monkeypatch.setattr(Program, "targets", lambda *given: right(*given) + 0.01)
    with pytest.raises(PackageError, match=FROZEN):
        verify_other_graphs(alone, program)


def test_with_batch_norm_the_term_still_has_a_gradient_for_every_parameter(tmp_path, teacher):
    """The method's head cancels a shift of all features, which that of distillation sees."""
    method = {"name": "byol", "projector_width": 16, "head_norm": "batch"}
    export(tmp_path, teacher[0], method=method)


# Recipes and files that cannot work.


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"weight": 0.0}, "distillation.weight: method distillation has no other loss"),
        (
            {"weight": 1.0, "teacher": {"image_size": 32}},
            "distillation.teacher.image_size: it sees the views of 16 px, got 32",
        ),
        (
            {"weight": 1.0, "teacher": {"patch_size": 5}},
            "distillation.teacher: image size 16 px is not a multiple of patch size 5 px",
        ),
        ({"weight": 1.0, "teacher": {"name": "x"}}, "distillation.teacher: unknown model 'x'"),
    ],
)
def test_recipes_that_cannot_work_are_refused(table, message):
    with pytest.raises(ConfigError, match=message):
        make_recipe({**SMALL, "distillation": table}, where="test")


def test_the_teachers_patches_are_those_of_its_name_or_the_models():
    def patch_px(**table):
        recipe = {**SMALL, "distillation": {"weight": 1.0, "teacher": table}}
        return make_recipe(recipe, where="test").frozen_facts().patch_size_px

    assert patch_px(name="vit_small") == 4
    assert patch_px(name="vit_small_patch16_224") == 16
    assert patch_px(name="vit_small_patch16_224", patch_size=8) == 8


def test_a_teacher_that_is_missing_superfluous_or_of_another_size_is_refused(
    tmp_path, teacher
):
    with pytest.raises(
        ConfigError, match=r"there is no teacher to learn from. Give --teacher"
    ):
        export(tmp_path, None)
    plain = {"method": {"name": "simclr"}, "distillation": {"weight": 0.0}}
    with pytest.raises(ConfigError, match=r"--teacher .*: distillation.weight is 0"):
        export(tmp_path, teacher[0], **plain)
    message = (
        r"--teacher .* is of another model: depth 2, not 3. Export with "
        r"--set 'distillation.teacher.depth=2'\."
    )
    other = {"weight": 1.0, "teacher": {**TEACHER, "depth": 3}}
    with pytest.raises(ConfigError, match=message):
        export(tmp_path, teacher[0], distillation=other)
    assert not (tmp_path / "package").exists()


def test_the_command_line_names_the_teacher(tmp_path, capsys):
    words = ["export", "--image-size", "16", "--patch-size", "4", "--teacher", "teacher.bin"]
    assert main([*words, "-o", str(tmp_path / "package")]) == 2
    assert "--teacher teacher.bin: distillation.weight is 0" in capsys.readouterr().err
