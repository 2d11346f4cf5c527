"""What engine `tensorrt` uses, against the bindings of TensorRT 10.3, 10.16 and 11.4.

These need TensorRT's libraries, which need a GPU. Three libraries of nine functions that
return nothing are enough to import them, and to read every class and signature.
"""

import importlib
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest

from device_tests.tensorrt_calls import Bindings, Uses, problems

ROOT = Path(__file__).parents[1]
VARIABLE = "EDGE_TRAIN_TEST_TENSORRT"
SOURCES = ROOT / "edge_runtime/engines/tensorrt"
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")
FUNCTIONS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL",
    "createInferRuntime_INTERNAL", "createNvOnnxParserRefitter_INTERNAL",
    "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry", "getNvOnnxParserVersion",
    "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip
READ = """
import json
import tensorrt_bindings as trt

def classes_in(holder, prefix=""):
    for name, value in vars(holder).items():
        if isinstance(value, type) and not name.startswith("_"):
            yield prefix + name, {e: getattr(value, e).__doc__ or "" for e in dir(value)}
            if not prefix:
                yield from classes_in(value, f"{name}.")

print(json.dumps([trt.__version__, dict(classes_in(trt)), sorted(vars(trt))]))
"""
# Of JetPack 6, which has Python 3.10, of JetPack 7, and of discrete GPUs
VERSIONS = ["10.3.0", "10.16.1.11", "11.4.0.106"]
if sys.version_info >= (3, 13):  # for which there are no bindings of 10.3
    del VERSIONS[0]


# Our classes and functions on the real module, whose constructors return nothing here
TRIAL = """
import json
import sys
import tensorrt_bindings
sys.modules["tensorrt"] = tensorrt_bindings
from edge_runtime.engines.tensorrt.api import native_log
from edge_runtime.engines.tensorrt.build import (
    BuildJob, _monitor, build_engine, deserialized,
)
from edge_runtime.engines.tensorrt.files import CachedFile
from edge_runtime.errors import EngineError, StoppedError

stops, said = [False, True], []
job = BuildJob(
    graph="embed.onnx", model=b"", images="images", shape=(1,), weight_bytes=0, gpu="Orin",
    report=said.append,
    timing=CachedFile("timing", {}), stop=lambda: stops.pop(0),
)
errors = []
for trial in (lambda: build_engine(job), lambda: deserialized(b"plan", "an engine")):
    try:
        trial()
    except EngineError as error:
        errors.append(str(error))
monitor, log = _monitor(job), native_log()
log.log(tensorrt_bindings.ILogger.Severity.ERROR, "bad")
log.log(tensorrt_bindings.ILogger.Severity.INFO, "good")
monitor.phase_start("Building", None, 2)
goes_on = [monitor.step_complete("Building", step) for step in range(2)]
monitor.phase_finish("Building")
is_stopped = isinstance(monitor.stopped_by, StoppedError)
print(json.dumps([errors, goes_on, is_stopped, list(log.last_errors)]))
"""


def folder() -> Path:
    """Where `make test-system` has put the bindings, one folder for each version."""
    if not (named := os.environ.get(VARIABLE)):
        pytest.fail(f"{VARIABLE} is no folder with TensorRT's bindings: use make test-system")
    return Path(named).absolute()


def compile_libraries(target: Path, major: str) -> None:
    source = target / "libraries.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for name in LIBRARIES:
        file = f"lib{name}.so.{major}"
        words = ["gcc", "-shared", "-fPIC", f"-Wl,-soname,{file}", "-o", str(target / file)]
        subprocess.run([*words, str(source)], check=True)


@pytest.fixture(scope="module", params=VERSIONS)
def answer(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Any]:
    """What a program that imports the bindings of one version prints as JSON."""
    libraries = tmp_path_factory.mktemp("libraries")
    compile_libraries(libraries, request.param.partition(".")[0])
    paths = [str(folder() / request.param), str(ROOT)]

    def answered(code: str) -> Any:
        variables = {
            "LD_LIBRARY_PATH": str(libraries),
            "PYTHONPATH": os.pathsep.join(paths),
            "HOME": str(libraries),
        }
        words = [sys.executable, "-c", code]
        done = subprocess.run(words, capture_output=True, text=True, env=variables)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return answered


@pytest.fixture(scope="module")
def bindings(answer: Callable[[str], Any]) -> Bindings:
    """The bindings of one version."""
    version, classes, names = answer(READ)
    return Bindings(version, classes, frozenset(names))


def uses_in(sources: list[Path], bindings: Bindings) -> Uses:
    assert sources
    return Uses(sources, bindings)


def test_the_bindings_are_of_the_version_that_is_named(bindings: Bindings) -> None:
    assert bindings.version in VERSIONS
    assert len(bindings.classes) > 80


def test_everything_that_is_used_is_there(bindings: Bindings) -> None:
    sources = [path for path in sorted(SOURCES.glob("*.py")) if path.name != "cuda.py"]
    uses = uses_in(sources, bindings)
    assert len({(use.owner, use.name) for use in uses.all()}) > 35  # the reading works
    assert len(list(uses.overrides())) == 4
    assert uses.unresolved() == []
    assert problems(uses, bindings) == []


def test_our_classes_and_errors_work_with_the_real_module(
    answer: Callable[[str], Any], bindings: Bindings
) -> None:
    errors, goes_on, is_stopped, logged = answer(TRIAL)
    name = f"TensorRT {bindings.version}"
    assert [error.partition(": ")[0] for error in errors] == [
        f"{name} cannot build an engine of embed.onnx",
        f"{name} cannot load an engine",
    ]
    assert all("nullptr" in error for error in errors)  # as the bindings say it
    assert (goes_on, is_stopped, logged) == ([True, False], True, ["bad"])


def written(tmp_path: Path, *lines: str) -> list[Path]:
    path = tmp_path / "code.py"
    path.write_text("\n".join(("builder = trt.Builder(log)", *lines)))
    return [path]


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("builder.create_netwrk(1)", "Builder.create_netwrk is missing"),
        ("builder.create_network(1, 2)", "create_network does not take 2 arguments"),
        ("builder.create_network(kind=1)", "does not take 0 arguments and ['kind']"),
        ("trt.Logger2", "module.Logger2 is missing"),
        ("trt.MemoryPoolType.HEAP", "MemoryPoolType.HEAP is missing"),
        ("trt.Builder()", "module.Builder does not take 0 arguments"),
        ("class Log(trt.ILogger):\n  def log(self, text): pass", "overridden with ['text']"),
        ("config = builder.create_builder_config()\nconfig.x = 1", "IBuilderConfig.x is miss"),
    ],
)
def test_what_is_not_there_is_found(
    bindings: Bindings, tmp_path: Path, line: str, problem: str
) -> None:
    (found,) = problems(uses_in(written(tmp_path, line), bindings), bindings)
    assert problem in found


def test_what_one_version_lacks_is_found_there(bindings: Bindings, tmp_path: Path) -> None:
    found = problems(uses_in(written(tmp_path, "trt.BuilderFlag.FP16"), bindings), bindings)
    assert bool(found) == bindings.version.startswith("11")


def test_an_unknown_object_is_found(bindings: Bindings, tmp_path: Path) -> None:
    lines = ("builder.create_network(1)", "def f(x):\n  x.create_network()")
    assert uses_in(written(tmp_path, *lines), bindings).unresolved() == [
        "code.py:4: x.create_network"
    ]


def fake_classes() -> dict[str, Any]:
    """The classes of the TensorRT with which the engine's logic is tested."""
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        fakes = importlib.import_module("fake_tensorrt")
        cuda = importlib.import_module("fake_cuda")
    finally:
        sys.path.pop(0)
    module = fakes.FakeTensorRt(cuda.FakeCuda()).module
    return {name: value for name, value in vars(module).items() if isinstance(value, type)}


def test_the_fake_of_the_other_tests_has_nothing_else(bindings: Bindings) -> None:
    pytest.importorskip("onnxruntime", reason="the fake computes with it")
    fakes = fake_classes()
    assert len(fakes) > 15
    for name, fake in fakes.items():
        real = bindings.classes[name]
        if issubclass(fake, Enum):
            members = set(fake.__members__) - {"EXPLICIT_BATCH"}  # which 11 has left out
            assert members <= real.keys(), name
            continue
        for attribute, value in vars(fake).items():
            if attribute.startswith("_"):
                continue
            assert attribute in real, f"{name}.{attribute}"
            if inspect.isfunction(value):
                given = list(inspect.signature(value).parameters)[1:]
                known = [each for each, *_ in bindings.signatures(name, attribute)]
                assert any(given == each[: len(given)] for each in known), (name, attribute)
