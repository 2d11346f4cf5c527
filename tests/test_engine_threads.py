"""The runtime's threads fit the processors that this process may use."""

import os
import subprocess
import sys

import pytest

from edge_runtime import selftest
from edge_runtime.engines import (
    ForwardOptions,
    create_engine,
    create_forward_engine,
    runtime,
)
from edge_runtime.errors import EngineError

# On one processor of several: the threads that the engine names, and those that it started.
ON_ONE = """
import os, sys
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
from pathlib import Path
from edge_runtime.engines import create_engine
from edge_runtime.package import open_package
package = open_package(Path(sys.argv[1]))
import onnxruntime, numpy
before = len(os.listdir("/proc/self/task"))
with create_engine("ort") as engine:
    engine.open(package, package.initial_state())
    engine._load(package, "k050", True)
    print(engine.threads, len(os.listdir("/proc/self/task")) - before)
"""


@pytest.mark.parametrize(
    ("usable", "machine", "requested", "expected"),
    [
        (4, 4, None, None),  # the runtime's own choice
        (1, 4, None, 1),  # taskset, or CPUQuota=50%
        (3, 4, None, 3),
        (1, 4, 2, 2),
        (1, None, None, None),
    ],
)
def test_threads_fit_the_usable_processors(
    monkeypatch, usable, machine, requested, expected
) -> None:
    monkeypatch.setattr(runtime, "cpu_threads", lambda: usable)
    monkeypatch.setattr(os, "cpu_count", lambda: machine)
    assert runtime.thread_count(requested) == expected
    try:
        made = create_engine("ort", threads=requested)
        forward = create_forward_engine("ort", ForwardOptions(threads=requested))
        options = runtime.session_options(requested, spinning=True)
    except EngineError as error:
        pytest.skip(str(error))
    assert made.threads == forward.threads == expected  # what a run records
    assert options.intra_op_num_threads == (expected or 0)


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor cannot be divided")
def test_on_one_processor_the_runtime_starts_no_other_threads() -> None:
    command = [sys.executable, "-c", ON_ONE, str(selftest.PACKAGE)]
    done = subprocess.run(command, capture_output=True, text=True)
    if "EngineError" in done.stderr:
        pytest.skip(done.stderr)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["1", "0"]
