"""A real board keeps the budgets of runs, judged by readings that are not edge-train's.

`pytest device_tests --board NAME`. Each run trains the package inside edge-train on noise.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from device_tests.real_board import kernel
from device_tests.real_board.results import RecordProperty, not_run
from device_tests.real_board.training import RUN_S, WINDOW_S, WatchedRun, watched_run
from device_tests.real_board.watching import wait_until
from edge_runtime.device import Board
from edge_runtime.selftest import PACKAGE

LEAST_USED = 0.5  # of a limit of time or energy; what does nothing keeps every budget
ENERGY_TOLERANCE = 0.02  # the judge reads the same chip at other times
PEAK_TOLERANCE = 0.1  # its own processes are not read at the same moments
MEMORY_SHARE = 1.5  # of the peak of a run without a limit; a plan keeps a reserve
TOO_SMALL = 0.5  # of that peak: what is loaded before the first step takes more
REFUSED = 7  # exit code
LEAST_RISE_C = 4.0  # from rest to load, so that a limit between them can be told apart
LONGEST_COOLING_S = 30 * WINDOW_S
OVERSHOOT_C = 1.0  # zones are in whole degrees on some boards


@pytest.fixture(scope="module")
def folder(board: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module", autouse=True)
def empty_cache(folder: Path) -> Iterator[None]:
    """Costs are measured here, not taken from earlier runs of the board's owner."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGE_TRAIN_CACHE", str(folder / "cache"))
        yield


@pytest.fixture(scope="module")
def costs(empty_cache: None) -> dict[str, Any]:
    """The costs of the package, which runs with a small budget cannot measure themselves."""
    words = [sys.executable, "-m", "edge_runtime", "profile", str(PACKAGE), "--json"]
    words += ["--time-per-rung", f"{2 * WINDOW_S}s"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    table: dict[str, Any] = json.loads(done.stdout)
    return table


def test_the_package_has_costs(costs: dict[str, Any], record_property: RecordProperty) -> None:
    record_property("rungs", costs["rungs"])
    assert costs["rungs"]


@pytest.fixture(scope="module")
def timed(profile: Board, folder: Path, pictures: Path, costs: dict[str, Any]) -> WatchedRun:
    """A run with a limit of time alone."""
    words = ("--epochs", "auto", "--time", f"{RUN_S:.1f}s")
    return watched_run(profile, folder / "time", pictures, *words)


def succeeded(run: WatchedRun, record_property: RecordProperty) -> WatchedRun:
    """The run itself, which has to have ended well."""
    assert run.code == 0, run.stderr
    (finished,) = run.events("finished")
    del finished["at"]
    record_property("finished", finished)
    record_property("time_s", run.time_s)
    record_property("energy_j", run.energy_j)
    record_property("peak_bytes", run.watch.peak_bytes)
    record_property("highest_c", run.highest_c)
    assert finished["steps"] > 0
    return run


def test_a_limit_of_time_is_kept(timed: WatchedRun, record_property: RecordProperty) -> None:
    run = succeeded(timed, record_property)
    record_property("limit_s", RUN_S)
    assert LEAST_USED * RUN_S < run.time_s <= RUN_S


def test_a_limit_of_energy_is_kept(
    profile: Board,
    timed: WatchedRun,
    folder: Path,
    pictures: Path,
    record_property: RecordProperty,
) -> None:
    if timed.energy_j is None:
        if kernel.has_power_sensor(profile):
            pytest.fail("the kernel's files do not show the board's input, to judge it by")
        not_run("this board has no power sensor that could judge it")
    limit_j = round(timed.energy_j, 1)
    record_property("limit_j", limit_j)
    words = ("--epochs", "auto", "--energy", f"{limit_j}J")
    run = succeeded(watched_run(profile, folder / "energy", pictures, *words), record_property)
    assert run.energy_j is not None
    assert LEAST_USED * limit_j < run.energy_j <= (1 + ENERGY_TOLERANCE) * limit_j


def test_a_limit_of_memory_is_kept(
    profile: Board,
    timed: WatchedRun,
    folder: Path,
    pictures: Path,
    record_property: RecordProperty,
) -> None:
    """And the peak that the run reports is the one that the kernel shows."""
    limit_mib = round(MEMORY_SHARE * timed.watch.peak_bytes / 2**20)
    record_property("limit_bytes", limit_mib * 2**20)
    words = ("--epochs", "auto", "--time", f"{RUN_S:.1f}s", "--memory", f"{limit_mib}MiB")
    run = succeeded(watched_run(profile, folder / "memory", pictures, *words), record_property)
    assert 0 < run.watch.peak_bytes <= limit_mib * 2**20
    (finished,) = run.events("finished")
    assert finished["peak_bytes"] == pytest.approx(run.watch.peak_bytes, rel=PEAK_TOLERANCE)


def test_a_limit_of_memory_that_cannot_be_kept_is_refused(
    profile: Board,
    timed: WatchedRun,
    folder: Path,
    pictures: Path,
    record_property: RecordProperty,
) -> None:
    """Else the test above would also pass if the limit had no effect."""
    limit_mib = round(TOO_SMALL * timed.watch.peak_bytes / 2**20)
    record_property("limit_bytes", limit_mib * 2**20)
    output = folder / "too-little-memory"
    words = ("--epochs", "auto", "--time", f"{RUN_S:.1f}s", "--memory", f"{limit_mib}MiB")
    run = watched_run(profile, output, pictures, *words)
    record_property("stderr", run.stderr)
    assert run.code == REFUSED, run.stderr
    steps = output / "steps.jsonl"
    assert not steps.exists() or steps.read_text() == ""


def limit_of_temperature(rest_c: float, busy_c: float) -> float:
    """Between the board at rest and under load, once it is cooler than that.

    Above both where a fan holds the temperature, or the board does not cool down in time:
    such a limit is kept without a pause.
    """
    if busy_c - rest_c >= LEAST_RISE_C:
        limit_c = (rest_c + busy_c) / 2
        is_cool = lambda: max(kernel.temperatures_c().values()) < limit_c - 1  # noqa: E731
        if wait_until(is_cool, LONGEST_COOLING_S):
            return round(limit_c, 1)
    return round(busy_c + LEAST_RISE_C, 1)


def test_a_limit_of_temperature_is_kept(
    profile: Board,
    facts: dict[str, Any],
    timed: WatchedRun,
    folder: Path,
    pictures: Path,
    record_property: RecordProperty,
) -> None:
    zones = kernel.temperatures_c()
    if not zones and profile.id.startswith("generic-"):
        not_run("the kernel shows no temperature of this machine")
    zones_c = facts["board"]["temperatures_c"].values()  # before anything was trained
    rest_c = max(degrees for degrees in zones_c if degrees is not None)
    assert timed.highest_c is not None
    limit_c = limit_of_temperature(rest_c, timed.highest_c)
    record_property("rest_c, busy_c", [rest_c, timed.highest_c])
    record_property("limit_c", limit_c)
    record_property("is_binding", limit_c < timed.highest_c)
    words = ("--epochs", "auto", "--time", f"{RUN_S:.1f}s", "--temperature", f"{limit_c}C")
    run = succeeded(
        watched_run(profile, folder / "temperature", pictures, *words), record_property
    )
    pause_s = sum(step["measured"]["pause_s"] for step in run.lines("steps.jsonl"))
    record_property("pause_s", pause_s)
    assert run.highest_c is not None
    assert run.highest_c <= limit_c + OVERSHOOT_C
