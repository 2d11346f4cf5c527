"""Writing a package: complete or absent, the same bytes for the same recipe, as described."""

import errno
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

torch = pytest.importorskip("torch", reason="packages are exported with PyTorch")

import onnx  # noqa: E402

from edge_export.analysis.liveness import arena_bytes  # noqa: E402
from edge_export.lowering.table import TABLE  # noqa: E402
from edge_export.ort_training import artifacts as ort_training  # noqa: E402
from edge_export.package import graphs, verify  # noqa: E402
from edge_export.package.build import export_package, initial_state  # noqa: E402
from edge_export.recipe import make_recipe, rung_id  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.errors import ConfigError, PackageError, StorageError  # noqa: E402
from edge_runtime.package import open_package  # noqa: E402
from edge_runtime.package.names import PARAM  # noqa: E402

ROOT = Path(__file__).parents[1]
SIZES = {"image_size": 16, "patch_size": 4, "depth": 1, "width": 16, "heads": 1}
TINY = {
    "model": SIZES,
    "method": {"name": "simclr", "projector_width": 16, "projector_out": 8},
    "batch_size": 4,
}
COUPLED = {
    **TINY,
    "model": {**SIZES, "depth": 2},
    "method": {"name": "mocov3", "projector_width": 16, "projector_out": 8},
    "tokens": {"name": "simprune"},
    "keep_ratios": [0.5],
    "patch_sizes": [4, 2],
    "trained": ["all", "last-1"],
}
ONE_RUNG = {**TINY, "tokens": {"name": "none"}}
CHECKPOINT = ort_training.CHECKPOINT
# For other processes; one thread, as in this one.
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "export", ROOT / "tests"))),
    "OMP_NUM_THREADS": "1",
}


def export(table, target, report=lambda *_: None):
    return export_package(make_recipe(table, where="test"), target, init=None, report=report)


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    ladder = {**TINY, "keep_ratios": [1.0, 0.5]}
    return export(ladder, tmp_path_factory.mktemp("build") / "package")


def files_of(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def coupled_step_digests():
    """Step graphs with both branches and a teacher, without exporting a package.

    Of other patch sizes and trained parts, too, whose constants are computed.
    """
    program = Program(make_recipe(COUPLED, where="test"))
    state = program.initial_state()
    models = [graphs.step_graph(program.bind(each), state).model for each in program.settings]
    contents = [model.SerializeToString(deterministic=True) for model in models]
    return " ".join(hashlib.sha256(content).hexdigest() for content in contents)


# In another process, after other graphs, and with the ladder the other way round.
CHILD = """
import sys
from pathlib import Path
import test_build
print(test_build.coupled_step_digests())
ladder = {**test_build.TINY, "keep_ratios": [0.5, 1.0]}
test_build.export(ladder, Path(sys.argv[1]))
"""


def parameters_of(checkpoint):
    api = pytest.importorskip("onnxruntime.training.api", reason="it reads the checkpoint")
    state = api.CheckpointState.load_checkpoint(str(checkpoint))
    return {name: parameter.data for name, parameter in state.parameters}


def test_the_same_recipe_gives_the_same_bytes_in_another_process(package, tmp_path):
    reversed_path = tmp_path / "reversed"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", CHILD, reversed_path],
        capture_output=True,
        text=True,
        env=ENVIRONMENT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == coupled_step_digests()
    first, second = files_of(package.path), files_of(reversed_path)
    tables = [json.loads(files.pop("manifest.json")) for files in (first, second)]
    checkpoints = [files.pop(CHECKPOINT, None) for files in (first, second)]
    assert [name for name in first if first[name] != second.get(name)] == []
    assert first.keys() == second.keys()
    for table in tables:
        table["sha256"].pop(CHECKPOINT, None)
        table["rungs"].sort(key=lambda rung: rung["id"])
        table["recipe"]["keep_ratios"].sort()
    assert tables[0] == tables[1]
    if checkpoints[0] is not None:
        pairs = [parameters_of(path / CHECKPOINT) for path in (package.path, reversed_path)]
        assert pairs[0].keys() == pairs[1].keys()
        for name, value in pairs[0].items():
            np.testing.assert_array_equal(value, pairs[1][name])


def test_the_ort_training_checkpoint_is_the_initial_state(package):
    state = package.initial_state()
    parameters = parameters_of(package.file(CHECKPOINT))
    assert {PARAM + name for name in parameters} == {n for n in state if n.startswith(PARAM)}
    for name, value in parameters.items():
        np.testing.assert_array_equal(value, state[PARAM + name])


def test_every_file_is_in_the_manifest(package):
    assert package.manifest.sha256.keys() | {"manifest.json"} == files_of(package.path).keys()
    assert package.path.stat().st_mode & 0o777 == 0o755
    assert not [path for path in package.path.parent.iterdir() if path != package.path]


def test_the_manifest_describes_the_graph_files(package):
    for path, spec in package.manifest.graphs.items():
        model = onnx.load(package.file(path))
        onnx.checker.check_model(model)
        inputs = {tensor.name: tensor for tensor in spec.inputs}
        inputs_of = [value for value in model.graph.input if value.name in inputs]
        if "ort_training" not in path:
            assert len(inputs_of) == len(model.graph.input)
        assert [value.name for value in inputs_of] == list(inputs)
        outputs = {value.name: value for value in model.graph.output}
        pairs = [(value, inputs[value.name]) for value in inputs_of]
        pairs += [(outputs[tensor.name], tensor) for tensor in spec.outputs]
        for value, tensor in pairs:
            kind = value.type.tensor_type
            shape = tuple(None if d.dim_param else d.dim_value for d in kind.shape.dim)
            dtype = onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type).name
            assert (tensor.dtype, tensor.shape) == (dtype, shape)
            assert not tensor.name.startswith("v")  # names of the border, none of the inside


def test_the_manifest_describes_the_rungs(package):
    dense, half = package.manifest.rungs
    assert (dense.id, dense.keep_ratio, half.id, half.keep_ratio) == ("k100", 1.0, "k050", 0.5)
    assert dense.tokens_per_block == {"global": (17,)}
    assert half.tokens_per_block == {"global": (9,)}
    assert package.manifest.token_blocks(half) == 2 * 4 * 9  # views, pictures, tokens
    for rung in (dense, half):
        assert (rung.patch_size_px, rung.trained, rung.micro_batch) == (4, "all", None)
        assert rung.graphs == {"step": f"graphs/{rung.id}/step.onnx"}
        assert rung.flops == package.manifest.graphs[rung.graphs["step"]].flops
        changed = package.manifest.changed_state(rung)
        assert changed == {spec.name for spec in package.manifest.state}
    assert dense.draws == ()
    (draw,) = half.draws
    assert (draw.views, draw.kept, draw.population) == (2, 8, 16)
    assert 0.4 < half.flops / dense.flops < 0.6


def test_a_rungs_tensors_are_measured_in_its_graph(package):
    dense, half = package.manifest.rungs
    for rung in (dense, half):
        assert rung.peak_activation_bytes == arena_bytes(
            onnx.load(package.file(rung.graphs["step"]))
        )
    assert 0.4 < half.peak_activation_bytes / dense.peak_activation_bytes < 0.7


def test_a_packages_recipe_is_the_recipe(package):
    recipe = make_recipe({**TINY, "keep_ratios": [1.0, 0.5]}, where="test")
    assert make_recipe(package.manifest.recipe, where="manifest") == recipe
    assert package.manifest.hyper_parameters == Program(recipe).hyper_parameters


def test_the_state_is_the_programs(package):
    state = initial_state(Program(make_recipe(TINY, where="test")), None)
    written = package.initial_state()
    assert [spec.name for spec in package.manifest.state] == list(state)
    assert written.keys() == state.keys()
    for name, value in state.items():
        np.testing.assert_array_equal(written[name], value.numpy())


@given(st.lists(st.integers(1, 999_999), unique=True, min_size=2, max_size=20))
def test_different_keep_ratios_have_different_rungs(millionths):
    names = {rung_id(number / 1_000_000, None, "all", None) for number in millionths}
    assert len(names) == len(millionths)


@pytest.mark.parametrize(
    ("keep_ratio", "name"),
    [(1.0, "k100"), (0.75, "k075"), (0.5, "k050"), (0.333, "k0333"), (0.05, "k005")],
)
def test_a_rungs_name_is_its_keep_ratio(keep_ratio, name):
    assert rung_id(keep_ratio, None, "all", None) == name


def test_a_rungs_name_has_a_part_for_every_other_axis():
    assert rung_id(1.0, 8, "last-2", 16) == "k100-p8-last-2-m16"
    table = {**TINY, "keep_ratios": [1.0, 0.5], "patch_sizes": [4, 2], "trained": ["last-1"]}
    ladder = make_recipe({**table, "micro_batches": [4]}, where="test").rungs()
    assert [rung.id for rung in ladder] == [
        f"k{ratio}{patch}-last-1{parts}"
        for ratio in ("100", "050")
        for patch in ("", "-p2")
        for parts in ("", "-m4")
    ]


def test_stages_are_reported_with_their_times(tmp_path, monkeypatch):
    monkeypatch.setattr(ort_training, "is_available", lambda: False)
    stages = []
    export(ONE_RUNG, tmp_path / "package", lambda *stage: stages.append(stage))
    names = ["initial state", "checks", "embedding graph", "k100 step graph", "verification"]
    assert stages[::2] == [(name, None, None) for name in names]
    assert [name for name, _, _ in stages[1::2]] == names
    assert all(0 <= wall_s < 600 and 0 <= cpu_s < 600 for _, wall_s, cpu_s in stages[1::2])
    # and without the generator of ort-training there are no artifacts
    facts = open_package(tmp_path / "package").manifest
    assert facts.ort_training.refused == ort_training.MISSING
    assert (facts.ort_training.checkpoint, facts.ort_training.update) == (None, None)
    assert facts.rungs[0].ort_training is None
    assert not (tmp_path / "package" / "ort_training").exists()


def test_what_the_ort_training_optimizer_cannot_do_has_no_artifacts(tmp_path):
    made = export({**ONE_RUNG, "optimizer": {"exempt_vectors": True}}, tmp_path / "package")
    assert (
        "ort-training optimizer decays every parameter" in made.manifest.ort_training.refused
    )
    assert made.manifest.rungs[0].ort_training is None
    assert not [name for name in made.manifest.sha256 if name.startswith("ort_training")]


def test_all_rungs_may_have_another_patch_size_than_the_model(tmp_path):
    table = {**ONE_RUNG, "patch_sizes": [SIZES["image_size"]]}
    made = export(table, tmp_path / "package")
    assert [rung.patch_size_px for rung in made.manifest.rungs] == [SIZES["image_size"]]


def wrong_by_one_percent(monkeypatch, operator):
    """Multiply a lowering's result by 1.01."""
    original = TABLE[operator]

    def wrong(g, *arguments, **options):
        product = original(g, *arguments, **options)
        return g.op("Mul", product, g.constant(1.01, product.dtype))

    monkeypatch.setitem(TABLE, operator, wrong)


aten = torch.ops.aten


@pytest.mark.parametrize(
    ("operator", "message"),
    [
        (aten._softmax.default, r"rung k100 on engine ort .* differs from PyTorch: loss is"),
        (aten.pow.Tensor_Tensor, r"step of param\..* is off by"),  # AdamW's alone
    ],
    ids=str,
)
def test_a_wrong_graph_is_not_published(tmp_path, monkeypatch, operator, message):
    monkeypatch.setattr(ort_training, "is_available", lambda: False)
    monkeypatch.setattr(verify, "TRIES", 1)
    wrong_by_one_percent(monkeypatch, operator)
    with pytest.raises(PackageError, match=message):
        export(ONE_RUNG, tmp_path / "package")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "folder", "empty folder", "link"])
def test_what_exists_is_never_replaced(tmp_path, kind):
    target = tmp_path / "mine"
    if kind == "file":
        target.write_text("mine")
    elif kind == "link":
        target.symlink_to(tmp_path / "nowhere")
    else:
        target.mkdir()
        if kind == "folder":
            (target / "mine.txt").write_text("mine")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(
        ConfigError, match=r"mine exists; choose another folder or remove it\."
    ):
        export(ONE_RUNG, target)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_disk_that_fills_up_at_the_last_file_leaves_nothing(tmp_path, monkeypatch):
    original = Path.write_bytes

    def full(path, content):
        if path.name == "manifest.json":
            raise OSError(errno.ENOSPC, "No space left on device")
        return original(path, content)

    monkeypatch.setattr(Path, "write_bytes", full)
    monkeypatch.setattr(ort_training, "is_available", lambda: False)
    with pytest.raises(StorageError, match=r"cannot write .*manifest\.json: No space left"):
        export(ONE_RUNG, tmp_path / "package")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_for_temporary_files_is_reported(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime.training.artifacts", reason="it writes temporary files")
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    program = Program(make_recipe(ONE_RUNG, where="test"))
    rung, state = program.bind(program.settings[0]), program.initial_state()
    forward = graphs.loss_graph(rung, state).model
    with pytest.raises(
        StorageError,
        match=r"cannot write to .*gone: No such file or directory\. Choose another",
    ):
        ort_training.artifacts(forward, list(program.parameters), program.hyper_parameters)


def test_a_target_below_a_file_is_reported(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"cannot write .*file/package"):
        export(ONE_RUNG, tmp_path / "file" / "package")


FLAGS = (
    "--model vit_tiny --image-size 16 --patch-size 4 --depth 1 --width 16 --heads 1 "
    "--tokens none --batch-size 4"
)


def started(target, **options):
    command = [sys.executable, "-W", "ignore", "-u", "-m", "edge_runtime.cli.main", "export"]
    return subprocess.Popen(
        [*command, *FLAGS.split(), "-o", target],
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT,
        **options,
    )


def test_a_full_disk_exits_9_and_leaves_nothing(tmp_path):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = started(tmp_path / "package", preexec_fn=limit)
    _, error = process.communicate()
    assert process.returncode == 9
    assert "state.safetensors: File too large. Free some space or choose another" in error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_an_interruption_leaves_nothing(tmp_path, signum):
    process = started(tmp_path / "package")
    for line in process.stderr:
        if line.startswith("embedding graph"):
            break
    assert [path.name[:9] for path in tmp_path.iterdir()] == [".package-"]
    process.send_signal(signum)
    assert re.fullmatch(r"(.* CPU s\n)*", process.communicate()[1])
    assert process.returncode == 130
    assert list(tmp_path.iterdir()) == []
