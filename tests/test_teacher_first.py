"""An EMA teacher before the step is the one inside it; what differs is documented here."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="packages are exported with PyTorch")

from declaring_parts import declaring_parts  # noqa: E402
from early_teacher import METHODS, table_of  # noqa: E402
from paired_objective import Paired  # noqa: E402
from spoilt_package import edit, problems, set_in  # noqa: E402
from steps import hyper_of, noise_batch  # noqa: E402

from edge_export.objectives import OBJECTIVES  # noqa: E402
from edge_export.package.build import export_package  # noqa: E402
from edge_export.package.verify import checked_hyper, teacher_outputs  # noqa: E402
from edge_export.policies.simprune import select_alone  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.example import example_draws, example_images  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.cli.main import main  # noqa: E402
from edge_runtime.engines import create_engine, create_gradient_engine  # noqa: E402
from edge_runtime.errors import ConfigError  # noqa: E402
from edge_runtime.planning.costs import NODE_BYTES, predicted_peak_bytes  # noqa: E402

STEPS = 4
TEACHER = "graphs/teacher.onnx"


# The same step, in PyTorch


def rung_of(method, delay, which=-1, **changes):
    program = Program(make_recipe(table_of(method, delay, **changes), where="test"))
    return program.bind(program.settings[which])


def inputs_of(rung, seed=0):
    """A state in which the teacher is not the student, and the late one is neither."""
    generator = torch.Generator().manual_seed(seed)
    state = {
        name: value + 0.05 * torch.randn(value.shape, generator=generator)
        if name.startswith(("ema.", "late."))
        else value
        for name, value in sorted(rung.program.initial_state().items())
    }
    hyper = {k: torch.tensor(v) for k, v in checked_hyper(rung.program).items()}
    inputs = {**state, **hyper, **example_images(rung), **example_draws(rung)}
    return {**inputs, **teacher_outputs(rung.program, inputs)}


@pytest.mark.parametrize("features", ["class-token", "mean-patches"])
@pytest.mark.parametrize("method", METHODS)
def test_without_delay_it_is_the_same_step(method, features):
    model = {**table_of(method, 0)["model"], "features": features}
    inside, before = (rung_of(method, delay, model=model) for delay in (None, 0))
    inputs = inputs_of(before)
    gradients, outputs = before.gradient(inputs)
    expected, expected_outputs = inside.gradient(inputs_of(inside))
    assert gradients.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(gradients[name], value, rtol=1e-4, atol=1e-7)
    for name, value in expected_outputs.metrics.items():
        torch.testing.assert_close(outputs.metrics[name], value, rtol=1e-6, atol=1e-6)
    for name, value in expected_outputs.buffers.items():
        torch.testing.assert_close(outputs.buffers[name], value, rtol=1e-5, atol=1e-6)


def test_with_a_delay_all_of_the_teacher_is_late():
    """Encoder and heads: with the late one in place of the teacher it is the same step."""
    late, inside = rung_of("mocov3", 1), rung_of("mocov3", None)
    inputs = inputs_of(late)
    swapped = {
        name: inputs[name.replace("ema.", "late.")] if name.startswith("ema.") else value
        for name, value in inputs.items()
    }
    loss = late.gradient(inputs)[1].metrics["loss"]
    torch.testing.assert_close(loss, inside.gradient(swapped)[1].metrics["loss"])
    assert abs(loss - inside.gradient(inputs)[1].metrics["loss"]) > 1e-4


def test_the_late_teacher_is_that_before_the_step_even_if_the_step_is_skipped():
    rung = rung_of("byol", 1, precision="fp16")
    inputs = inputs_of(rung)
    gradients = {name: torch.zeros_like(inputs["param." + name]) for name in rung.trained}
    for bad in (0.0, float("inf")):
        gradients[rung.trained[0]][...] = bad
        new, metrics = rung.update(gradients, {}, inputs)
        assert float(metrics["applied"]) == (bad == 0)
        for name in rung.program.teacher_names:
            assert torch.equal(new["late." + name], inputs["ema." + name])


@pytest.mark.parametrize("delay", [0, 1])
@pytest.mark.parametrize("method", METHODS)
def test_gradients_in_half_precision_are_finite(method, delay):
    """At a scale of the loss to which a run comes down; the teacher's features are float32."""
    rung = rung_of(method, delay, precision="fp16")
    inputs = {**inputs_of(rung), "buffer.loss_scale": torch.tensor(256.0)}
    gradients, outputs = rung.gradient(inputs)
    assert outputs.metrics["loss"].isfinite()
    assert gradients.keys() == set(rung.trained)
    for name, value in gradients.items():
        assert value.isfinite().all(), name
        assert name.endswith("bias") or value.any(), name


def test_a_rung_that_trains_a_part_moves_all_of_the_late_teacher():
    rung = rung_of("byol", 1, trained=["all", "last-1"])
    assert rung.settings.trained == "last-1"
    inputs = inputs_of(rung)
    gradients = {name: torch.zeros_like(inputs["param." + name]) for name in rung.trained}
    new, _ = rung.update(gradients, {}, inputs)
    late = {name for name in new if name.startswith("late.")}
    assert late == {"late." + name for name in rung.program.teacher_names}


@pytest.mark.parametrize("policy", ["evit", "tome", "random", "none"])
def test_the_teacher_sees_all_tokens(policy):
    """Inside the step, `evit` and `tome` shorten it, too."""
    ratio = 1.0 if policy == "none" else 0.5
    changes = {"tokens": {"name": policy}, "keep_ratios": [ratio]}
    rung, plain = rung_of("byol", 0, **changes), rung_of("byol", 0)
    output, expected = (inputs_of(each)["teacher.global"] for each in (rung, plain))
    torch.testing.assert_close(output, expected)


# SimPrune


SIMPRUNE = {"tokens": {"name": "simprune"}}


@pytest.mark.parametrize("placement", ["before-mlp", "before-block", "after-block"])
def test_simprune_prunes_by_the_teachers_tokens_at_the_same_place(placement):
    """Before anything is pruned, both variants see the same tokens and choose alike."""
    depth = {"model": {**table_of("byol", 0)["model"], "depth": 5}}
    changes = {"tokens": {"name": "simprune", "placement": placement}, **depth}
    before, inside = (rung_of("mocov3", delay, **changes) for delay in (0, None))
    selected = before.gradient(inputs_of(before))[1].selected
    expected = inside.gradient(inputs_of(inside))[1].selected
    first, *others = (name for name in expected if "online" in name)
    assert torch.equal(selected[first], expected[first])
    assert selected.keys() == {first, *others}  # and nothing of the teacher's
    tokens = before.student_tokens(inputs_of(before))
    assert tokens == inside.student_tokens(inputs_of(inside))


def test_simprune_selects_by_the_best_cosine():
    generator = torch.Generator().manual_seed(3)
    online = torch.randn(2, 6, 5, generator=generator)
    target = torch.randn(2, 9, 5, generator=generator)  # more: the teacher loses none
    for progress, window in ((0.0, slice(0, 4)), (1.0, slice(2, 6))):
        kept = select_alone(online, target, 2, torch.tensor(progress))
        for row in range(2):
            cosines = torch.nn.functional.cosine_similarity(
                online[row][:, None], target[row][None], dim=2
            )
            order = cosines.amax(dim=1).argsort().tolist()
            assert kept[row].tolist() == sorted(set(range(6)) - set(order[window]))


def test_simprune_also_combines_and_takes_other_patch_sizes():
    changes = {"tokens": {"name": "evit+simprune"}, "patch_sizes": [4, 8]}
    changes["model"] = {**table_of("byol", 0)["model"], "depth": 4}
    rung = rung_of("mocov3", 0, **changes)
    assert rung.settings.patch_size_px == 8
    assert rung.gradient(inputs_of(rung))[1].metrics["loss"].isfinite()


# Packages and engines


@pytest.fixture(scope="module")
def packages(tmp_path_factory):
    """BYOL with the teacher in the step, and before it with both delays."""
    folder = tmp_path_factory.mktemp("teacher")
    return {
        delay: export_package(
            make_recipe(table_of("byol", delay, micro_batches=[2]), where="test"),
            folder / f"delay-{delay}",
            init=None,
            report=lambda *_: None,
            verify_all=delay == 1,
        )
        for delay in (None, 0, 1)
    }


def trained(package, engine="ort", rung="k050", steps=STEPS):
    """Losses, and the state after each step."""
    losses, states = [], []
    with create_engine(engine, threads=1) as opened:
        opened.open(package, package.initial_state())
        for step in range(1, steps + 1):
            batch = noise_batch(package, "k050", step)
            result = opened.step(rung, batch, hyper_of(package, step))
            losses.append(result.metrics["loss"])
            states.append(opened.snapshot())
    return losses, states


@pytest.mark.parametrize("engine", ["ort", "ort-training"])
def test_without_delay_engines_train_the_same(packages, engine):
    if packages[0].manifest.ort_training.refused is not None and engine != "ort":
        pytest.skip(packages[0].manifest.ort_training.refused)
    losses, states = trained(packages[0], engine)
    expected, expected_states = trained(packages[None], engine)
    assert losses == pytest.approx(expected, rel=1e-5)
    for name, value in expected_states[-1].items():
        if name.startswith(("ema.", "exp_avg.")):
            error = np.linalg.norm(states[-1][name] - value)
            assert error <= 1e-4 * np.linalg.norm(value) + 1e-7, name


@pytest.mark.parametrize(
    ("engine", "rung"), [("ort", "k050"), ("ort", "k050-m2"), ("ort-training", "k050")]
)
def test_with_a_delay_a_step_learns_from_the_teacher_before_the_last(packages, engine, rung):
    """So the first two learn from the initial one."""
    delayed, inside = packages[1], packages[None]
    if delayed.manifest.ort_training.refused is not None and engine != "ort":
        pytest.skip(delayed.manifest.ort_training.refused)
    losses, states = trained(delayed, engine, rung)
    teachers = [delayed.initial_state(), delayed.initial_state(), *states]
    state = delayed.initial_state()
    for step, (loss, after) in enumerate(zip(losses, states, strict=True), start=1):
        for name in (name for name in after if name.startswith("late.")):
            np.testing.assert_array_equal(after[name], state["ema." + name[5:]])
        learnt = {
            n: teachers[step - 1][n] if n.startswith("ema.") else state[n]
            for n in inside.expected_state()
        }
        with create_engine("ort", threads=1) as opened:
            opened.open(inside, learnt)
            batch = noise_batch(delayed, "k050", step)
            expected = opened.step("k050", batch, hyper_of(inside, step)).metrics["loss"]
        assert loss == pytest.approx(expected, rel=1e-5)
        state = after


def test_gradients_do_not_depend_on_those_before(packages):
    """A step replaces the late teacher; a gradient leaves it as it was."""
    package, (_, states) = packages[1], trained(packages[1])
    batch, hyper = noise_batch(package, "k050", 1), hyper_of(package, 5)
    with create_gradient_engine(threads=1) as engine:
        engine.open(package, states[-1])
        first, second = (
            {k: v.copy() for k, v in engine.gradient("k050", batch, hyper).items()}
            for _ in range(2)
        )
        after = engine.snapshot()
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value)
    for name in (name for name in after if name.startswith("late.")):
        np.testing.assert_array_equal(after[name], states[-1][name])


def test_costs_have_the_teachers_part(packages):
    """Two views of four pictures, two at a time; late weights, a copy of them, a batch."""
    manifest, inside = packages[1].manifest, packages[None].manifest
    spec, rung = manifest.graphs[TEACHER], packages[1].rung("k100")
    assert [each.shape[0] for each in spec.inputs if each.role == "images"] == [2]
    step = manifest.graphs[rung.graphs["step"]]
    assert rung.flops == step.flops + 4 * spec.flops
    assert rung.flops == pytest.approx(packages[None].rung("k100").flops, rel=0.01)
    late = sum(each.size_bytes for each in manifest.state if each.name.startswith("late."))
    teacher = sum(each.size_bytes for each in manifest.state if each.name.startswith("ema."))
    assert late == teacher == manifest.state_bytes - inside.state_bytes
    assert 0 < manifest.forward_weight_bytes <= late
    without = predicted_peak_bytes(replace(manifest, teacher_first=None), rung, 0)
    more = predicted_peak_bytes(manifest, rung, 0) - without
    images, features = 2 * 4 * 16 * 16 * 3, 2 * 4 * 32 * 4
    last_run = 2 * 32 * 4
    held = manifest.forward_weight_bytes + NODE_BYTES * spec.nodes + last_run
    assert more == held + images + 2 * features  # of this step and of the next one
    at_once = replace(manifest, teacher_first=replace(manifest.teacher_first, delay=0))
    assert predicted_peak_bytes(at_once, rung, 0) == without + held + features


def test_costs_have_the_tokens_that_simprune_takes(tmp_path):
    """At three places all tokens of an image, with the class token: 17 beside the features."""
    model = {**table_of("byol", 1)["model"], "depth": 5}
    recipe = make_recipe(table_of("byol", 1, model=model, **SIMPRUNE), where="test")
    quiet = {"init": None, "report": lambda *_: None}
    manifest = export_package(recipe, tmp_path / "package", **quiet).manifest
    spec, rung = manifest.graphs[TEACHER], manifest.rungs[0]
    row_bytes = 32 * (1 + 3 * 17) * 4
    assert spec.features.row_bytes == row_bytes
    late, none = predicted_peak_bytes(manifest, rung, 0), replace(manifest, teacher_first=None)
    more = late - predicted_peak_bytes(none, rung, 0)
    rest = manifest.forward_weight_bytes + NODE_BYTES * spec.nodes + manifest.batch_bytes
    rows = 2 * 2 * 4 + 4  # two batches of two views, and a run of the graph
    assert more == rest + rows * row_bytes


def test_inspect_shows_it(packages, capsys):
    assert main(["inspect", str(packages[1].path)]) == 0
    assert "runs before the step, 1 step late" in capsys.readouterr().out
    assert main(["inspect", str(packages[None].path)]) == 0
    assert "before the step" not in capsys.readouterr().out


def test_the_recipe_is_in_the_manifest_and_gives_the_same_again(packages):
    assert "teacher_delay" not in packages[None].manifest.recipe["method"]
    table = packages[1].manifest.recipe
    assert table["method"]["teacher_delay"] == 1
    given = {key: table[key] for key in ("model", "method", "tokens", "batch_size")}
    assert make_recipe(given, where="test").method.teacher_delay == 1


# Damaged packages and recipes that cannot work


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (("groups", ["local"]), "teacher_first: unknown view group 'local'"),
        (("groups", ["global"] * 2), "group of teacher_first 'global' appears 2 times"),
        (("graph", "x"), "graph 'x' is not described in graphs"),
        (
            ("graph", "graphs/embed.onnx"),
            "graphs/embed.onnx: images (None, 16, 16, 3) do not give features (None, 32) of a "
            "batch",
        ),
        (("delay", 2), "teacher_first.delay: expected an integer in [0, 1], got 2"),
    ],
)
def test_an_inconsistent_manifest_is_refused(packages, tmp_path, change, wanted):
    shutil.copytree(packages[1].path, tmp_path / "package")
    edit(tmp_path / "package", set_in("teacher_first", *change))
    assert wanted in problems(tmp_path / "package")


def test_a_late_teacher_that_is_not_in_the_state_is_refused(packages, tmp_path):
    shutil.copytree(packages[0].path, tmp_path / "package")
    edit(tmp_path / "package", set_in("teacher_first", "delay", 1))
    found = problems(tmp_path / "package")
    assert (
        f"{TEACHER}: the state has no 'late.encoder.cls_token' of float32 (1, 1, 32)" in found
    )


@pytest.mark.parametrize(
    ("path", "name", "who"),
    [
        ("k050/step.onnx", "late.encoder.cls_token", "rung 'k050': its steps do"),
        ("k050/step.onnx", "late.projector.0.weight", "rung 'k050': its steps do"),
        ("update.onnx", "late.projector.0.weight", "graphs/update.onnx: it does"),
        ("update.onnx", "ema.projector.0.weight", "graphs/update.onnx: it does"),
    ],
)
def test_what_does_not_renew_all_of_a_teacher_is_refused(packages, tmp_path, path, name, who):
    def change(table):
        outputs = table["graphs"][f"graphs/{path}"]["outputs"]
        outputs[:] = [output for output in outputs if output["name"] != f"next.{name}"]

    shutil.copytree(packages[1].path, tmp_path / "package")
    edit(tmp_path / "package", change)
    assert f"{who} not renew {name!r}" in problems(tmp_path / "package")


@pytest.mark.parametrize(
    ("method", "message"),
    [
        ({"name": "simclr", "teacher_delay": 1}, "simclr has no EMA teacher .* use mocov3 or"),
        ({"name": "byol", "teacher_delay": 2}, r"method.teacher_delay: expected"),
        ({"name": "byol", "teacher_delay": "1"}, r"method.teacher_delay: expected"),
        ({"name": "tokens", "teacher_delay": 0}, "reads the teacher's tokens of .* 'global'"),
        ({"name": "sizes", "teacher_delay": 0}, "view group 'global' of 8 px; leave it out"),
    ],
)
def test_recipes_that_cannot_work_are_refused(monkeypatch, method, message):
    for name, changes in {"tokens": {"patch_tokens": True}, "sizes": {"size_px": 8}}.items():

        class Other(Paired):
            changed = changes

            def __init__(self, model, options):
                super().__init__(model, options)
                views = [replace(each, **self.changed) for each in self.declaration.views]
                self.declaration = replace(self.declaration, views=tuple(views))

        monkeypatch.setitem(OBJECTIVES, name, Other)
    with pytest.raises(ConfigError, match=message):
        make_recipe({**table_of("byol", None), "method": method}, where="test")


def test_a_parametrization_with_buffers_is_refused():
    with declaring_parts():
        table = table_of("byol", 0, parametrization={"name": "masked"})
        with pytest.raises(ConfigError, match="'masked' needs buffers of the step"):
            Program(make_recipe(table, where="test"))
