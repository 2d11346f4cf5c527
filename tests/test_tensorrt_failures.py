"""Forward engine `tensorrt` where TensorRT, CUDA or the machine is not as expected."""

import logging
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("onnxruntime", reason="a new engine is compared with it")

from tensorrt_runs import assert_right, images_of, opened
from tiny_encoder import make_package, make_state

from edge_runtime.device.memory import memory_now
from edge_runtime.device.room import require_room
from edge_runtime.engines import ForwardOptions, encoder_weights, open_forward_engine
from edge_runtime.engines.tensorrt import largest_error
from edge_runtime.engines.tensorrt.files import CachedFile
from edge_runtime.engines.tensorrt.threads import interruptible
from edge_runtime.errors import DeviceError, EngineError, NoMemoryError, StoppedError


@pytest.fixture
def package(tmp_path):
    return make_package(tmp_path / "package")


def auto(package, **options):
    """The name of the engine that "auto" takes."""
    weights = encoder_weights(package, make_state(1))
    chosen = ForwardOptions(threads=1, **options)
    with open_forward_engine(
        package, package.manifest.embed, weights, "auto", chosen
    ) as found:
        found.run(images_of(1))
        return found.name


@pytest.mark.parametrize("version", ["8.6.1", "9.3.0"])
def test_an_old_version_is_refused_by_its_name(package, tensorrt, version):
    tensorrt.module.__version__ = version
    with pytest.raises(EngineError, match=f"TensorRT {version} is too old: .* needs 10.3"):
        opened(package)
    assert auto(package) == "ort"


@pytest.mark.parametrize("version", [None, "", "of today"])
def test_a_module_without_a_version_is_refused(package, tensorrt, version):
    if version is None:
        del tensorrt.module.__version__
    else:
        tensorrt.module.__version__ = version
    with pytest.raises(EngineError, match="tensorrt cannot be imported"):
        opened(package)


@pytest.mark.parametrize("error", [AttributeError, TypeError, ValueError, SystemError])
def test_a_broken_installation_is_no_error_of_ours(package, tensorrt, monkeypatch, error):
    class Finder:
        @staticmethod
        def find_spec(name, path=None, target=None):
            if name == "tensorrt":
                raise error("_ARRAY_API not found")

    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.setattr("sys.meta_path", [Finder])
    with pytest.raises(EngineError, match=r"cannot be imported .*_ARRAY_API not found"):
        opened(package)


def test_names_that_bindings_lack_are_an_error_of_the_engine(package, tensorrt):
    del tensorrt.module.MemoryPoolType
    with pytest.raises(EngineError, match=r"cannot build an engine of .*MemoryPoolType"):
        opened(package)
    assert auto(package) == "ort"


def test_without_a_timing_cache_it_builds(package, tensorrt, tmp_path):
    tensorrt.fails = {"create_timing_cache"}
    with opened(package) as engine:
        assert_right(engine, package)
    assert tensorrt.timings == []
    assert list((tmp_path / "cache/tensorrt").glob("timing-*")) == []


def test_a_build_that_does_not_fit_is_not_begun(package, tensorrt, monkeypatch):
    """The kernel would kill this process, and with it the run."""
    small = replace(memory_now(), limit_bytes=1 << 30)

    def room(action, more_bytes, advice):
        require_room(action, more_bytes, advice, read_memory=lambda: small)

    monkeypatch.setattr("edge_runtime.engines.tensorrt.build.require_room", room)
    with pytest.raises(DeviceError, match=r"building a TensorRT 10\.3\.0 engine needs about"):
        opened(package)
    said = []
    assert auto(package, report=said.append) == "ort"
    assert "edge-train profile" in said[-1]
    assert tensorrt.builds == 0


@pytest.mark.parametrize("widths", [[4], [6], [5, 1], [-1]])
def test_features_of_another_shape_are_never_written(package, tensorrt, widths):
    tensorrt.widths = widths
    with pytest.raises(EngineError, match=r"features of shape \(32, .*expected \(32, 5\)"):
        opened(package)
    assert tensorrt.runs == 0


def test_errors_of_a_build_that_went_well_are_not_told_later(package, tensorrt):
    tensorrt.logs = ["OutOfMemory: tactic skipped"]
    tensorrt.fails = {"set_tensor_address"}
    tensorrt.why = {"set_tensor_address": "no such tensor"}
    with pytest.raises(
        EngineError, match=r"cannot place .*: set_tensor_address: no such"
    ) as e:
        opened(package)
    assert "OutOfMemory" not in str(e.value)


def test_a_path_does_not_decide_what_an_error_is(tmp_path, tensorrt):
    package = make_package(tmp_path / "out of memory")
    tensorrt.fails = {"build_serialized_network"}
    tensorrt.why = {"build_serialized_network": "no kernel"}
    with pytest.raises(EngineError, match="no kernel"):
        opened(package)
    tensorrt.why = {"build_serialized_network": "out of memory"}
    with pytest.raises(NoMemoryError):
        opened(package)


def test_a_broken_capture_says_why_and_leaves_no_graph(package, tensorrt):
    tensorrt.fails, tensorrt.why = {"capture"}, {"capture": "a copy is not permitted"}
    said = []
    with opened(package, said) as engine:
        assert_right(engine, package)
    (line,) = [line for line in said if "without a CUDA graph" in line]
    assert "a copy is not permitted" in line
    assert "901" not in line


def test_what_was_captured_before_a_failure_is_freed(package, tensorrt, monkeypatch):
    read, reads = tensorrt.cuda.pycuda.memcpy_dtoh_async, []

    def fails_once(*arguments):
        reads.append(arguments)
        if len(reads) == 2:  # in the capture
            raise tensorrt.cuda.pycuda.LogicError("no such copy")
        read(*arguments)

    monkeypatch.setattr(tensorrt.cuda.pycuda, "memcpy_dtoh_async", fails_once)
    said = []
    with opened(package, said) as engine:
        assert_right(engine, package)
        assert tensorrt.cuda.graphs == {}
    assert any("no such copy" in line for line in said)


def test_auto_says_why_it_falls_back_to_those_who_gave_no_report(package, tensorrt, caplog):
    tensorrt.fails = {"Builder"}
    with caplog.at_level(logging.WARNING):
        assert auto(package) == "ort"
    assert any("tensorrt cannot be used, ort is: " in text for text in caplog.messages)


def test_two_that_build_at_once_build_once(package, tensorrt):
    """The second one waits, and takes what the first has built."""
    began, goes_on, said = threading.Event(), threading.Event(), []

    def wait(step):
        began.set()
        goes_on.wait(30)

    tensorrt.during_build = wait
    first = threading.Thread(target=lambda: opened(package).close())
    first.start()
    began.wait(30)

    def report(text):
        said.append(text)
        goes_on.set()

    weights = encoder_weights(package, make_state(1))
    options = ForwardOptions(threads=1, report=report)
    graph = package.manifest.embed
    with open_forward_engine(package, graph, weights, "tensorrt", options) as engine:
        assert_right(engine, package)
    first.join()
    assert said == ["another process builds the same TensorRT engine: waiting for it"]
    assert tensorrt.builds == 1


def test_the_wait_for_another_build_can_be_stopped(tmp_path, monkeypatch):
    monkeypatch.setenv("EDGE_TRAIN_CACHE", str(tmp_path))
    file, said = CachedFile("engine", {"gpu": "Orin"}), []
    with file.locked(said.append, lambda: False):
        with (
            pytest.raises(StoppedError, match="while another process built"),
            CachedFile("engine", {"gpu": "Orin"}).locked(said.append, lambda: True),
        ):
            pass
        with CachedFile("engine", {"gpu": "Thor"}).locked(said.append, lambda: True):
            pass
    assert len(said) == 1


def test_what_work_on_another_thread_raises_is_raised():
    def fail(is_interrupted):
        raise KeyError(is_interrupted())

    with pytest.raises(KeyError, match="False"):
        interruptible(fail)
    assert interruptible(lambda is_interrupted: 7) == 7


@pytest.mark.parametrize("place", ["start", "wait"])
def test_an_interruption_waits_for_work_that_has_begun(monkeypatch, place):
    """Also one while the thread starts: then nothing is begun."""
    done, cls = [], {"start": threading.Thread, "wait": threading.Event}[place]
    real = getattr(cls, place)

    def work(is_interrupted):
        while not is_interrupted():
            time.sleep(0.01)
        time.sleep(0.2)
        done.append(True)

    def interrupted(self, *timeout):
        real(self, *timeout)
        if timeout or place == "start":
            monkeypatch.undo()
            raise KeyboardInterrupt

    monkeypatch.setattr(cls, place, interrupted)
    with pytest.raises(KeyboardInterrupt):
        interruptible(work)
    was_done = list(done)
    for thread in threading.enumerate():
        if thread.name == "tensorrt":
            thread.join()
    assert was_done == done == ([] if place == "start" else [True])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_off(bad):
    expected = np.ones((2, 3), np.float32)
    features = expected.copy()
    features[1, 1] = bad
    assert not largest_error(features, expected) <= 1e9
    assert not largest_error(features, features) <= 1e9
    assert largest_error(expected, expected) == 0.0
