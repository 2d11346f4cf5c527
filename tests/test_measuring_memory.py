"""Measuring takes the memory of two processes: the run's, and that of the measured rung."""

import re
import subprocess
import sys
from dataclasses import replace

import pytest
from measuring_fakes import BASELINE_BYTES, environment
from test_profiling import processes

from edge_runtime.device import Meter, memory_now
from edge_runtime.errors import BudgetError
from edge_runtime.planning import interpolate
from edge_runtime.planning.costs import predicted_peak_bytes
from edge_runtime.profiling import profile, profile_package
from edge_runtime.profiling.bench import kept_folder
from edge_runtime.profiling.worker import OUT_OF_MEMORY

KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


__all__ = ["processes"]  # the fixture


def leave(monkeypatch, free_bytes: int) -> None:
    """Let the machine leave that much to another process."""
    here = memory_now()
    monkeypatch.setattr(
        profile,
        "memory_now",
        lambda: replace(here, available_bytes=free_bytes, file_bytes=0),
    )


def measured(package) -> dict:
    with Meter(None) as meter:
        found = profile_package(package, environment(), meter)
    return {cost.rung: cost for cost in found.rungs}


def predicted(package, rung: str) -> int:
    return predicted_peak_bytes(package.manifest, package.rung(rung), BASELINE_BYTES)


def test_a_rung_that_does_not_fit_beside_this_process_is_estimated(
    package, processes, monkeypatch
) -> None:
    leave(monkeypatch, int(1.1 * predicted(package, "k100")) - 1)
    costs = measured(package)
    assert [job["rung"] for job in processes.jobs] == ["k050"] * 3
    assert costs["k100"].source == "unmeasured"
    estimated = {cost.rung: cost for cost in interpolate([*costs.values()])}["k100"]
    assert (estimated.source, estimated.peak_bytes) == ("extrapolated", None)
    assert estimated.need_bytes == pytest.approx(1.1 * predicted(package, "k100"), abs=1)
    assert estimated.step_s > costs["k050"].step_s
    assert kept_folder(package, environment()).exists()  # for when there is more memory


@pytest.mark.parametrize(
    "end", [KILLED, f"sys.exit({OUT_OF_MEMORY})"], ids=["killed", "ended"]
)
def test_a_rung_that_runs_out_of_memory_does_not_fit(
    package, processes, monkeypatch, end
) -> None:
    processes.do(k100=end)
    leave(monkeypatch, int(1.2 * predicted(package, "k100")))
    assert measured(package)["k100"].source == "does_not_fit"


def test_a_rung_is_started_only_with_the_reserve_of_a_run(
    package, processes, monkeypatch
) -> None:
    leave(monkeypatch, int(1.09 * predicted(package, "k100")))
    assert measured(package)["k100"].source == "unmeasured"
    leave(monkeypatch, int(1.11 * predicted(package, "k100")))
    assert measured(package)["k100"].source == "measured"


LOAD = """
from edge_runtime.device import process_tree_rss_bytes
from edge_runtime.engines.runtime import RUNTIME_BYTES, baseline_bytes, load_onnxruntime
before, predicted = process_tree_rss_bytes(), baseline_bytes()
load_onnxruntime()
assert abs(predicted - before - RUNTIME_BYTES) < 1 << 20
after = process_tree_rss_bytes()
assert abs(baseline_bytes() - after) < 1 << 20
print(after - before, RUNTIME_BYTES)
"""


def test_the_memory_of_the_runtime_is_known_before_it_is_loaded() -> None:
    done = subprocess.run([sys.executable, "-c", LOAD], capture_output=True, text=True)
    if "EngineError" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    loaded, assumed = map(int, done.stdout.split())
    assert 0.3 * assumed < loaded < 1.1 * assumed  # older runtimes are smaller


def test_too_little_memory_to_measure_anything_is_named_and_nothing_is_killed(
    package, processes, monkeypatch
) -> None:
    free_bytes = int(1.1 * predicted(package, "k050")) - 1
    leave(monkeypatch, free_bytes)
    message = (
        r"no rung of .* can be measured in this memory: the smallest, k050, needs up to .*, "
        rf"and beside the .* MiB of this process {free_bytes / 1024:.1f} KiB may be used\. "
        r"Give .* in all; or measure it where there is more, without --memory \(`edge-train"
    )
    with pytest.raises(BudgetError, match=message):
        measured(package)
    assert processes.jobs == []


def test_the_estimate_of_the_first_rung_has_the_memory_of_this_process(
    package, processes, monkeypatch
) -> None:
    monkeypatch.setattr(
        "edge_runtime.profiling.bench.baseline_bytes", lambda: BASELINE_BYTES + 5000
    )
    leave(monkeypatch, int(1.1 * (predicted(package, "k050") + 4999)))
    with pytest.raises(BudgetError, match=re.escape("the smallest, k050")):
        measured(package)


def test_libraries_are_in_memory_once_for_both_processes(
    package, processes, monkeypatch
) -> None:
    here, needed = memory_now(), int(1.1 * predicted(package, "k100")) + 1
    assert 1 << 20 < here.file_bytes < here.rss_bytes
    now = replace(here, available_bytes=needed - 5000, file_bytes=5000)
    monkeypatch.setattr(profile, "memory_now", lambda: now)
    assert measured(package)["k100"].source == "measured"
