"""Cost profiles: their file, where they are valid, and values computed from them."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from simulated_board import LADDER, rung_cost

from edge_runtime.errors import ConfigError, DeviceError, RecordsError
from edge_runtime.facts import CostProfile
from edge_runtime.planning import overhead_of
from edge_runtime.profiling import (
    EnvironmentKey,
    cached_profile_path,
    check_fits,
    key_of,
    load_profile,
    save_profile,
)
from edge_runtime.profiling.cache import check_sensor_fits
from edge_runtime.schema import unstructure
from edge_runtime.storage import cache_folder

PROFILE = CostProfile(
    format=1,
    created_at="2030-01-01T00:00:00+00:00",
    package_digest="ab" * 32,
    board="generic-x86_64",
    power_mode=None,
    engine="ort",
    runtime="onnxruntime 1.31.1",
    threads=2,
    sensor="replay",
    energy_is_estimate=False,
    idle_w=3.0,
    baseline_bytes=1 << 26,
    startup_s=1.5,
    switch_s=0.25,
    checkpoint_s=0.5,
    checkpoint_j=4.5,
    rungs=LADDER,
)
HERE = EnvironmentKey(
    board="generic-x86_64",
    power_mode=None,
    engine="ort",
    runtime="onnxruntime 1.31.1",
    device="cpu",
    gpu=None,
    threads=2,
    cpus=None,
)


def test_a_gpus_own_memory_is_shown_and_reserved_for() -> None:
    cost = replace(LADDER[0], card_bytes=1000 << 20)
    assert cost.text(is_estimate=False).endswith(
        "1000.0 MiB of the GPU's own  2.00 J per step"
    )
    assert cost.need_card_bytes == 1050 << 20
    assert LADDER[0].need_card_bytes is None


def unmeasured(rung: str, flops: int):
    empty = rung_cost(rung, flops // 1000, 1.0, None, flops=flops, source="unmeasured")
    nothing = {"step_s": None, "step_s_low": None, "step_s_high": None, "peak_bytes": None}
    return replace(empty, **nothing, predicted_peak_bytes=1000)


# The file


@pytest.mark.parametrize(
    "profile",
    [
        PROFILE,
        replace(PROFILE, power_mode="15W", threads=None, sensor=None, idle_w=None),
        replace(PROFILE, rungs=(*LADDER, unmeasured("k090", 350_000))),
    ],
)
def test_a_profile_is_read_as_it_was_written(tmp_path, profile) -> None:
    save_profile(profile, tmp_path / "profile.json")
    assert load_profile(tmp_path / "profile.json") == profile


def changed(tmp_path: Path, change) -> Path:
    table = unstructure(PROFILE)
    change(table)
    path = tmp_path / "profile.json"
    path.write_text(json.dumps(table))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update(format=2), r"format 2 is unknown; this edge-train reads format 1"),
        (lambda t: t.pop("format"), r"format None is unknown"),
        (lambda t: t.pop("idle_w"), r"missing key 'idle_w'"),
        (lambda t: t.update(colour="red"), r"unknown key colour"),
        (lambda t: t.update(startup_s="1.5"), r"startup_s: expected a number, got '1.5'"),
        (
            lambda t: t.update(startup_s=-1.5),
            r"startup_s: expected a number in \[0, 86400\], got -1.5",
        ),
        (lambda t: t.update(idle_w=math.nan), r"cannot be read \(NaN is not a JSON number\)"),
        (lambda t: t.update(rungs=[]), r"rungs: the list is empty"),
        (lambda t: t["rungs"].append(t["rungs"][0]), r"rungs: k100 appears twice"),
        (
            lambda t: t["rungs"][1].update(source="guessed"),
            r"rungs\[1\].source: 'guessed' is unknown; known are measured, interpolated",
        ),
        (
            lambda t: t["rungs"][1].update(step_s=None),
            r"rungs\[1\].step_s: a measured rung needs a time",
        ),
        (
            lambda t: t["rungs"][1].update(step_s=2e5),
            r"rungs\[1\].step_s: expected a number in \[1e-06, 86400\], got 200000",
        ),
        (
            lambda t: t["rungs"][1].update(power_w=50.0),
            r"rungs\[1\].step_j: 1.55 J in 0.155 s are 10 W, but power_w is 50",
        ),
        (
            lambda t: t["rungs"][1].update(step_j=0.0),
            r"rungs\[1\].step_j, power_w: 0 is not plausible while a board trains",
        ),
        (lambda t: t.update(idle_w=1e5), r"idle_w: expected a number in \[0, 10000\], got"),
        *[
            (lambda t, v=v: t["rungs"][1].update(step_s=v), r"rungs\[1\].step_s: expected")
            for v in (1e308, 5e-324, -5)
        ],
        (
            lambda t: t["rungs"][1].update(step_s_low=0.2),
            r"rungs\[1\].step_s_low: 0.2 is above step_s_high, 0.155",
        ),
        (
            lambda t: t["rungs"][1].update(step_s_low=0.5, step_s_high=0.6),
            r"rungs\[1\].step_s: 0.155 is outside of its interval, 0.5 to 0.6",
        ),
        (
            lambda t: t.update(baseline_bytes=10**30),
            r"baseline_bytes: expected an integer of 64",
        ),
        (
            lambda t: t.update(calibration={"VDD_IN": {"gain": 1e308}}),
            r"calibration\['VDD_IN'\]\['gain'\]: expected a number in",
        ),
        (
            lambda t: t["rungs"][0].update(step_j=-1.0) or t["rungs"][1].update(flops=-2),
            r"2 problem\(s\)\n  rungs\[0\].step_j: expected .*\n  rungs\[1\].flops: expected",
        ),
    ],
)
def test_a_damaged_profile_is_refused(tmp_path, change, message) -> None:
    with pytest.raises(RecordsError, match=rf"(?s)profile\.json.*{message}"):
        load_profile(changed(tmp_path, change))


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[1]", b"[" * 100_000])
def test_a_file_without_a_profile_is_refused(tmp_path, content) -> None:
    path = tmp_path / "profile.json"
    path.write_bytes(content)
    message = r"profile\.json(:| cannot be read) .*edge-train profile PKG"
    with pytest.raises(RecordsError, match=message):
        load_profile(path)


def test_a_missing_profile_names_the_command(tmp_path) -> None:
    path = tmp_path / "none.json"
    with pytest.raises(
        DeviceError, match=rf"cost profile {path} does not exist. .*edge-train prof"
    ):
        load_profile(path)


def test_a_folder_is_not_a_profile(tmp_path) -> None:
    with pytest.raises(RecordsError, match=r"cannot be read \(Is a directory\)"):
        load_profile(tmp_path)


# Where it is valid


def test_a_profile_fits_where_it_was_measured() -> None:
    assert key_of(PROFILE) == HERE
    check_fits(PROFILE, "ab" * 32, HERE)


@pytest.mark.parametrize(
    ("different", "message"),
    [
        ({"board": "jetson"}, "board: measured with generic-x86_64, here jetson"),
        ({"power_mode": "15W"}, "power mode: measured with none, here 15W"),
        ({"engine": "ort-training"}, "engine: measured with ort, here ort-training"),
        ({"runtime": "onnxruntime 1.20"}, "runtime: measured with onnxruntime 1.31.1, here"),
        ({"device": "cuda"}, "device: measured with cpu, here cuda"),
        ({"gpu": "Orin (NVIDIA 540)"}, "GPU and driver: measured with none, here Orin"),
        ({"threads": None}, "threads: measured with 2, here all processors"),
    ],
)
def test_another_environment_is_refused_by_name(different, message) -> None:
    with pytest.raises(DeviceError, match=rf"is not valid here:\n  {message}") as caught:
        check_fits(PROFILE, "ab" * 32, HERE._replace(**different))
    assert str(caught.value).count("measured with") == 1


def test_a_profile_of_another_package_is_refused() -> None:
    with pytest.raises(
        DeviceError, match="package: measured with abababababab, here cdcdcdcdcdcd"
    ):
        check_fits(PROFILE, "cd" * 32, HERE)


CALIBRATED = {"VDD_IN": {"gain": 1.02, "offset_w": 0.0}}


def test_other_processors_or_rungs_are_refused() -> None:
    profile, two = replace(PROFILE, cpus=2.0), HERE._replace(cpus=2.0)
    rungs = ["k100", "k075", "k050", "k025", "more"]
    check_fits(profile, "ab" * 32, two, rungs=rungs)
    check_fits(PROFILE, "ab" * 32, two)  # of an older profile they are unknown
    with pytest.raises(DeviceError, match=r"\n  processors: measured with 2, here 0.5\n"):
        check_fits(profile, "ab" * 32, HERE._replace(cpus=0.5))
    message = r"\n  rungs: measured with k075, k025, here k100, k050\n"
    with pytest.raises(DeviceError, match=message):
        check_fits(profile, "ab" * 32, two, rungs=["k100", "k050"])


@pytest.mark.parametrize(
    ("profile", "sensor", "calibration", "message"),
    [
        (PROFILE, "estimate", {}, "power sensor: measured with replay, here estimate"),
        (PROFILE, None, {}, "power sensor: measured with replay, here none"),
        (
            replace(PROFILE, sensor=None),
            "replay",
            {},
            "power sensor: measured with none, here replay",
        ),
        (
            replace(PROFILE, calibration=CALIBRATED),
            "replay",
            {},
            r"calibration: measured with VDD_IN \(gain 1.02, offset_w 0\), here none",
        ),
        (
            replace(PROFILE, calibration={}),
            "replay",
            CALIBRATED,
            r"calibration: measured with none, here VDD_IN \(gain 1.02, offset_w 0\)",
        ),
    ],
)
def test_joules_of_another_sensor_are_refused(profile, sensor, calibration, message) -> None:
    with pytest.raises(DeviceError, match=rf"is not valid here:\n  {message}\n"):
        check_sensor_fits(profile, sensor=sensor, calibration=calibration)
    measured = profile.calibration or {}
    check_sensor_fits(profile, sensor=profile.sensor, calibration=measured)


def test_every_difference_is_named() -> None:
    with pytest.raises(
        DeviceError, match=r"(?s)board: .*engine: .*threads: .*edge-train prof"
    ):
        check_fits(PROFILE, "ab" * 32, HERE._replace(board="b", engine="e", threads=9))


def path(digest="ab" * 32, **changes):
    key = EnvironmentKey(
        board="b",
        power_mode=None,
        engine="ort",
        runtime="onnxruntime 1",
        device="cpu",
        gpu=None,
        threads=None,
        cpus=2.0,
    )
    variables = {"EDGE_TRAIN_CACHE": "/cache"}
    return cached_profile_path(digest, key._replace(**changes), variables)


def test_every_environment_has_a_separate_profile() -> None:
    others = [
        path(digest="cd" * 32),
        path(board="c"),
        path(power_mode="15W"),
        path(power_mode="MODE 15W"),
        path(power_mode="MODE_15W"),
        path(runtime="onnxruntime 2"),
        path(engine="ort-training"),
        path(device="cuda"),
        path(device="cuda", gpu="Orin (NVIDIA 540)"),
        path(device="cuda", gpu="Orin (NVIDIA 550)"),
        path(device="cuda", gpu=255 * "x"),  # longer than the name of a file
        path(threads=2),
        path(cpus=1.0),
        path(cpus=0.5),
        path(cpus=None),
    ]
    assert len({path(), *others}) == 16
    assert max(len(each.name) for each in others) < 255
    name = "abababababab-b-ort-onnxruntime-1-cpu-all-of-2-dafaa69e.json"
    assert path().name == name  # files of earlier versions are still read
    assert path().parent == Path("/cache/profiles")
    assert path(power_mode="MAXN/2").name.startswith(
        "abababababab-b-MAXN-2-ort-onnxruntime-1-cpu-all-"
    )


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"EDGE_TRAIN_CACHE": "/mine", "XDG_CACHE_HOME": "/xdg"}, Path("/mine")),
        ({"EDGE_TRAIN_CACHE": "", "XDG_CACHE_HOME": "/xdg"}, Path("/xdg/edge-train")),
        ({"XDG_CACHE_HOME": "relative"}, Path.home() / ".cache/edge-train"),
        ({}, Path.home() / ".cache/edge-train"),
    ],
)
def test_the_cache_folder_can_be_set(environment, folder) -> None:
    assert cache_folder(environment) == folder


def test_without_a_home_the_variable_is_named(monkeypatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ConfigError, match="Set EDGE_TRAIN_CACHE to a folder"):
        cache_folder({})


# Values computed from it


def test_memory_has_a_margin() -> None:
    cost = rung_cost("k100", 1, 1.0, None, peak_bytes=1000, predicted_peak_bytes=5000)
    assert (cost.likely_peak_bytes, cost.need_bytes) == (1000, 1050)
    predicted = replace(cost, peak_bytes=None)
    assert (predicted.likely_peak_bytes, predicted.need_bytes) == (5000, 5500)
    unknown = replace(predicted, predicted_peak_bytes=None)
    assert (unknown.likely_peak_bytes, unknown.need_bytes) == (None, None)


def test_overhead_uses_the_highest_power_for_unmeasured_energy() -> None:
    overhead = overhead_of(PROFILE)
    assert (overhead.startup_s, overhead.startup_j) == (1.5, 15.0)  # at 10 W
    assert (overhead.switch_s, overhead.switch_j) == (0.25, 2.5)
    assert (overhead.checkpoint_s, overhead.checkpoint_j) == (0.5, 4.5)  # measured
    assert overhead_of(replace(PROFILE, checkpoint_j=None)).checkpoint_j == 5.0
    assert (overhead.fixed_s, overhead.fixed_j) == (2.0, 19.5)


def test_a_late_start_is_part_of_the_overhead() -> None:
    late = overhead_of(PROFILE, late_s=10.0, late_j=60.0)
    assert (late.startup_s, late.startup_j) == (11.5, 75.0)
    unknown = overhead_of(PROFILE, late_s=10.0, late_j=None)
    assert unknown.startup_j == 115.0  # at 10 W


def test_overhead_without_a_sensor_is_unknown() -> None:
    dark = tuple(replace(cost, step_j=None, power_w=None) for cost in LADDER)
    overhead = overhead_of(replace(PROFILE, rungs=dark, checkpoint_j=None, idle_w=None))
    joules = (overhead.startup_j, overhead.switch_j, overhead.checkpoint_j, overhead.fixed_j)
    assert joules == (None,) * 4


def test_what_no_board_can_have_is_never_stored(tmp_path) -> None:
    dark, path = replace(LADDER[1], step_j=0.0), tmp_path / "profile.json"
    with pytest.raises(
        DeviceError, match=r"not kept: 1 problem\(s\)\n  rungs\[1\].step_j, power_w: 0 is not"
    ):
        save_profile(replace(PROFILE, rungs=(LADDER[0], dark)), path)
    assert not path.exists()
