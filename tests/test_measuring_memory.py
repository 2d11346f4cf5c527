"""Measuring takes the memory of two processes: the run's, and that of the measured rung."""

import re
from dataclasses import replace

import pytest
from measuring_fakes import BASELINE_BYTES, environment, prepare
from training_fakes import write_package

from edge_runtime.device import Meter, memory_now
from edge_runtime.errors import BudgetError
from edge_runtime.planning import interpolate
from edge_runtime.planning.costs import predicted_peak_bytes
from edge_runtime.profiling import profile, profile_package
from edge_runtime.profiling.bench import kept_folder

KILLED = "os.kill(os.getpid(), signal.SIGKILL)"


@pytest.fixture
def processes(tmp_path, monkeypatch):
    return prepare(tmp_path, monkeypatch)


@pytest.fixture
def package(tmp_path):
    return write_package(tmp_path / "package")


def leave(monkeypatch, free_bytes: int) -> None:
    """Let the machine leave that much to another process."""
    here = memory_now()
    monkeypatch.setattr(
        profile, "memory_now", lambda: replace(here, available_bytes=free_bytes)
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
    leave(monkeypatch, predicted(package, "k100") - 1)
    costs = measured(package)
    assert [job["rung"] for job in processes.jobs] == ["k050"] * 3
    assert costs["k100"].source == "unmeasured"
    estimated = {cost.rung: cost for cost in interpolate([*costs.values()])}["k100"]
    assert (estimated.source, estimated.peak_bytes) == ("extrapolated", None)
    assert estimated.need_bytes == pytest.approx(1.1 * predicted(package, "k100"), abs=1)
    assert estimated.step_s > costs["k050"].step_s
    assert kept_folder(package, environment()).exists()  # for when there is more memory


@pytest.mark.parametrize(("factor", "source"), [(1.05, "unmeasured"), (1.2, "does_not_fit")])
def test_a_killed_rung_may_fit_without_this_process(
    package, processes, monkeypatch, factor, source
) -> None:
    """Only if the reserve of a prediction was there, its kill shows that it cannot fit."""
    processes.do(k100=KILLED)
    leave(monkeypatch, int(factor * predicted(package, "k100")))
    assert measured(package)["k100"].source == source


def test_too_little_memory_to_measure_anything_is_named_and_nothing_is_killed(
    package, processes, monkeypatch
) -> None:
    free_bytes = predicted(package, "k050") - 1
    leave(monkeypatch, free_bytes)
    message = (
        r"no rung of .* can be measured in this memory: the smallest, k050, needs about .* "
        rf"beside the .* MiB of this process, and {free_bytes / 1024:.1f} KiB may be used\. "
        r"Measure where there is more with `edge-train profile PKG -o FILE`"
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
    leave(monkeypatch, predicted(package, "k050") + 4999)
    with pytest.raises(BudgetError, match=re.escape("the smallest, k050")):
        measured(package)
