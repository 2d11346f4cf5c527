"""One contract for all training engines, PyTorch's reference included."""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from handed_over import DEVICE, handed_over
from steps import hyper_of, noise_batch

from edge_runtime.engines import (
    ENGINES,
    Engine,
    StepResult,
    create_engine,
    engine_name,
    engine_runtime,
)
from edge_runtime.engines.runtime import thread_count
from edge_runtime.errors import ConfigError, EngineError, StorageError
from edge_runtime.package import Package, open_package
from edge_runtime.package.names import APPLIED, EMA, EXP_AVG, FP16, LOSS_SCALE
from edge_runtime.state import State

NAMES = (*ENGINES, "torch")
GPU = DEVICE != "cpu"


def make_engine(name: str) -> Engine:
    """An engine, or a skip with the missing module."""
    if name == "torch":
        pytest.importorskip("torch", reason="the reference is PyTorch")
        from reference_engine import TorchEngine

        return TorchEngine()
    try:
        return create_engine(name, device=DEVICE, threads=2)
    except (ConfigError, EngineError) as error:
        pytest.skip(str(error))


PACKAGES = ["simclr-random", "mocov3-simprune", "paired-random"]
# Half precision, where the device that is tested may have it
PACKAGES += [path.name for path in handed_over() if "paired-random-fp16" in path.name and GPU]


@pytest.fixture(scope="module", params=PACKAGES)
def package(request: pytest.FixtureRequest) -> Iterator[Package]:
    """Exported here, or by another environment."""
    if given := {path.name: path for path in handed_over()}:
        yield open_package(given[request.param])
        return
    pytest.importorskip("torch", reason="exports a package")
    from paired_objective import paired_method

    method, policy = request.param.split("-")
    make: Callable[[str, str], Package] = request.getfixturevalue("small_package")
    with paired_method():
        yield make(method, policy)


@pytest.fixture(params=NAMES)
def engine(request: pytest.FixtureRequest, package: Package) -> Iterator[Engine]:
    """Open, at the initial state."""
    with make_engine(request.param) as made:
        if (reason := unsupported_reason(made, package)) is not None:
            pytest.skip(f"{request.param}: {reason}")
        made.open(package, package.initial_state())
        yield made


def unsupported_reason(engine: Engine, package: Package) -> str | None:
    """Why an engine does not train some rung of a package."""
    reasons = [engine.unsupported_reason(package, rung) for rung in package.manifest.rungs]
    return next((reason for reason in reasons if reason is not None), None)


def train(engine: Engine, package: Package, steps: range, rungs: str = "ab") -> list[float]:
    """Steps that alternate between the largest (a) and the smallest (b) rung."""
    ids = {"a": package.manifest.rungs[0].id, "b": package.manifest.rungs[-1].id}
    losses = []
    for step in steps:
        rung = ids[rungs[step % len(rungs)]]
        result = engine.step(rung, noise_batch(package, rung, step), hyper_of(package, step))
        losses.append(result.metrics["loss"])
    return losses


def assert_equal(actual: State, wanted: State) -> None:
    assert actual.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(actual[name], value, err_msg=name)


def test_a_step_updates_the_state_and_returns_its_loss(
    engine: Engine, package: Package
) -> None:
    before = engine.snapshot()
    rung = package.manifest.rungs[-1].id
    result = engine.step(rung, noise_batch(package, rung, 1), hyper_of(package, 1))
    assert isinstance(result, StepResult)
    assert result.applied is True
    others = {APPLIED, LOSS_SCALE} if package.manifest.precision == FP16 else set()
    assert result.metrics.keys() == {"loss", *others}  # metrics of these objectives
    assert isinstance(result.metrics["loss"], float)
    assert np.isfinite(result.metrics["loss"])
    after = engine.snapshot()
    assert_equal(before, package.initial_state())  # a snapshot never changes
    moved = {name for name in before if (before[name] != after[name]).any()}
    has_teacher = any(name.startswith(EMA) for name in before)
    assert any(name.startswith(EMA) for name in moved) == has_teacher
    assert any(name.startswith(EXP_AVG) for name in moved)


def test_the_opened_state_is_copied(engine: Engine, package: Package) -> None:
    mine = {name: value.copy() for name, value in package.initial_state().items()}
    with make_engine(engine.name) as other:
        other.open(package, mine)
        for value in mine.values():
            value[...] = np.nan
        assert np.isfinite(train(other, package, range(1, 3))).all()


def test_the_same_steps_give_the_same_bits(engine: Engine, package: Package) -> None:
    with make_engine(engine.name) as other:
        other.open(package, package.initial_state())
        assert train(engine, package, range(1, 5)) == train(other, package, range(1, 5))
        assert_equal(engine.snapshot(), other.snapshot())


def test_the_view_of_the_state_is_the_present_state(engine: Engine, package: Package) -> None:
    for step in (1, 2):
        train(engine, package, range(step, step + 1))
        assert_equal(engine.state_view(), engine.snapshot())


def test_a_run_continues_from_a_snapshot_bit_for_bit(engine: Engine, package: Package) -> None:
    train(engine, package, range(1, 4))
    middle = engine.snapshot()
    wanted = train(engine, package, range(4, 7))
    with make_engine(engine.name) as other:
        other.open(package, middle)
        assert train(other, package, range(4, 7)) == wanted
        assert_equal(other.snapshot(), engine.snapshot())


def test_a_snapshot_is_a_state_of_the_package(engine: Engine, package: Package) -> None:
    """As a checkpoint has to be, to be read again; scalars are scalars."""
    train(engine, package, range(1, 3))
    wanted = {name: (v.dtype, v.shape) for name, v in package.initial_state().items()}
    for state in (engine.snapshot(), engine.state_view()):
        assert {name: (v.dtype, v.shape) for name, v in state.items()} == wanted


def test_moments_survive_a_switch_of_the_rung(engine: Engine, package: Package) -> None:
    """Alternating rungs on one engine equals a new engine for every step."""
    train(engine, package, range(1, 6))
    state = package.initial_state()
    for step in range(1, 6):
        with make_engine(engine.name) as single:
            single.open(package, state)
            train(single, package, range(step, step + 1))
            state = single.snapshot()
    assert_equal(engine.snapshot(), state)


def test_a_failed_step_leaves_the_state(engine: Engine, package: Package) -> None:
    if engine.name == "torch":
        pytest.skip("the reference makes no such promise")
    train(engine, package, range(1, 3))
    before = engine.snapshot()
    for rung in (package.manifest.rungs[0].id, package.manifest.rungs[-1].id):
        batch = dict(noise_batch(package, rung, 3))
        batch["images.global"] = batch["images.global"][:, :-1]
        with pytest.raises(EngineError, match="cannot run a step of rung"):
            engine.step(rung, batch, hyper_of(package, 3))
    assert_equal(engine.snapshot(), before)
    if draws := package.manifest.rungs[-1].draws:
        batch = dict(noise_batch(package, rung, 3))
        batch[draws[0].input] = batch[draws[0].input] + 1000  # no such token
        if engine.device == "cpu":  # GPUs do not check indices
            with pytest.raises(EngineError, match=f"cannot run a step of rung {rung}"):
                engine.step(rung, batch, hyper_of(package, 3))
    assert_equal(engine.snapshot(), before)
    train(engine, package, range(3, 4))  # and it continues


@pytest.fixture
def ort_training_engine(package: Package) -> Iterator[Engine]:
    """Engine ort-training after two steps."""
    with make_engine("ort-training") as made:
        if (reason := unsupported_reason(made, package)) is not None:
            pytest.skip(f"ort-training: {reason}")
        made.open(package, package.initial_state())
        train(made, package, range(1, 3))
        yield made


def test_an_incomplete_step_is_never_used_as_a_state(
    ort_training_engine: Engine, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    import edge_runtime.engines.ort_training as module

    def fail(*_: object) -> None:
        raise EngineError("the optimizer is out of memory")

    with monkeypatch.context() as patch:
        patch.setattr(module._ApiRung, "apply_update", fail)
        with pytest.raises(EngineError, match="out of memory"):
            train(ort_training_engine, package, range(3, 4))
    uses: list[Callable[[], Any]] = [
        ort_training_engine.snapshot,
        ort_training_engine.state_view,
        lambda: train(ort_training_engine, package, range(3, 4)),
    ]
    for use in uses:
        with pytest.raises(EngineError, match=r"in the middle of a step\. .* --resume"):
            use()


def test_a_full_disk_for_scratch_files_is_reported(
    ort_training_engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "gone"))
    with pytest.raises(StorageError, match=r"cannot write .*gone: No such file"):
        ort_training_engine.snapshot()


def test_an_unknown_rung_is_refused(engine: Engine, package: Package) -> None:
    with pytest.raises(ConfigError, match="has no rung 'k033'"):
        engine.step("k033", {}, hyper_of(package, 1))


@pytest.mark.parametrize("name", NAMES)
def test_use_outside_open_and_close_is_refused(package: Package, name: str) -> None:
    engine = make_engine(name)
    uses: list[Callable[[], Any]] = [
        engine.snapshot,
        engine.state_view,
        lambda: train(engine, package, range(1, 2)),
        lambda: engine.run_periodic("graphs/periodic/mask.onnx", {}),
    ]
    for use in uses:
        with pytest.raises(EngineError, match="it is not opened yet"):
            use()
    engine.open(package, package.initial_state())
    with pytest.raises(EngineError, match="cannot open: it is already open"):
        engine.open(package, package.initial_state())
    engine.close()
    engine.close()
    for use in uses:
        with pytest.raises(EngineError, match="it is already closed"):
            use()


LOADED = """
import sys
from edge_runtime.engines import create_engine
create_engine(sys.argv[1])
print("torch" in sys.modules)
"""


@pytest.mark.parametrize("name", ENGINES)
def test_no_engine_loads_torch(name: str) -> None:
    make_engine(name)
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOADED, name],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert done.stdout.strip() == "False", done.stderr


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["onnx"] = None  # as where they are not installed
from edge_runtime.selftest import try_engine
print(try_engine("ort-training").engine)
"""


def test_the_ort_training_engine_needs_no_torch() -> None:
    make_engine("ort-training")
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent.parent,
    )
    assert done.stdout.split() == ["ort-training"], done.stderr


def test_an_unknown_engine_is_refused() -> None:
    with pytest.raises(ConfigError, match="unknown engine 'cuda'; known are auto, ort"):
        create_engine("cuda")


def test_the_table_has_the_engines_and_auto_is_its_first() -> None:
    assert list(ENGINES) == ["ort", "ort-training"]
    assert engine_name("auto") == "ort"
    for name in ENGINES:
        assert engine_name(name) == name
        made = make_engine(name)  # skips where it is not installed
        assert (made.name, made.runtime) == (name, engine_runtime(name))


@pytest.mark.parametrize("name", ENGINES)
def test_an_engine_reports_its_device(name: str) -> None:
    make_engine(name)
    assert create_engine(name, threads=3).threads == 3
    assert create_engine(name).threads == thread_count(None)
    assert create_engine(name).device == "cpu"
    assert create_engine(name).runtime.startswith("onnxruntime")
    with pytest.raises(ConfigError, match="unknown device 'tpu'; known are cpu, webgpu"):
        create_engine(name, device="tpu")


def test_a_runtime_without_cuda_says_what_it_needs(package: Package) -> None:
    engine = create_engine("ort", device="cuda:7")
    with pytest.raises(EngineError, match="device cuda:7 needs ONNX Runtime's GPU build"):
        engine.open(package, package.initial_state())


def test_a_gpu_that_gives_its_memory_no_more_is_an_error_of_the_engine(
    package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when its driver is lost: reading the state is the runtime's work there."""
    engine = make_engine("ort")
    with engine:
        engine.open(package, package.initial_state())

        def lose(*_: object) -> State:
            raise RuntimeError("device lost")

        for name, read in (("copy", engine.snapshot), ("view", engine.state_view)):
            monkeypatch.setattr(f"edge_runtime.engines.device_state.DeviceState.{name}", lose)
            with pytest.raises(EngineError, match=r"read the state from device .* lost"):
                read()


def test_the_ort_training_optimizer_refuses_other_constants(package: Package) -> None:
    with make_engine("ort-training") as engine:
        engine.open(package, package.initial_state())
        rung = package.manifest.rungs[0].id
        hyper = {**hyper_of(package, 1), "weight_decay": 0.5}
        message = r"cannot use weight_decay = 0\.5: .* fixed at 0\.1"
        with pytest.raises(EngineError, match=message):
            engine.step(rung, noise_batch(package, rung, 1), hyper)


def test_the_ort_training_engine_refuses_with_a_reason(package: Package) -> None:
    import dataclasses

    reason = "weight decay is scheduled"
    facts = dataclasses.replace(package.manifest.ort_training, refused=reason)
    manifest = dataclasses.replace(package.manifest, ort_training=facts)
    with (
        make_engine("ort-training") as engine,
        pytest.raises(EngineError, match=reason),
    ):
        engine.open(dataclasses.replace(package, manifest=manifest), package.initial_state())
