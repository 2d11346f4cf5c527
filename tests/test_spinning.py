"""The runtime's threads spin only where nothing else needs the processors."""

import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from test_sensors_counters import Clock

from edge_runtime.device import BackgroundLoad, load
from edge_runtime.engines import create_engine, spinning
from edge_runtime.engines.spinning import SpinPolicy
from edge_runtime.errors import EngineError
from edge_runtime.package import open_package
from edge_runtime.package.curves import hyper_parameters
from edge_runtime.selftest import PACKAGE, example_batch

TICKS = os.sysconf("SC_CLK_TCK")


class Machine:
    """A /proc/stat of processors that programs have used, and the times of this process."""

    def __init__(self, root: Path, monkeypatch, processors: int = 2) -> None:
        self.root, self.processors, self.clock = root, processors, Clock()
        self.process_s, self.threads_s = 0.0, {}
        (root / "proc").mkdir()
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(processors)))
        monkeypatch.setattr(time, "process_time", lambda: self.process_s)
        monkeypatch.setattr(load, "_python_threads_s", lambda: dict(self.threads_s))
        self.use(0.0)

    def use(self, all_s: float) -> None:
        """All programs together have used that much, part of it stolen by the host."""
        ticks = round(all_s * TICKS)
        rows = [f"cpu  {ticks} 0 0 99 0 0 0 0 0 0", f"cpu0 {ticks // 2} 0 0 9 9 0 0 0 0 0"]
        rows += [f"cpu1 0 0 0 9 9 0 0 {ticks - ticks // 2} 0 0", "intr 1 2 3"]
        (self.root / "proc/stat").write_text("\n".join(rows) + "\n")


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


def test_time_of_other_programs_is_other_work(machine) -> None:
    other = BackgroundLoad(machine.root, machine.clock)
    machine.clock.now_s += 10.0
    machine.process_s = 12.0
    machine.use(17.0)
    assert other.processors() == pytest.approx(0.5)
    machine.clock.now_s += 2.0
    assert other.processors() == 0.0  # since the last call


def test_own_python_threads_are_other_work(machine) -> None:
    """Decoding needs processors as other programs do; the runtime's threads are the step."""
    machine.threads_s = {7: 1.0}
    other = BackgroundLoad(machine.root, machine.clock)
    machine.clock.now_s += 10.0
    machine.process_s, machine.threads_s = 16.0, {7: 5.0, 8: 2.0}
    machine.use(16.0)
    assert other.processors() == pytest.approx(0.6)


def test_unknown_without_counters_of_each_processor(machine) -> None:
    machine.processors = 2
    other = BackgroundLoad(machine.root, machine.clock)
    (machine.root / "proc/stat").write_text("cpu  5 0 0 9 0 0 0 0 0 0\n")
    machine.clock.now_s += 1.0
    assert other.processors() is None
    (machine.root / "proc/stat").unlink()
    assert other.processors() is None


def test_a_thread_that_ends_does_not_count_backwards(machine) -> None:
    machine.threads_s = {7: 100.0}
    other = BackgroundLoad(machine.root, machine.clock)
    machine.clock.now_s += 1.0
    machine.threads_s = {}
    assert other.processors() == 0.0


def test_real_counters_show_a_busy_program_and_a_busy_thread() -> None:
    code = "while True: pass"
    with subprocess.Popen([sys.executable, "-c", code]) as program:
        other = BackgroundLoad()
        time.sleep(1.0)
        beside_program = other.processors()
        program.kill()
    until_s = time.monotonic() + 1.0

    def work() -> None:
        while time.monotonic() < until_s:
            pass

    thread = threading.Thread(target=work)
    thread.start()
    before = load._python_threads_s()
    time.sleep(0.5)
    after = load._python_threads_s()
    thread.join()
    # It shares the processors with whatever else runs now.
    assert beside_program is not None
    assert beside_program > 0.1
    assert after[thread.native_id] - before[thread.native_id] > 0.05


class Other:
    """Measures what it is told."""

    def __init__(self) -> None:
        self.now: float | None = 0.0
        self.calls = 0

    def processors(self) -> float | None:
        self.calls += 1
        return self.now


@pytest.fixture
def rule(monkeypatch):
    """The rule, what it measures, and its clock, without a quota."""
    monkeypatch.setattr(spinning, "usable_cpus", lambda: len(os.sched_getaffinity(0)))
    other, clock = Other(), Clock()
    return SpinPolicy(other, clock), other, clock


def decided(rule, processors: float | None, for_s: float) -> bool:
    """What the rule says after that time of other work, asked before each step."""
    spins, other, clock = rule
    other.now = processors
    for _ in range(round(for_s / 0.25)):
        clock.now_s += 0.25
        spins.is_allowed()
    return spins.is_allowed()


def test_threads_spin_on_a_quiet_machine(rule) -> None:
    assert rule[0].is_allowed()
    assert decided(rule, 0.2, for_s=60)


@pytest.mark.parametrize("processors", [0.5, 1.0, 7.0])
def test_threads_do_not_spin_beside_other_work(rule, processors) -> None:
    assert not decided(rule, processors, for_s=2.5)


def test_the_first_step_knows_what_runs_already(rule) -> None:
    assert not decided(rule, 1.0, for_s=0.5)


def test_threads_spin_again_after_half_a_minute_without_other_work(rule) -> None:
    decided(rule, 1.0, for_s=4)
    assert not decided(rule, 0.0, for_s=28)
    assert decided(rule, 0.0, for_s=4)


def test_work_that_comes_and_goes_does_not_reload_the_graph_each_time(rule) -> None:
    decisions = [decided(rule, 1.0 if turn % 2 else 0.0, for_s=4) for turn in range(1, 20)]
    assert decisions == [False] * 19


def test_what_cannot_be_measured_changes_nothing(rule) -> None:
    assert decided(rule, None, for_s=10)
    assert not decided(rule, 1.0, for_s=4)
    assert not decided(rule, None, for_s=100)


@pytest.mark.parametrize("engine", ["ort", "ort-training"])
def test_the_time_before_a_run_is_not_judged(monkeypatch, engine) -> None:
    """Rungs are measured after the engine was created: that is other work, but not now."""
    made = []
    home = f"edge_runtime.engines.{engine.replace('-', '_')}"
    package = open_package(PACKAGE)
    try:
        created = create_engine(engine, threads=1)
    except EngineError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(f"{home}.SpinPolicy", lambda: made.append(1))
    with created:
        assert not made
        created.open(package, package.initial_state())
    assert made == [1]


def test_it_measures_every_two_seconds_only(rule) -> None:
    decided(rule, 0.0, for_s=20)
    assert rule[1].calls == 10


def test_under_a_quota_threads_never_spin(monkeypatch) -> None:
    """They would use it up: 1.5 of 2 processors."""
    monkeypatch.setattr(spinning, "usable_cpus", lambda: len(os.sched_getaffinity(0)) - 0.5)
    other, clock = Other(), Clock()
    assert not decided((SpinPolicy(other, clock), other, clock), 0.0, for_s=100)


def test_a_change_reloads_the_graphs_and_keeps_the_result(monkeypatch) -> None:
    """The step that loads them says so; the numbers do not depend on how threads wait."""
    package = open_package(PACKAGE)
    rung = package.manifest.rungs[0]
    batch = example_batch(package, rung)
    hyper = hyper_parameters(
        package.manifest.hyper_parameters, 1, steps_per_epoch=1, total_steps=1
    )
    turns = [True, True, False, False, True]

    def losses(allowed: list[bool]) -> tuple[list[float], list[bool]]:
        try:
            engine = create_engine("ort", threads=2)
        except EngineError as error:
            pytest.skip(str(error))
        coming = iter(allowed)
        monkeypatch.setattr(SpinPolicy, "is_allowed", lambda _: next(coming))
        with engine:
            engine.open(package, package.initial_state())
            results = [engine.step(rung.id, batch, hyper) for _ in allowed]
        return [each.metrics["loss"] for each in results], [each.loaded for each in results]

    changing, loaded = losses(turns)
    assert loaded == [True, False, True, False, True]
    assert losses([True] * 5) == (changing, [True, False, False, False, False])
