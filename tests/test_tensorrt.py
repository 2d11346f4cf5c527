"""Forward engine `tensorrt` on a TensorRT that computes with ONNX Runtime.

It also keeps the contract of forward engines.
"""

import os
import signal
import sys
import threading
import time
from dataclasses import replace

import pytest

pytest.importorskip("onnxruntime", reason="a new engine is compared with it")

from tensorrt_runs import assert_right, images_of, opened
from tiny_encoder import WIDTH, make_package, make_state

from edge_runtime.cli.signals import interrupt_on_signals
from edge_runtime.engines import encoder_weights
from edge_runtime.engines.tensorrt import IMAGES_PER_RUN, TensorRtForwardEngine
from edge_runtime.errors import EngineError, NoMemoryError, StoppedError


@pytest.fixture
def package(tmp_path):
    return make_package(tmp_path / "package")


@pytest.mark.usefixtures("tensorrt")
@pytest.mark.parametrize("count", [0, 1, IMAGES_PER_RUN, 2 * IMAGES_PER_RUN + 5])
def test_images_run_in_parts_of_one_size(package, count):
    with opened(package) as engine:
        assert engine.run(images_of(count)).shape == (count, WIDTH)
        assert_right(engine, package, count)


def test_an_engine_is_built_once(package, tensorrt):
    said = []
    with opened(package, said) as engine:
        assert_right(engine, package)
    assert tensorrt.builds == 1
    assert said[0].startswith("building a TensorRT 10.3.0 engine of ")
    assert "for Orin: once, and it may take minutes" in said[0]
    assert said[1].startswith("built the TensorRT engine of ")
    assert "% are allowed" in said[-1]
    again = []
    with opened(package, again) as engine:
        assert_right(engine, package)
    assert (tensorrt.builds, again) == (1, [])


def other_l4t(world, package, monkeypatch):
    monkeypatch.setattr("edge_runtime.engines.tensorrt.l4t_release", lambda: "36.4.3")


def other_gpu(**facts):
    def change(world, package, monkeypatch):
        world.gpu = replace(world.gpu, **facts)

    return change


def other_version(world, package, monkeypatch):
    world.version = world.module.__version__ = "10.16.1"


def other_graph(world, package, monkeypatch):
    path = package.file(package.manifest.embed)
    path.write_bytes(path.read_bytes() + b"\x12\x04mine")  # field 2, its producer


def other_number_of_images(world, package, monkeypatch):
    monkeypatch.setattr("edge_runtime.engines.tensorrt.IMAGES_PER_RUN", 16)


def other_format(world, package, monkeypatch):
    monkeypatch.setattr("edge_runtime.engines.tensorrt._FORMAT", "2")


def no_tf32(world, package, monkeypatch):
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")


def fewer_multiprocessors(world, package, monkeypatch):
    world.cuda.multiprocessors = 8


def less_memory(world, package, monkeypatch):
    world.cuda.memory_bytes = 7 << 30


def a_little_less_memory(world, package, monkeypatch):
    """As another start of the same machine may report."""
    world.cuda.memory_bytes -= 1 << 20


@pytest.mark.parametrize(
    ("change", "is_other"),
    [
        (other_l4t, True),
        (other_gpu(name="Thor"), True),
        (other_gpu(compute_capability="11.0"), True),
        (other_gpu(driver="NVIDIA 580.1"), True),
        (other_gpu(api="CUDA 13.2"), False),
        (other_version, True),
        (other_graph, True),
        (other_number_of_images, True),
        (other_format, True),
        (no_tf32, True),
        (fewer_multiprocessors, True),
        (less_memory, True),
        (a_little_less_memory, False),
    ],
)
def test_each_fact_of_the_key_has_a_file_of_its_own(
    package, tensorrt, monkeypatch, tmp_path, change, is_other
):
    opened(package).close()
    change(tensorrt, package, monkeypatch)
    with opened(package) as engine:
        assert_right(engine, package)
    files = list((tmp_path / "cache/tensorrt").glob("engine-*.bin"))
    assert (tensorrt.builds, len(files)) == ((2, 2) if is_other else (1, 1))


def test_a_plan_that_tensorrt_refuses_is_built_again_and_it_says_why(package, tensorrt):
    opened(package).close()
    tensorrt.version = "10.3.1"  # of the library; the module says the same as before
    said = []
    with opened(package, said) as engine:
        assert_right(engine, package)
    assert tensorrt.builds == 2
    assert "in the cache: The engine plan file is not compatible. It is built again" in said[0]


def test_a_plan_for_which_there_is_no_memory_is_not_built_again(package, tensorrt):
    opened(package).close()
    tensorrt.fails, tensorrt.why = {"deserialize_cuda_engine"}, {}
    tensorrt.why["deserialize_cuda_engine"] = "OutOfMemory (requested 1 GiB)"
    with pytest.raises(
        NoMemoryError, match=r"cannot load the engine of .* in the cache: .*Out"
    ):
        opened(package)
    assert tensorrt.builds == 1


def test_a_run_is_one_graph_after_one_eager_run(package, tensorrt):
    with opened(package) as engine:
        assert engine.is_captured
        launches, runs = tensorrt.cuda.launches, tensorrt.runs
        engine.run(images_of(2 * IMAGES_PER_RUN))
        assert (tensorrt.cuda.launches, tensorrt.runs) == (launches + 2, runs + 2)
    assert tensorrt.cuda.graphs == {}


@pytest.mark.parametrize(
    ("function", "reason"),
    [
        ("cuStreamBeginCapture_v2", "cuStreamBeginCapture_v2 returns 900"),
        ("cuStreamEndCapture", "cuStreamEndCapture returns 900"),
        ("cuGraphInstantiateWithFlags", "cuGraphInstantiateWithFlags returns 900"),
    ],
)
def test_without_a_graph_kernels_are_started_one_by_one(
    package,
    tensorrt,
    function,
    reason,
):
    tensorrt.cuda.returns[function] = 900
    said = []
    with opened(package, said) as engine:
        assert not engine.is_captured
        assert_right(engine, package, 70)
    assert tensorrt.cuda.launches == 0
    (line,) = [line for line in said if "without a CUDA graph" in line]
    assert reason in line


def test_a_driver_without_graphs_is_no_error(package, tensorrt, monkeypatch):
    monkeypatch.setattr("edge_runtime.engines.tensorrt.cuda.load_driver", lambda: object())
    said = []
    with opened(package, said) as engine:
        assert_right(engine, package)
    assert any("NVIDIA's driver has no cuStreamBeginCapture_v2" in line for line in said)


@pytest.mark.parametrize(
    ("half", "error", "is_refused"),
    [
        (False, 0.005, False),
        (False, 0.02, True),
        (True, 0.02, False),
        (True, 0.05, True),
        (False, float("nan"), True),
    ],
)
def test_an_engine_that_is_off_is_refused_by_its_precision(
    package,
    tensorrt,
    half,
    error,
    is_refused,
):
    tensorrt.half, tensorrt.error = half, error
    if not is_refused:
        opened(package).close()
        return
    with pytest.raises(EngineError, match=r"is not used: .* off those of engine ort; "):
        opened(package)
    tensorrt.error = 0.0
    opened(package).close()
    assert tensorrt.builds == 2  # the refused one was not kept


def test_everything_is_freed(package, tensorrt):
    before = tensorrt.cuda.free_bytes
    with opened(package) as engine:
        assert tensorrt.cuda.free_bytes < before
    engine.close()
    assert (tensorrt.cuda.free_bytes, tensorrt.cuda.allocations) == (before, {})
    assert tensorrt.cuda.current.stack == []
    assert (tensorrt.cuda.pinned, tensorrt.cuda.unpinned_without_context) == (0, 0)


@pytest.mark.parametrize(
    ("method", "kind", "message"),
    [
        ("Builder", EngineError, "cannot build an engine of .*: CUDA initialization failure"),
        ("Runtime", EngineError, "cannot load the engine of .*: CUDA initialization failure"),
        ("build_serialized_network", NoMemoryError, "cannot build an engine of .*OutOfMemory"),
        ("deserialize_cuda_engine", EngineError, "cannot load the engine of .* it has built"),
        ("create_execution_context", NoMemoryError, "cannot run an engine: .*OutOfMemory"),
        ("set_tensor_address", EngineError, "cannot place 'patch.weight' in memory"),
        ("set_input_shape", EngineError, r"cannot take images of shape \(32, 4, 4, 3\)"),
        ("execute_async_v3", EngineError, "cannot start a run: execute_async_v3"),
    ],
)
def test_a_call_that_fails_is_an_error_with_its_reason(
    package,
    tensorrt,
    method,
    kind,
    message,
):
    tensorrt.fails = {method}
    before = tensorrt.cuda.free_bytes
    with pytest.raises(kind, match=message):
        opened(package)
    assert (tensorrt.cuda.free_bytes, tensorrt.cuda.allocations) == (before, {})


def test_a_gpu_without_memory_is_an_error_that_says_so(package, tensorrt):
    tensorrt.cuda.free_bytes = 1000  # enough for the first weight
    with pytest.raises(NoMemoryError, match=r"CUDA cannot load .*out of memory\. Stop other"):
        opened(package)
    assert (tensorrt.cuda.free_bytes, tensorrt.cuda.allocations) == (1000, {})


def test_a_failed_run_is_an_error_and_the_next_one_may_work(package, tensorrt):
    with opened(package) as engine:
        tensorrt.cuda.returns["cuGraphLaunch"] = 700
        with pytest.raises(EngineError, match="cuGraphLaunch returns 700"):
            engine.run(images_of(2))
        tensorrt.cuda.returns.clear()
        assert_right(engine, package)


def test_closing_frees_what_it_can_and_raises_nothing(package, tensorrt):
    engine = opened(package)
    tensorrt.cuda.returns = {"cuGraphExecDestroy": 700}
    engine.close()
    assert tensorrt.cuda.allocations == {}


@pytest.mark.usefixtures("tensorrt")
def test_a_weight_of_another_shape_is_refused(package):
    weights = encoder_weights(package, make_state(1))
    weights["fc.weight"] = weights["fc.weight"][:-1]
    with (
        TensorRtForwardEngine(threads=1) as engine,
        pytest.raises(EngineError, match=r"'fc.weight' has shape \(4, 5\); expected \(5, 5\)"),
    ):
        engine.open(package, package.manifest.embed, weights)


def test_memory_that_was_lost_is_an_error(package, tensorrt):
    with opened(package) as engine:
        kept = dict(tensorrt.cuda.allocations)
        tensorrt.cuda.allocations.clear()
        with pytest.raises(EngineError, match="CUDA cannot embed images: an illegal memory"):
            engine.run(images_of(2))
        tensorrt.cuda.allocations.update(kept)


@pytest.mark.usefixtures("tensorrt")
def test_another_thread_may_run_and_close_it(package):
    engine, errors = opened(package), []

    def work():
        try:
            assert_right(engine, package)
            engine.close()
        except BaseException as error:  # noqa: BLE001 - shown below
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []


def test_a_build_can_be_stopped(package, tensorrt):
    with pytest.raises(StoppedError, match="stopped while TensorRT built an engine of"):
        opened(package, stop=lambda: tensorrt.builds > 0)
    opened(package).close()
    assert tensorrt.builds == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_build(package, tensorrt, number):
    """Also where nobody gave `stop`; what callbacks raise is lost."""

    def send(step):
        if step == 0:
            os.kill(os.getpid(), number)
            time.sleep(0.5)  # of work that Python does not see

    tensorrt.during_build = send
    with interrupt_on_signals(), pytest.raises(KeyboardInterrupt):
        opened(package)
    assert (tensorrt.builds, tensorrt.steps) == (1, 0)
    assert tensorrt.cuda.allocations == {}


def test_a_build_says_how_far_it_is(package, tensorrt, monkeypatch):
    monkeypatch.setattr("edge_runtime.engines.tensorrt.build._SAY_S", 0.0)
    said = []
    opened(package, said).close()
    lines = [line for line in said if "step" in line]
    assert len(lines) == 3  # of the outer phase alone
    assert lines[1].endswith("Building, step 2 of 3")


def test_no_gpu_is_an_error_that_says_why(package, tensorrt, monkeypatch):
    tensorrt.gpu = None
    with pytest.raises(EngineError, match="tensorrt has no GPU: cuda:0 has no GPU here"):
        opened(package)


def test_a_missing_package_is_an_error_that_says_how_to_install_it(
    package,
    tensorrt,
    monkeypatch,
):
    monkeypatch.setitem(sys.modules, "pycuda", None)
    monkeypatch.setitem(sys.modules, "pycuda.driver", None)
    with pytest.raises(EngineError, match=r"pycuda cannot be imported .*pip install pycuda"):
        opened(package)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(EngineError, match="apt install python3-libnvinfer"):
        opened(package)
