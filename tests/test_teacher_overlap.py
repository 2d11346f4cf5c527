"""A teacher that computes ahead on a thread: in order, its own weights, the same bytes."""

import threading
import time
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="packages are exported with PyTorch")

from early_teacher import table_of  # noqa: E402
from killed_runs import train_and_kill  # noqa: E402

from edge_export.package.build import export_package  # noqa: E402
from edge_export.recipe import make_recipe  # noqa: E402
from edge_runtime.cli.main import main  # noqa: E402
from edge_runtime.data import Lookahead  # noqa: E402
from edge_runtime.engines import ForwardOptions, create_engine, forward  # noqa: E402
from edge_runtime.engines.devices import device_runtime  # noqa: E402
from edge_runtime.engines.encoders.targets import Targets  # noqa: E402
from edge_runtime.engines.encoders.teacher import Teacher  # noqa: E402
from edge_runtime.engines.ort_forward import OrtForwardEngine  # noqa: E402
from edge_runtime.errors import (  # noqa: E402
    DataError,
    EncoderError,
    EncoderMemoryError,
    EngineError,
    NoMemoryError,
    StoppedError,
)
from edge_runtime.profiling.worker import Noise  # noqa: E402
from edge_runtime.training import TrainingOptions, train  # noqa: E402
from edge_runtime.training.loop import Loop  # noqa: E402

STEPS = 10
RUNS = 2  # of the teacher's graph per step: two views of four pictures, four at a time
MAIN, AHEAD = "MainThread", "edge-train-teacher_0"


# The thread alone


class Slow:
    """A forward engine: its weight plus the value of an image. It notes what is done wrong."""

    name, runtime, device = "slow", "numpy", "cpu"

    def __init__(self, options):
        self.options, self.wait_s, self.fails_at = options, 0.02, 0
        self.running, self.faults, self.runs = 0, [], []

    def open(self, package, graph, weights):
        self.set_weights(weights)

    def set_weights(self, weights):
        self.check("weights are replaced")
        self.weights = {name: value.copy() for name, value in weights.items()}

    def check(self, what):
        if self.running:
            self.faults.append(f"{what} during a run")

    def run(self, images):
        self.check("another one begins")
        self.running += 1
        time.sleep(self.wait_s)  # the state has changed when the weight is read
        self.running -= 1
        value = int(images[0, 0, 0, 0])
        self.runs.append((value, threading.current_thread().name))
        if value == self.fails_at:
            raise EngineError("the fake has failed")
        return np.full((len(images), 1), self.weights["w"] + value, np.float32)

    def close(self):
        self.check("it is closed")


class Alone:
    """A teacher of one weight. The state changes in place, as no engine here does it."""

    def __init__(self, monkeypatch, delay):
        self.state = {"ema.w": np.zeros(()), "late.w": np.zeros(())}
        made = []
        create = lambda options: made.append(Slow(options)) or made[-1]  # noqa: E731
        monkeypatch.setitem(forward.FORWARD_ENGINES, "slow", create)
        prefix = "late." if delay else "ema."
        images = SimpleNamespace(role="images", shape=(2, 1, 1, 3))
        features = SimpleNamespace(shape=(2, 1))
        manifest = SimpleNamespace(
            teacher_first=SimpleNamespace(
                graph="graph", delay=delay, groups=("global",), prefix=prefix
            ),
            teacher_weights=[SimpleNamespace(name="w")],
            graphs={"graph": SimpleNamespace(inputs=[images], features=features)},
        )
        package, options = SimpleNamespace(manifest=manifest), ForwardOptions(device="webgpu")
        self.teacher = Teacher(package, "slow", options, self.read)
        (self.engine,) = made

    def read(self, names):
        return {name: self.state[name] for name in names}

    def features(self, batch, following=None):
        (value,) = np.unique(self.teacher.added_to(batch, following)["teacher.global"])
        return float(value)

    def step(self, batch, following=None):
        """Features of a step; after n steps the teacher is 100 n."""
        value = self.features(batch, following)
        self.state["late.w"][...] = self.state["ema.w"]
        self.state["ema.w"] += 100
        return value


def batches_of(*numbers):
    return [{"images.global": np.full((2, 2, 1, 1, 3), n, np.uint8)} for n in numbers]


@pytest.fixture
def delayed(monkeypatch):
    made = Alone(monkeypatch, 1)
    yield made
    made.teacher.close()
    assert made.engine.faults == []


def test_features_are_those_of_the_weights_two_steps_ago(delayed):
    batches = batches_of(1, 2, 3, 4, 5)
    pairs = zip(batches, [*batches[1:], None], strict=True)
    assert [delayed.step(*pair) for pair in pairs] == [1, 2, 103, 204, 305]
    ahead = [(n, AHEAD) for n in (2, 3, 4, 5) for _ in range(2)]  # two images at a time
    assert delayed.engine.runs == [(1, MAIN), (1, MAIN), *ahead]


def test_without_the_next_images_the_features_are_the_same(delayed):
    batches = batches_of(1, 2, 3, 4, 5)
    assert [delayed.step(batch) for batch in batches] == [1, 2, 103, 204, 305]
    assert {thread for _, thread in delayed.engine.runs} == {MAIN}


def test_without_delay_the_weights_are_those_of_the_step_before(monkeypatch):
    made, batches = Alone(monkeypatch, 0), batches_of(1, 2, 3)
    assert [made.step(batch, batches[0]) for batch in batches] == [1, 102, 203]
    assert {thread for _, thread in made.engine.runs} == {MAIN}


def test_other_images_than_were_announced_are_computed_in_the_step(delayed):
    first, second, third, same = batches_of(1, 2, 3, 3)
    delayed.step(first, second)
    delayed.step(second, third)
    assert delayed.step(same) == 103  # equal, but who knows
    assert delayed.engine.runs[-1] == (3, MAIN)


def test_a_step_that_is_repeated_has_the_same_features(delayed):
    """Without memory, the state has not changed; the next batch is computed again, too."""
    first, second, third = batches_of(1, 2, 3)
    delayed.step(first, second)
    assert [delayed.features(second, third) for _ in range(3)] == [2, 2, 2]
    delayed.step(second, third)
    assert delayed.step(third) == 103
    assert delayed.engine.runs[-1] == (3, AHEAD)


def test_an_error_of_the_thread_is_raised_by_the_step_that_needs_the_features(delayed):
    first, second = batches_of(1, 2)
    delayed.engine.fails_at = 2
    assert delayed.step(first, second) == 1
    with pytest.raises(EngineError, match="the fake has failed"):
        delayed.step(second)
    delayed.engine.fails_at = 0
    assert delayed.step(second) == 2


@pytest.mark.parametrize(
    ("error", "kind"),
    [(EngineError("lost"), EncoderError), (NoMemoryError("full"), EncoderMemoryError)],
)
@pytest.mark.parametrize("method", ["run", "set_weights"])
def test_errors_of_the_encoder_name_its_device(delayed, monkeypatch, error, kind, method):
    def fail(*_):
        raise error

    monkeypatch.setattr(delayed.engine, method, fail)
    with pytest.raises(kind, match=str(error)) as raised:
        delayed.features(*batches_of(1))
    assert raised.value.device == "cpu"


def test_a_state_that_cannot_be_read_is_no_error_of_the_encoder(delayed):
    """The state is on the device of the step, which may be a GPU that is lost."""
    error = EngineError("device lost")

    def lost(names):
        raise error

    delayed.teacher._read = lost
    with pytest.raises(EngineError) as raised:
        delayed.features(*batches_of(1))
    assert raised.value is error


def test_closing_waits_for_the_run(delayed):
    delayed.engine.wait_s = 0.2
    delayed.step(*batches_of(1, 2))
    delayed.teacher.close()
    assert not delayed.engine.running


def test_ort_takes_the_processor_beside_a_step_on_a_gpu(delayed, monkeypatch):
    assert forward.create_forward_engine("ort", delayed.engine.options).device == "cpu"
    assert delayed.teacher.shares_processor
    at_once = Alone(monkeypatch, 0)
    assert not at_once.engine.options.ort_on_cpu
    assert not at_once.teacher.shares_processor


def test_batches_come_in_order_and_an_error_in_its_place():
    def made():
        yield from "ab"
        raise DataError("the camera is gone")

    batches = Lookahead(made())
    assert [batches.following(), batches.following(), next(batches)] == ["a", "a", "a"]
    assert next(batches) == "b"
    assert batches.following() is None  # "b" is trained first
    with pytest.raises(DataError, match="the camera is gone"):
        next(batches)
    assert batches.following() is None
    with pytest.raises(StopIteration):
        next(batches)


# In runs


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """BYOL with a delay of one step."""
    recipe = make_recipe(table_of("byol", 1), where="test")
    folder = tmp_path_factory.mktemp("overlap") / "package"
    return export_package(recipe, folder, init=None, report=lambda *_: None)


class Calls:
    """Threads and pictures of the teacher's runs, whose forward engine may fail or be slow."""

    def __init__(self, monkeypatch, error=None, fails_at=0):
        self.threads, run = [], OrtForwardEngine.run
        self.fails_on = False  # from then on, and not only once

        def recorded(engine, images):
            self.threads.append(threading.current_thread().name)
            count = len(self.threads)
            if count == fails_at or (self.fails_on and count > fails_at):
                raise error
            time.sleep(0.005)
            return run(engine, images)

        monkeypatch.setattr(OrtForwardEngine, "run", recorded)


def run_of(package, folder, engine="ort", **changes):
    """Losses of a run of ten steps that changes its rung, and its last state."""
    options = TrainingOptions(
        engine=create_engine(engine, threads=1),
        rungs=((1, "k100"), (4, "k050")),
        threads=1,
        checkpoint_every_s=1e9,
        **changes,
    )
    pictures = Noise(STEPS * package.manifest.batch_size // 2, 16)
    losses = [
        event.loss
        for event in train(package, pictures, folder, options)
        if hasattr(event, "lr")
    ]
    return losses, folder / f"checkpoints/{STEPS}/state.safetensors"


def sequential(monkeypatch):
    monkeypatch.setattr(Loop, "_following", lambda *_: None)


@pytest.mark.parametrize("engine", ["ort", "ort-training"])
def test_the_bytes_are_those_of_a_sequential_run(package, tmp_path, monkeypatch, engine):
    if engine != "ort" and package.manifest.ort_training.refused is not None:
        pytest.skip(package.manifest.ort_training.refused)
    calls = Calls(monkeypatch)
    losses, file = run_of(package, tmp_path / "overlapped", engine, epochs=2)
    assert calls.threads == [MAIN] * RUNS + [AHEAD] * RUNS * (STEPS - 1)  # each batch once
    calls.threads.clear()
    sequential(monkeypatch)
    expected, other = run_of(package, tmp_path / "sequential", engine, epochs=2)
    assert calls.threads == [MAIN] * RUNS * STEPS
    assert losses == expected
    assert len(losses) == STEPS
    assert file.read_bytes() == other.read_bytes()


def test_a_stopped_run_goes_on_with_the_same_bytes(package, tmp_path, monkeypatch):
    _, whole = run_of(package, tmp_path / "whole", epochs=2)
    calls = Calls(monkeypatch)
    parts = tmp_path / "parts"
    for after in (2, 7, None):
        begun = len(calls.threads)
        is_over = lambda begun=begun, n=after: n is not None and len(calls.threads) > begun + n  # noqa: E731
        try:
            _, file = run_of(package, parts, epochs=2, resume=True, stop=is_over)
        except StoppedError:
            assert after is not None
        assert calls.threads[begun] == MAIN  # from the late weights of the checkpoint
    assert file.read_bytes() == whole.read_bytes()


def test_a_killed_run_goes_on_with_the_same_bytes(tmp_path):
    """Rungs and pictures of `resume_worker`."""
    recipe = make_recipe(table_of("byol", 1, batch_size=8), where="test")
    export_package(recipe, tmp_path / "package", init=None, report=lambda *_: None)
    assert train_and_kill("real_jobs:ort_job", tmp_path, [4])


def test_an_error_in_the_thread_ends_the_run_with_the_state_before(
    package, tmp_path, monkeypatch
):
    _, whole = run_of(package, tmp_path / "whole", epochs=2)
    calls = Calls(monkeypatch, EngineError("the teacher's GPU is gone"), fails_at=4 * RUNS)
    with pytest.raises(EngineError, match=r"the teacher's GPU is gone") as raised:
        run_of(package, tmp_path / "run", epochs=2)
    assert raised.value.exit_code == 5
    assert calls.threads[-1] == AHEAD
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["3"]
    _, file = run_of(package, tmp_path / "run", epochs=2, resume=True)
    assert file.read_bytes() == whole.read_bytes()


def test_a_teacher_without_memory_is_computed_in_the_step_from_then_on(
    package, tmp_path, monkeypatch
):
    """No rung is blamed for it, and the bytes are the same."""
    losses, whole = run_of(package, tmp_path / "whole", epochs=2)
    calls = Calls(monkeypatch, NoMemoryError("no memory for the teacher"), fails_at=3 * RUNS)
    again, file = run_of(package, tmp_path / "run", epochs=2)
    assert calls.threads[RUNS : 3 * RUNS] == [AHEAD] * 2 * RUNS
    assert set(calls.threads[3 * RUNS :]) == {MAIN}
    assert again == losses
    assert file.read_bytes() == whole.read_bytes()


def test_a_teacher_that_never_has_memory_ends_the_run_as_a_step_does(
    package, tmp_path, monkeypatch
):
    calls = Calls(monkeypatch, NoMemoryError("no memory for the teacher"), fails_at=3 * RUNS)
    calls.fails_on = True
    with pytest.raises(NoMemoryError, match="no memory for the teacher"):
        run_of(package, tmp_path / "run", epochs=2)
    assert calls.threads[3 * RUNS - 1 :] == [AHEAD, MAIN]  # tried once more
    assert [path.name for path in (tmp_path / "run/checkpoints").iterdir()] == ["2"]


def test_the_command_ends_with_the_engines_exit_code(package, tmp_path, monkeypatch, capsys):
    Calls(monkeypatch, EngineError("the teacher's GPU is gone"), fails_at=3)
    words = ["run", str(package.path), "digits", "-o", str(tmp_path / "run"), "--epochs", "1"]
    assert main([*words, "--images", "40", "--rung", "k050", "--threads", "1"]) == 5
    assert "the teacher's GPU is gone" in capsys.readouterr().err


@pytest.mark.parametrize("engine", ["ort", "ort-training"])
def test_the_engine_of_the_targets_is_recorded_beside_the_teachers(
    package, monkeypatch, engine
):
    """On a GPU they differ: the delayed teacher has the processor."""
    if engine != "ort" and package.manifest.ort_training.refused is not None:
        pytest.skip(package.manifest.ort_training.refused)
    teacher = f"ort, {device_runtime('cpu')} on cpu"
    for of_targets, both in (
        ("ort, onnxruntime 9 on cuda:0", f"ort, onnxruntime 9 on cuda:0; {teacher}"),
        (teacher, teacher),
        (None, teacher),
    ):
        monkeypatch.setattr(Targets, "engine_text", lambda _, text=of_targets: text)
        with create_engine(engine, threads=1) as opened:
            opened.open(package, package.initial_state())
            assert opened.forward_engine == both


def test_threads_do_not_spin_beside_the_teacher(package):
    with create_engine("ort", threads=1) as engine:
        engine.open(package, package.initial_state())
        assert engine.forward_engine.startswith("ort, ")
        assert not engine._may_spin()
