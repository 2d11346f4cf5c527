"""A package's cost profile: every rung in a separate process, however that ends."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from measuring_fakes import BASELINE_BYTES, POWER_W, constant_sensor, environment, prepare
from training_fakes import FakeEngine, write_package

from edge_runtime import profiling, selftest
from edge_runtime.device import Meter, ReplaySensor, usable_cpus
from edge_runtime.device.plausibility import SensorKind
from edge_runtime.engines import ENGINES, EngineEntry
from edge_runtime.errors import EngineError, StoppedError, StorageError
from edge_runtime.package import open_package
from edge_runtime.planning.costs import predicted_peak_bytes
from edge_runtime.profiling import EnvironmentKey, cached_profile_path, profile_package

TESTS = Path(__file__).parent


@pytest.fixture
def processes(tmp_path, monkeypatch):
    return prepare(tmp_path, monkeypatch)


def profile(package, sensor=None, **changes):
    with Meter(sensor) as meter:
        return profile_package(package, environment(), meter, **changes)


def cost(cost_profile, rung: str):
    return next(cost for cost in cost_profile.rungs if cost.rung == rung)


def leftovers(tmp_path) -> list[Path]:
    """Files in the cache."""
    return [path for path in (tmp_path / "cache").rglob("*") if not path.is_dir()] + [
        *(tmp_path / "cache").glob(".profile-*")
    ]


def test_every_rung_is_measured_up_down_and_up_again(package, processes, tmp_path) -> None:
    reports = []
    cost_profile = profile(package, max_s=7.0, report=reports.append)
    order = ["k050", "k100", "k100", "k050", "k050", "k100"]
    assert [job["rung"] for job in processes.jobs] == order
    assert {job["max_s"] for job in processes.jobs} == {7.0 / 3}
    assert [cost.rung for cost in reports] == order
    assert [cost.rung for cost in cost_profile.rungs] == [
        "k100",
        "k050",
    ]  # as in the manifest
    assert [(cost.step_s, cost.step_j, cost.source) for cost in cost_profile.rungs] == [
        (1.0, 10.0, "measured"),
        (0.5, 5.0, "measured"),
    ]
    # 2 views of 4 pictures, 2 blocks of 5 or of 3 tokens
    assert [cost.token_blocks for cost in cost_profile.rungs] == [80, 48]
    assert (cost_profile.startup_s, cost_profile.baseline_bytes) == (2.5, BASELINE_BYTES)
    assert (cost_profile.package_digest, cost_profile.engine) == (package.digest, "ort")
    assert leftovers(tmp_path) == []


def test_only_rungs_that_the_engine_can_train_are_measured(
    package, processes, monkeypatch
) -> None:
    monkeypatch.setattr(
        profiling.profile, "create_engine", lambda *_, **__: FakeEngine(unsupported=["k100"])
    )
    assert [cost.rung for cost in profile(package).rungs] == ["k050"]
    assert [job["rung"] for job in processes.jobs] == ["k050"] * 3


def test_only_given_rungs_are_measured(package, processes) -> None:
    found = profile(package, rungs=[package.rung("k100")])
    assert [cost.rung for cost in found.rungs] == ["k100"]


def test_times_are_smoothed_among_rungs_of_one_kind(package, processes, monkeypatch) -> None:
    """A line over FLOPs is for rungs that train the same in equal micro-batches."""
    first, second = package.manifest.rungs
    rungs = (
        first,
        second,
        replace(first, id="m2", micro_batch=2),
        replace(second, id="m2-small", micro_batch=2),
        replace(first, id="last", trained="last-1"),
    )
    smoothed = []

    def smooth(costs):
        smoothed.append([cost.rung for cost in costs])
        return [replace(cost, step_s=float(len(smoothed))) for cost in costs]

    monkeypatch.setattr(profiling.profile, "smooth", smooth)
    manifest = replace(package.manifest, rungs=rungs)
    found = profile(replace(package, manifest=manifest))
    kinds = {frozenset(names) for names in smoothed}
    assert kinds == {
        frozenset({"k100", "k050"}),
        frozenset({"m2", "m2-small"}),
        frozenset({"last"}),
    }
    assert [cost.rung for cost in found.rungs] == [rung.id for rung in rungs]
    assert cost(found, "m2").step_s == cost(found, "m2-small").step_s


def test_the_median_of_three_counts(package, processes) -> None:
    """The second of each is disturbed, in the third the board is a little slower."""
    second = "(n := sum(1 for _ in open(LOG))) in (3, 4)"
    costs = f"measured(step_s=2.0 if {second} else 0.5 + n / 100, step_s_high=2.0 + n, "
    costs += "peak_bytes=100 - n, step_j=float(n), card_bytes=(50 + n) if n > 1 else None)"
    processes.do(k050=costs, k100=costs)
    cost_profile = profile(package)
    low, high = cost(cost_profile, "k050"), cost(cost_profile, "k100")
    assert low.step_s == pytest.approx(0.55)  # of number 1, 4 and 5
    assert high.step_s == pytest.approx(2 * 0.56)  # of number 2, 3 and 6
    assert (low.step_s_high, low.peak_bytes, low.step_j) == (7.0, 99, 4.0)
    assert (low.card_bytes, high.card_bytes) == (55, 56)  # as far as they are known


def test_a_rung_that_is_killed_the_second_time_does_not_fit(package, processes) -> None:
    once = "sum(1 for _ in open(LOG)) == 2"
    processes.do(k100=f"measured() if {once} else os.kill(os.getpid(), signal.SIGKILL)")
    cost_profile = profile(package)
    assert (cost(cost_profile, "k100").source, cost(cost_profile, "k100").step_s) == (
        "does_not_fit",
        None,
    )
    assert cost(cost_profile, "k050").source == "measured"


def test_a_rung_is_predicted_with_the_baseline_of_the_first_one(package, processes) -> None:
    cost_profile = profile(package)
    rung = package.rung("k100")
    want = predicted_peak_bytes(package.manifest, rung, BASELINE_BYTES)
    assert cost(cost_profile, "k100").predicted_peak_bytes == want
    processes.do()
    cost_profile = profile(package, memory_bytes=want - 1)
    assert [job["rung"] for job in processes.jobs] == ["k050"] * 3
    left_out = cost(cost_profile, "k100")
    assert (left_out.source, left_out.step_s) == ("unmeasured", None)
    assert left_out.predicted_peak_bytes == want


@pytest.mark.parametrize(("killed", "other"), [("k050", "k100"), ("k100", "k050")])
def test_a_killed_process_marks_its_rung_and_the_others_continue(
    package, processes, killed, other
) -> None:
    processes.do(**{killed: "os.kill(os.getpid(), signal.SIGKILL)"})
    cost_profile = profile(package)
    assert cost(cost_profile, killed).source == "does_not_fit"
    assert cost(cost_profile, killed).step_s is None
    assert cost(cost_profile, other).source == "measured"


def test_a_package_without_a_fitting_rung_is_refused(package, processes, tmp_path) -> None:
    dead = "os.kill(os.getpid(), signal.SIGKILL)"
    processes.do(k100=dead, k050=dead)
    message = r"no rung of .*package fits into the memory of this board; the smallest, k050"
    with pytest.raises(EngineError, match=message):
        profile(package)
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("fail('the graph is wrong', 5)", "the graph is wrong$"),
        ("raise RuntimeError('unforeseen')", "RuntimeError: unforeseen$"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", r"SIGSEGV ended its process\.$"),
        ("sys.exit(3)", "its process ended with 3$"),
        ("measured(step_s_low='soon')", r"rung k050: 1 problem\(s\)"),
    ],
)
def test_another_failure_is_reported_with_its_reason(package, processes, line, reason) -> None:
    processes.do(k050=line)
    where = "" if "problem" in reason else r"measuring rung k050 of .*package failed: (.|\n)*"
    with pytest.raises(EngineError, match=where + reason):
        profile(package)


def test_measuring_without_room_on_the_disk_says_so(package, processes) -> None:
    """The process could not write its reason, either."""
    processes.do(k050="open(f'{scratch}/error.txt', 'w').close(); sys.exit(9)")
    message = r"rung k050 of .* cannot be written to .*/cache\. Free some space there, or set"
    with pytest.raises(StorageError, match=message):
        profile(package)


def test_the_end_of_a_run_lasts_until_its_process_has_ended(package, processes) -> None:
    processes.do(k050="measured(); time.sleep(0.5)", k100="measured(); time.sleep(0.1)")
    cost_profile = profile(package, constant_sensor())
    assert 0.5 <= cost_profile.checkpoint_s < 30
    assert cost_profile.checkpoint_j == pytest.approx(POWER_W * cost_profile.checkpoint_s)


def test_idle_power_is_measured_first(package, processes) -> None:
    cost_profile = profile(package, constant_sensor())
    assert cost_profile.idle_w == pytest.approx(POWER_W)
    assert (cost_profile.sensor, cost_profile.energy_is_estimate) == ("replay", False)
    cost_profile = profile(package)
    assert (cost_profile.idle_w, cost_profile.sensor, cost_profile.checkpoint_j) == (
        None,
        None,
        None,
    )


class Frozen(ReplaySensor):
    """Reads the same for longer than its kind can."""

    kind = SensorKind(frozen_s=0.05)


@pytest.mark.parametrize(
    "sensor",
    [
        ReplaySensor([(0.0, {"ALL": -10.0})], total=("ALL",)),
        ReplaySensor([(0.0, {"ALL": 0.0})], total=("ALL",)),
        Frozen([(0.0, {"ALL": 7.0})], total=("ALL",)),
    ],
    ids=["negative", "zero", "frozen"],
)
def test_joules_that_cannot_be_true_are_not_in_a_profile(package, processes, sensor) -> None:
    cost_profile = profile(package, sensor)
    assert [known.step_s for known in cost_profile.rungs] == [1.0, 0.5]
    joules = {known.step_j for known in cost_profile.rungs}
    watts = {known.power_w for known in cost_profile.rungs}
    assert joules | watts | {cost_profile.idle_w, cost_profile.checkpoint_j} == {None}


def test_stopping_ends_the_process_at_once(package, processes, tmp_path) -> None:
    processes.do(k050="time.sleep(1000)")
    message = "stopped while k050, the first rung, was measured; nothing is kept"
    with pytest.raises(StoppedError, match=message):
        profile(package, stop=processes.begun(1))
    assert processes.are_gone()
    assert leftovers(tmp_path) == []


def test_what_was_measured_before_an_interruption_is_kept(
    package, processes, tmp_path, caplog
) -> None:
    processes.do(k100="time.sleep(1000)")
    message = (
        r"stopped while k100 was measured\. Measured so far: k050\. The same command continues"
    )
    with pytest.raises(StoppedError, match=message):
        profile(package, stop=processes.begun(2))
    processes.do(k050="time.sleep(1000)")
    with pytest.raises(StoppedError, match=r"Measured so far: k050, k100\. "):
        profile(package, stop=processes.begun(3))  # two of k100, and the second of k050
    processes.do()
    cost_profile = profile(package)
    assert [job["rung"] for job in processes.jobs] == ["k050", "k050", "k100"]
    reports = ["k050", "k050", "k100"]  # by the second call, by the third
    assert caplog.messages == [
        f"{rung} was measured earlier; that is used" for rung in reports
    ]
    assert [cost.source for cost in cost_profile.rungs] == ["measured"] * 2
    assert leftovers(tmp_path) == []  # the next one measures everything
    processes.do()
    profile(package)
    assert len(processes.jobs) == 6


def test_what_another_version_kept_is_measured_again(package, processes) -> None:
    kept = environment().cached_profile_path(package).with_suffix("") / "k050-1.json"
    kept.parent.mkdir(parents=True)
    for content in (
        "{",
        "{}",
        '{"end_s": 1.0, "end_j": null, "measurement": {"step_s": 1.0}}',
    ):
        kept.write_text(content)
        processes.do(k100="fail('enough', 1)")
        with pytest.raises(EngineError, match="enough"):
            profile(package)
        assert [job["rung"] for job in processes.jobs] == ["k050", "k100"]


def test_a_profile_is_kept_by_its_environment(package, processes, tmp_path) -> None:
    here = environment()
    path = here.cached_profile_path(package)
    assert path == cached_profile_path(
        package.digest,
        EnvironmentKey(
            board=here.board.id,
            power_mode=here.power_mode,
            engine="ort",
            runtime="numpy",
            device="cpu",
            gpu=None,
            threads=None,
            cpus=usable_cpus(),
        ),
    )
    other = write_package(tmp_path / "other", seed=1)
    assert environment(threads=2).cached_profile_path(package) != path
    assert replace(here, device="cuda").cached_profile_path(package) != path
    assert replace(here, gpu="Orin (NVIDIA 540)").cached_profile_path(package) != path
    assert here.cached_profile_path(other) != path


def test_an_environment_has_the_runtime_of_its_engine_without_creating_it(monkeypatch) -> None:
    def create(**_):
        raise AssertionError("this may take a second and a device")

    entry = EngineEntry(create=create, runtime=lambda device: "tensors 2.0")
    monkeypatch.setitem(ENGINES, "tensors", entry)
    assert environment(engine="tensors").runtime == "tensors 2.0"
    assert environment(engine="ort").runtime.startswith("onnxruntime")


PARENT = """
import sys
from pathlib import Path
import pytest
from measuring_fakes import environment, prepare
from edge_runtime.device import Meter, ReplaySensor
from edge_runtime.device.plausibility import SensorKind
from edge_runtime.package import open_package
from edge_runtime.profiling import profile_package

folder = Path(sys.argv[1])
processes = prepare(folder, pytest.MonkeyPatch())
processes.do(k050='''
import threading
from pathlib import Path
from edge_runtime.profiling.worker import _end_with_parent
threading.Thread(target=_end_with_parent, args=[Path(scratch)], daemon=True).start()
print("ready", file=open(LOG + ".ready", "w"))
time.sleep(1000)
''')
with Meter(None) as meter:
    profile_package(open_package(folder / "package"), environment(), meter)
"""


def test_a_killed_parent_leaves_no_process_and_no_files(package, tmp_path) -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(tmp_path)],
        env={**os.environ, "PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
    )
    while not (tmp_path / "jobs.jsonl.ready").exists():
        assert parent.poll() is None
        time.sleep(0.02)
    pid = json.loads((tmp_path / "jobs.jsonl").read_text())["pid"]
    assert list((tmp_path / "cache").glob(".profile-*"))
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline_s = time.monotonic() + 30
    while is_running(pid) and time.monotonic() < deadline_s:
        time.sleep(0.02)
    assert not is_running(pid)
    assert leftovers(tmp_path) == []


def is_running(pid: int) -> bool:
    """Whether it is still running; a zombie is not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0]
    except FileNotFoundError:
        return False
    return state not in "ZX"


def test_a_real_rung_is_measured_by_a_real_process(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("EDGE_TRAIN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(profiling.profile, "_IDLE_S", 0.01)
    package = open_package(selftest.PACKAGE)
    with Meter(None) as meter:
        cost_profile = profile_package(
            package,
            environment(engine="ort", threads=1),
            meter,
            rungs=[package.rung("k050")],
            max_s=0.05,
        )
    assert {cost.rung: cost.source for cost in cost_profile.rungs} == {"k050": "measured"}
    measured = cost(cost_profile, "k050")
    assert 0 < measured.step_s_low <= measured.step_s <= measured.step_s_high
    assert 0 < cost_profile.baseline_bytes < measured.peak_bytes
    assert cost_profile.startup_s > 0
    assert cost_profile.checkpoint_s > 0
    assert re.fullmatch(r"onnxruntime.* \d+\.\d+\.\d+.*", cost_profile.runtime)
    assert leftovers(tmp_path) == []
