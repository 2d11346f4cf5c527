"""Parts written against the public interfaces: exported, verified, trained, resumed.

All of them are in this folder; the rest of edge-train does not know them. Exporting a package
compares each of its graphs with PyTorch, on every engine of the table.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="packages are exported with PyTorch")

from grown import DECODED, MASK_EVERY_STEPS, grown_parts  # noqa: E402
from grown_worker import STEPS, schedule  # noqa: E402
from steps import noise_batch  # noqa: E402

from edge_export.package.build import export_package  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.engines import create_engine, encoder_weights  # noqa: E402
from edge_runtime.package import Package  # noqa: E402
from edge_runtime.package.curves import hyper_parameters  # noqa: E402
from edge_runtime.package.names import BUFFER, EMA, EXP_AVG, PARAM  # noqa: E402
from edge_runtime.planning.costs import predicted_peak_bytes  # noqa: E402
from edge_runtime.records import open_run  # noqa: E402
from edge_runtime.state import State  # noqa: E402

RELATIVE = 1e-4  # of a metric: float32 sums in another order differ by about 1e-6
SIZES = {
    "name": "vit_tiny", "image_size": 16, "patch_size": 4, "depth": 3, "width": 32, "heads": 2
}  # fmt: skip
RECIPES: dict[str, dict[str, Any]] = {
    "objective": {
        "method": {"name": "grown"},
        "tokens": {"name": "random"},
        "keep_ratios": [1.0, 0.5],
        "micro_batches": [4],
    },
    "policy": {
        "method": {"name": "simclr"},
        "tokens": {"name": "random+scored"},
        "keep_ratios": [1.0, 0.5],
    },
    "axes": {
        "method": {"name": "mocov3"},
        "tokens": {"name": "none"},
        "patch_sizes": [4, 8],
        "trained": ["all", "last-1"],
    },
    "weights": {
        "method": {"name": "mocov3"},
        "tokens": {"name": "random"},
        "keep_ratios": [1.0, 0.5],
        "parametrization": {"name": "masked"},
    },
}
ENGINE_NAMES = ("ort", "plain")
Packages = Callable[[str], Package]


def recipe_of(name: str) -> Any:
    return make_recipe({"model": SIZES, "batch_size": 8, **RECIPES[name]}, where="test")


@pytest.fixture(scope="module", autouse=True)
def known() -> Iterator[None]:
    with grown_parts():
        yield


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Packages:
    folder = tmp_path_factory.mktemp("growth")
    exported: dict[str, Package] = {}

    def package(name: str) -> Package:
        if name not in exported:
            target = folder / name / "package"
            target.parent.mkdir()
            exported[name] = export_package(
                recipe_of(name), target, init=None, report=lambda *_: None
            )
        return exported[name]

    return package


def hyper_of(package: Package, step: int) -> dict[str, float]:
    return hyper_parameters(
        package.manifest.hyper_parameters, step, steps_per_epoch=STEPS // 2, total_steps=STEPS
    )


def rung_at(package: Package, step: int, engine: str = "ort") -> str:
    return [rung for first, rung in schedule(package, engine) if first <= step][-1]


def no_decay(package: Package, step: int) -> dict[str, float]:
    """Hyper-parameters with which only a gradient changes a parameter."""
    return {**hyper_of(package, step), "weight_decay": 0.0}


def trained(
    package: Package,
    engine_name: str,
    rung_of: Callable[[int], str],
    hyper_at: Callable[[Package, int], dict[str, float]] = hyper_of,
) -> Iterator[tuple[int, dict[str, float], State]]:
    """Train; yields the number, the metrics and the state after each step."""
    with create_engine(engine_name, threads=1) as engine:
        engine.open(package, package.initial_state())
        for step in range(1, STEPS + 1):
            hyper, rung = hyper_at(package, step), rung_of(step)
            result = engine.step(rung, noise_batch(package, rung, step), hyper)
            for periodic in package.manifest.periodic:
                if step % periodic.every_steps == 0:
                    engine.run_periodic(periodic.graph, hyper)
            yield step, dict(result.metrics), engine.snapshot()


@pytest.mark.parametrize("name", RECIPES)
def test_every_step_reports_what_pytorch_computes(packages: Packages, name: str) -> None:
    package, program = packages(name), Program(recipe_of(name))
    settings = {each.id: replace(each, micro_batch=None) for each in program.settings}
    state, rungs = package.initial_state(), set()
    for step, metrics, after in trained(package, "ort", lambda n: rung_at(package, n)):
        rung = rung_at(package, step)
        rungs.add(rung)
        given = {**state, **noise_batch(package, rung, step)}
        inputs = {key: torch.from_numpy(np.asarray(value)) for key, value in given.items()}
        inputs |= {k: torch.tensor(v) for k, v in hyper_of(package, step).items()}
        weights = {key: inputs[PARAM + key] for key in program.parameters}
        with torch.no_grad():
            _, outputs = program.bind(settings[rung]).loss(weights, inputs)
        expected = {key: float(value) for key, value in outputs.metrics.items()}
        assert metrics == pytest.approx(expected, rel=RELATIVE), f"step {step}"
        state = after
    assert rungs == {rung.id for rung in package.manifest.rungs}  # all were trained


@pytest.mark.parametrize("name", RECIPES)
def test_another_engine_ends_with_the_same_bits(packages: Packages, name: str) -> None:
    package = packages(name)
    turns = [rung_at(package, step, "plain") for step in range(1, STEPS + 1)]
    *_, (_, _, expected) = trained(package, "ort", lambda step: turns[step - 1])
    *_, (_, _, state) = trained(package, "plain", lambda step: turns[step - 1])
    assert state.keys() == expected.keys()
    for key, value in expected.items():
        np.testing.assert_array_equal(state[key], value, err_msg=key)


def test_an_engine_says_which_rungs_it_trains(packages: Packages) -> None:
    package = packages("objective")
    found = {
        engine: [rung for _, rung in schedule(package, engine)] for engine in ENGINE_NAMES
    }
    assert found == {
        "ort": ["k100", "k100-m4", "k050", "k050-m4", "k100"],
        "plain": ["k100", "k050", "k100"],
    }


@pytest.mark.parametrize("engine", ENGINE_NAMES)
@pytest.mark.parametrize("name", RECIPES)
def test_a_killed_run_resumes_to_the_same_bits(
    packages: Packages, name: str, engine: str, tmp_path: Path
) -> None:
    package = packages(name)
    folder = package.path.parent
    killed = [worked(folder, tmp_path / seed, seed, engine) for seed in ("never", "4")]
    assert killed[0] == []
    assert killed[1] != []
    runs = [open_run(tmp_path / seed) for seed in ("never", "4")]
    pairs = list(zip(*(run.steps() for run in runs), strict=True))
    assert len(pairs) == STEPS
    for first, second in pairs:
        assert replace(second, measured=first.measured) == first
    file = f"checkpoints/{STEPS}/state.safetensors"
    assert (runs[0].path / file).read_bytes() == (runs[1].path / file).read_bytes()


def worked(folder: Path, run_dir: Path, seed: str, engine: str) -> list[str]:
    """Train in processes to the end; returns the operations in which they were killed."""
    here, root = Path(__file__).parent, Path(__file__).parents[2]
    paths = os.pathsep.join(map(str, (here, here.parent, root)))
    done = subprocess.run(
        [sys.executable, here / "grown_worker.py", folder, run_dir, seed, engine],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": paths, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    killed_in: list[str] = json.loads(done.stdout)
    return killed_in


def test_the_objective_has_its_views_state_and_curve(packages: Packages) -> None:
    manifest = packages("objective").manifest
    views = [(group.name, group.size_px, len(group.views)) for group in manifest.views]
    assert views == [("global", 16, 2), ("local", 8, 3)]
    half = next(rung for rung in manifest.rungs if rung.id == "k050")
    assert half.tokens_per_block == {"global": (9, 9, 9), "local": (5, 5, 5)}
    warm = [hyper_of(packages("objective"), n)["teacher_temperature"] for n in (1, 10, 11, 20)]
    # Warm-up of one epoch from 0.1 to 0.07, then a line that would reach 0.04 at step 21
    assert warm == pytest.approx([0.097, 0.07, 0.07, 0.043])
    assert f"{EMA}head.0.weight" in {spec.name for spec in manifest.state}
    assert f"{EMA}decoder.attn.qkv.weight" not in {spec.name for spec in manifest.state}


def test_the_centre_moves_once_per_step(packages: Packages) -> None:
    package, centre = packages("objective"), f"{BUFFER}centre"
    moved = [after[centre] for _, _, after in trained(package, "ort", lambda _: "k100-m4")]
    assert len({value.tobytes() for value in moved}) == STEPS
    whole = [after[centre] for _, _, after in trained(package, "ort", lambda _: "k100")]
    # The mean over micro-batches is that of the batch, in another order of additions.
    np.testing.assert_allclose(moved[0], whole[0], rtol=1e-4, atol=1e-7)


def test_the_objective_uses_its_own_draw(packages: Packages) -> None:
    package = packages("objective")
    for rung in package.manifest.rungs:
        draws = {draw.input: (draw.kept, draw.population) for draw in rung.draws}
        assert draws[DECODED] == (24, 48)
    batch, hyper = noise_batch(package, "k050", 1), hyper_of(package, 1)
    found = []
    for decoded in (batch[DECODED], 47 - batch[DECODED][..., ::-1]):
        with create_engine("ort", threads=1) as engine:
            engine.open(package, package.initial_state())
            result = engine.step("k050", {**batch, DECODED: decoded.copy()}, hyper)
        found.append(result.metrics)
    assert found[0]["reconstruction"] != found[1]["reconstruction"]
    assert found[0]["agreement"] == found[1]["agreement"]


def test_the_policys_parameters_are_trained(packages: Packages) -> None:
    package = packages("policy")
    before, scorer = package.initial_state(), f"{PARAM}scorer.weight"
    for step, metrics, after in trained(package, "ort", lambda _: "k050", no_decay):
        assert np.any(after[f"{EXP_AVG}scorer.weight"]), f"step {step}"
        assert not np.array_equal(before[scorer], after[scorer]), f"step {step}"
        assert 0 < metrics["share"] < 1
        before = after


def test_a_rung_with_larger_patches_trains_the_same_kernel(packages: Packages) -> None:
    package, kernel = packages("axes"), f"{PARAM}encoder.patch_embed.proj.weight"
    rungs = {rung.id: rung for rung in package.manifest.rungs}
    assert rungs["k100-p8"].tokens_per_block == {"global": (5, 5, 5)}
    assert rungs["k100-p8"].flops < 0.7 * rungs["k100"].flops
    before = package.initial_state()[kernel]
    *_, (_, _, after) = trained(package, "ort", lambda _: "k100-p8", no_decay)
    assert not np.array_equal(before, after[kernel])
    assert np.all(after[kernel.replace(PARAM, EXP_AVG, 1)].any(axis=1))  # of every pixel


@pytest.mark.parametrize("rung_id", ["k100-last-1", "k100-p8-last-1"])
def test_state_that_a_rung_does_not_train_is_bit_equal(
    packages: Packages, rung_id: str
) -> None:
    package, before = packages("axes"), packages("axes").initial_state()
    *_, (_, _, after) = trained(package, "ort", lambda _: rung_id, no_decay)
    trained_prefixes = ("encoder.blocks.2.", "encoder.norm.", "projector.", "predictor.")
    for key, value in before.items():
        name = key.partition(".")[2]
        if not name.startswith(trained_prefixes) and not key.startswith("updates."):
            np.testing.assert_array_equal(after[key], value, err_msg=key)
    for prefix in trained_prefixes:
        key = f"{PARAM}{prefix}weight"
        keys = [key] if key in before else [k for k in before if k.startswith(PARAM + prefix)]
        assert any(not np.array_equal(after[k], before[k]) for k in keys), prefix
        assert all(np.any(after[k.replace(PARAM, EXP_AVG, 1)]) for k in keys), prefix


def test_training_less_costs_less(packages: Packages) -> None:
    manifest = packages("axes").manifest
    whole, last = (
        next(rung for rung in manifest.rungs if rung.id == rung_id)
        for rung_id in ("k100", "k100-last-1")
    )
    assert last.flops < 0.8 * whole.flops
    assert last.peak_activation_bytes < 0.8 * whole.peak_activation_bytes
    assert manifest.changed_state(last) < manifest.changed_state(whole)


PEAK = """
import sys
from pathlib import Path
from steps import hyper_of, noise_batch
from edge_runtime.device import PeakMemory
from edge_runtime.engines import create_engine
from edge_runtime.package import open_package
package, rung = open_package(Path(sys.argv[1])), sys.argv[2]
with create_engine("ort", threads=1) as engine:
    engine.open(package, package.initial_state())
    for step in range(1, 6):
        engine.step(rung, noise_batch(package, rung, step), hyper_of(package, step))
print(PeakMemory().peak_bytes())
"""


def test_training_less_saves_the_predicted_memory(tmp_path: Path) -> None:
    sizes = {**SIZES, "image_size": 32, "width": 192, "heads": 3, "depth": 6}
    table = {"model": sizes, "batch_size": 16, **RECIPES["axes"], "patch_sizes": []}
    recipe = make_recipe(table, where="test")
    package = export_package(recipe, tmp_path / "package", init=None, report=lambda *_: None)
    whole, last = package.manifest.rungs
    predicted = [predicted_peak_bytes(package.manifest, rung, 0) for rung in (whole, last)]
    tests = Path(__file__).parents[1]
    measured = [
        int(
            subprocess.run(
                [sys.executable, "-c", PEAK, package.path, rung.id],
                capture_output=True,
                text=True,
                check=True,
                env={"PYTHONPATH": f"{tests}{os.pathsep}{tests.parent}"},
            ).stdout
        )
        for rung in (whole, last)
    ]
    saved = measured[0] - measured[1]
    assert saved > 0.15 * measured[0]
    assert saved == pytest.approx(predicted[0] - predicted[1], rel=0.15)


def test_moments_of_a_parameter_count_only_its_updates(packages: Packages) -> None:
    """Five steps of only the last block, then all: the others begin then."""
    package = packages("axes")
    states = [
        after
        for _, _, after in trained(
            package, "ort", lambda step: "k100-last-1" if step <= 5 else "k100"
        )
    ]
    assert [float(states[n]["updates.all"]) for n in (4, 5, 9)] == [0, 1, 5]
    assert [float(states[n]["updates.all+last-1"]) for n in (4, 5, 9)] == [5, 6, 10]
    # Adam's first update is the learning rate in every element, whatever the gradient.
    name = f"{PARAM}encoder.blocks.0.mlp.fc1.weight"
    hyper = hyper_of(package, 6)
    decayed = states[4][name] * (1 - hyper["lr"] * hyper["weight_decay"])
    step = np.abs(states[5][name] - decayed)
    assert np.median(step) == pytest.approx(hyper["lr"], rel=1e-2)


def test_masks_are_updated_periodically_and_hold(packages: Packages) -> None:
    package = packages("weights")
    masks = [n for n in package.initial_state() if n.startswith(f"{BUFFER}mask.")]
    assert len(masks) == 3
    kept = {}
    for step, _, after in trained(package, "ort", lambda step: rung_at(package, step)):
        assert after[masks[0]].dtype == np.bool_
        assert int(after[f"{BUFFER}mask_updates"]) == step // MASK_EVERY_STEPS
        kept[step] = np.mean([after[name].mean() for name in masks])
    # The sparsity of steps 5, 10, 15, 20 is a line from 0 to 0.5.
    expected = [1 - 0.5 * (step - 1) / STEPS for step in (5, 10, 15, 20)]
    assert [kept[step] for step in (5, 10, 15, 20)] == pytest.approx(expected, abs=2e-3)
    weights = encoder_weights(package, after)
    for name in masks:
        own = name.removeprefix(f"{BUFFER}mask.")
        np.testing.assert_array_equal(weights[own] != 0, after[name])
        np.testing.assert_array_equal(
            weights[own][after[name]], after[PARAM + own][after[name]]
        )
