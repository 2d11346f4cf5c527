"""Buffers, periodic graphs and transformed weights on the device."""

import dataclasses

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="exports a package")

from declaring_parts import EVERY_STEPS, MASKED, declaring_parts, new_mask  # noqa: E402
from steps import hyper_of, noise_batch  # noqa: E402

from edge_export.package.build import export_package  # noqa: E402
from edge_export.package.graphs import accumulate_graph  # noqa: E402
from edge_export.parameters import Buffer  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_export.step.program import Program  # noqa: E402
from edge_runtime.engines import (  # noqa: E402
    ForwardOptions,
    create_engine,
    create_forward_engine,
    encoder_weights,
)
from edge_runtime.errors import ConfigError, EngineError  # noqa: E402
from edge_runtime.package.names import PARAM  # noqa: E402

WEIGHT, MASK, COUNT = f"{PARAM}{MASKED}", "buffer.mask", "buffer.count"
TABLE = {
    "model": {"image_size": 16, "patch_size": 4, "depth": 2, "width": 16, "heads": 1},
    "method": {"name": "centred"},
    "parametrization": {"name": "masked"},
    "batch_size": 4,
    "keep_ratios": [0.5],
    "trained": ["all", "last-1"],
}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    folder = tmp_path_factory.mktemp("declared") / "package"
    with declaring_parts():
        recipe = make_recipe(TABLE, where="test")
        return export_package(recipe, folder, init=None, report=lambda *_: None)


@pytest.fixture
def engine(package):
    with create_engine("ort", threads=1) as made:
        made.open(package, package.initial_state())
        yield made


def step(engine, package, number, rung=0):
    rung_id = package.manifest.rungs[rung].id
    batch = noise_batch(package, rung_id, number)
    return engine.step(rung_id, batch, hyper_of(package, number))


def run_periodic(engine, package, number):
    (periodic,) = package.manifest.periodic
    assert periodic.every_steps == EVERY_STEPS
    engine.run_periodic(periodic.graph, hyper_of(package, number))


def changed(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


def test_every_metric_is_given(engine, package):
    result = step(engine, package, 1)
    assert result.metrics.keys() == {"loss", "spread"}
    assert result.applied is True


def test_buffers_move_with_the_steps_and_a_mask_does_not(engine, package):
    for number in (1, 2, 3):
        before = engine.snapshot()
        step(engine, package, number)
        after = engine.snapshot()
        assert after[COUNT] == before[COUNT] + 1 == 7 + number
        assert after[COUNT].dtype == np.int32
        assert {"buffer.centre", COUNT} < changed(before, after)
        assert MASK not in changed(before, after)


def test_a_masked_weight_is_not_trained_and_the_others_are(engine, package):
    before = engine.snapshot()
    step(engine, package, 1)
    moment = engine.snapshot()[f"exp_avg.{MASKED}"]
    assert before[MASK].dtype == bool
    assert not moment[~before[MASK]].any()
    assert moment[before[MASK]].any()


def test_a_periodic_graph_changes_its_buffers_alone(engine, package):
    step(engine, package, 1)
    before = engine.snapshot()
    run_periodic(engine, package, 1)
    after = engine.snapshot()
    assert changed(before, after) == {MASK}
    expected = new_mask({WEIGHT: torch.from_numpy(after[WEIGHT])})["mask"].numpy()
    np.testing.assert_array_equal(after[MASK], expected)
    step(engine, package, 2)  # with the new mask
    np.testing.assert_array_equal(engine.snapshot()[MASK], expected)


def test_a_broken_periodic_graph_is_refused_before_the_first_step(package, tmp_path):
    (periodic,) = package.manifest.periodic
    broken = dataclasses.replace(package, path=tmp_path)
    broken.file(periodic.graph).parent.mkdir(parents=True)
    broken.file(periodic.graph).write_bytes(b"no graph")
    with (
        create_engine("ort", threads=1) as engine,
        pytest.raises(EngineError, match=f"cannot load .*{periodic.graph}"),
    ):
        engine.open(broken, package.initial_state())


def test_a_run_continues_from_a_snapshot_bit_for_bit(engine, package):
    def go_on(engine, numbers):
        for number in numbers:
            step(engine, package, number, rung=number % 2)
            if number % EVERY_STEPS == 0:
                run_periodic(engine, package, number)

    go_on(engine, range(1, 5))
    middle = engine.snapshot()
    go_on(engine, range(5, 11))
    with create_engine("ort", threads=1) as other:
        other.open(package, middle)
        go_on(other, range(5, 11))
        assert changed(engine.snapshot(), other.snapshot()) == set()


def test_the_encoder_is_evaluated_with_its_weights_masked(package):
    state = package.initial_state()
    weights = encoder_weights(package, state)
    expected = np.where(state[MASK], state[WEIGHT], 0)
    np.testing.assert_array_equal(weights[MASKED], expected)
    others = {name: state[PARAM + name] for name in weights if name != MASKED}
    assert all(np.array_equal(weights[name], others[name]) for name in others)
    images = np.random.default_rng(0).integers(0, 256, (3, 16, 16, 3), np.uint8)
    with create_forward_engine(options=ForwardOptions(threads=1)) as forward:
        forward.open(package, package.manifest.embed, weights)
        masked = forward.run(images)
    with create_forward_engine(options=ForwardOptions(threads=1)) as forward:
        forward.open(package, package.manifest.embed, {**weights, MASKED: state[WEIGHT]})
        assert np.abs(forward.run(images) - masked).max() > 1e-4


def test_the_ort_training_engine_refuses_other_state(package):
    try:
        engine = create_engine("ort-training")
    except EngineError as error:
        pytest.skip(str(error))
    message = (
        "cannot train .*: buffer 'centre': the official training API has no such state. Use"
    )
    with pytest.raises(EngineError, match=message):
        engine.open(package, package.initial_state())


def test_a_count_has_no_mean_over_micro_batches():
    with declaring_parts():
        program = Program(make_recipe({**TABLE, "micro_batches": [4]}, where="test"))
        parts = next(each for each in program.settings if each.micro_batch)
        message = "micro_batches: the loss changes 'buffer.count', whose int32 values have no"
        with pytest.raises(ConfigError, match=message):
            accumulate_graph(program.bind(parts), program.initial_state())


def test_a_buffer_of_int64_is_refused():
    """GPUs have no kernels for it, and graphs would count in int32 all the same."""
    with pytest.raises(ConfigError, match="buffer 'steps' is int64; graphs count in int32"):
        Buffer(name="steps", initial=torch.tensor(7))
