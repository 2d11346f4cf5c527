"""A profile that contradicts its package, and a cache that is damaged or cannot be written."""

import json
import logging
from dataclasses import replace
from pathlib import Path

import pytest
import test_within_budget
from measuring_fakes import environment, prepare
from test_within_budget import HOUR, profile_of, train_within
from training_fakes import write_package

from edge_runtime.cli.main import main
from edge_runtime.errors import DeviceError, RecordsError
from edge_runtime.profiling import cache, check_package, save_profile
from edge_runtime.records import events

package = test_within_budget.package
profiles = test_within_budget.profiles


def with_cost(package, **changes):
    """The profile of the package, with another first rung."""
    profile = profile_of(package)
    first, *others = profile.rungs
    return replace(profile, rungs=(replace(first, **changes), *others))


CONTRADICTIONS = {
    "token_blocks": (81, r"token_blocks: 81, but k100 of the package has 80"),
    "flops": (7, r"flops: 7, but k100 of the package has 80000"),
    "micro_batch": (2, r"micro_batch: 2, but k100 of the package has None"),
    "peak_bytes": (1, r"peak_bytes: 1 B, but the state of the package alone has 1.0 KiB"),
    "predicted_peak_bytes": (1, r"predicted_peak_bytes: 1 B, but the state"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_costs_that_contradict_the_package_are_refused(package, tmp_path, name) -> None:
    value, message = CONTRADICTIONS[name]
    profile = with_cost(package, **{name: value})
    with pytest.raises(RecordsError, match=rf"it: 1 problem\(s\)\n  rungs\[0\].{message}"):
        check_package(profile, package, "it")
    save_profile(profile, tmp_path / "given.json")
    with pytest.raises(RecordsError, match=rf"given.json: 1 problem.*\n.*{message}"):
        train_within(package, tmp_path / "run", budget=HOUR, profile=tmp_path / "given.json")
    check_package(profile_of(package), package, "it")


def test_rungs_of_another_package_are_refused(package, tmp_path) -> None:
    save_profile(with_cost(package, rung="k999"), tmp_path / "given.json")
    with pytest.raises(DeviceError, match="rungs: measured with k999, here k100, k050"):
        train_within(package, tmp_path / "run", budget=HOUR, profile=tmp_path / "given.json")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text[:50], "cannot be read"),
        (lambda text: text.replace('"flops": 80000', '"flops": 8'), "flops: 8, but k100"),
        (lambda text: text.replace('"k100"', '"k101"'), "rungs: measured with k101"),
        (lambda text: text.replace('"step_s": 0.01', '"step_s": 1e308'), "step_s: expected"),
    ],
)
def test_damaged_costs_of_the_cache_are_measured_again(
    package, profiles, tmp_path, change, reason
) -> None:
    path = environment().cached_profile_path(package)
    save_profile(profile_of(package), path)
    whole = path.read_text()
    assert change(whole) != whole
    path.write_text(change(whole))
    said: list[str] = []
    train_within(package, tmp_path / "run", budget=HOUR, report=said.append)
    assert profiles == [["k100", "k050"]]
    first = next(text for text in said if "measured again" in text)
    assert first.startswith("the cached costs cannot be used, and are measured again: ")
    assert reason in first
    assert "\n" not in first
    train_within(package, tmp_path / "next", budget=HOUR)  # the cache is whole again
    assert len(profiles) == 1


def no_folder(at: Path) -> Path:
    at.write_text("a file")
    return at


def null(at: Path) -> Path:
    return Path("/dev/null")


def no_space(at: Path) -> Path:
    return Path("/proc/self")  # nobody can create files there, not even root


@pytest.mark.parametrize("make", [no_folder, null, no_space])
def test_a_run_goes_on_without_a_cache(
    package, profiles, tmp_path, monkeypatch, caplog, make
) -> None:
    folder = make(tmp_path / "cache")
    monkeypatch.setenv("EDGE_TRAIN_CACHE", str(folder))
    cache._unwritable.clear()
    with caplog.at_level(logging.WARNING):
        *_, finished = train_within(package, tmp_path / "run", budget=HOUR)
    assert isinstance(finished, events.Finished)
    assert profiles == [["k100", "k050"]]
    (said,) = [message for message in caplog.messages if "EDGE_TRAIN_CACHE" in message]
    assert said.startswith(f"measured costs are not kept: {folder} cannot be written (")
    assert said.endswith("Set EDGE_TRAIN_CACHE to a folder that can")


KEPT = {
    "step_s": 0.5, "step_s_low": 0.4, "step_s_high": 1.1, "step_j": 5.0, "power_w": 10.0,
    "peak_bytes": 20_000, "baseline_bytes": 1000, "startup_s": 1.5, "switch_s": 0.25,
    "last_step_s": 5.0,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"step_s": 1e308}, "measurement.step_s: expected a number in"),
        ({"step_s_low": 1.2}, "step_s_low: 1.2 is above step_s_high, 1.1"),
        ({"peak_bytes": 1}, "peak_bytes: 1 is less than the state of the package"),
    ],
)
def test_damaged_measurements_of_the_cache_are_named(
    tmp_path, monkeypatch, caplog, change, reason
) -> None:
    processes, package = prepare(tmp_path, monkeypatch), write_package(tmp_path / "package")
    kept = environment().cached_profile_path(package).with_suffix("") / "k050-1.json"
    kept.parent.mkdir(parents=True)
    table = {"end_s": 1.0, "end_j": None, "measurement": KEPT | change}
    kept.write_text(json.dumps(table))
    assert main(["profile", str(package.path)]) == 0
    assert [job["rung"] for job in processes.jobs].count("k050") == 3
    (said,) = caplog.messages
    assert said.startswith("k050 is measured again: what was kept is damaged (")
    assert reason in said


def test_profile_goes_on_without_a_cache(tmp_path, monkeypatch, capsys, caplog) -> None:
    prepare(tmp_path, monkeypatch)
    package = write_package(tmp_path / "package")
    monkeypatch.setenv("EDGE_TRAIN_CACHE", "/dev/null")
    cache._unwritable.clear()
    assert main(["profile", str(package.path)]) == 0
    printed = capsys.readouterr().out
    assert "k050" in printed
    assert "profile: " not in printed
    assert len(caplog.messages) == 1
    assert "/dev/null cannot be written (File exists). Set EDGE_TRAIN_C" in caplog.messages[0]
    assert main(["plan", str(package.path), "--images", "40", "--time", "1h"]) == 4
    path = tmp_path / "mine.json"
    assert main(["profile", str(package.path), "-o", str(path)]) == 0
    assert f"profile: {path}" in capsys.readouterr().out
