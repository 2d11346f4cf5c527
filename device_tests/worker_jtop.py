"""The scenarios of test_jtop.py on an emulated board with its jtop service; prints JSON."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from jtop import jtop

from device_tests.emulated_board.serve_jtop import GROUP_FILE, ROOT
from device_tests.emulated_board.tree import board_of, set_rails, set_temperature, write_board
from edge_runtime.device import (
    Meter,
    PowerSample,
    PowerSensor,
    SensorEvent,
    choose_sensor,
    load_board,
    open_sensor,
)
from edge_runtime.selftest import PACKAGE

LONGEST_S = 15.0


def rails() -> dict[str, Any]:
    """All readings of the board, before and after a change."""
    board, tree = load_board(None), board_of(ROOT)
    with Meter(open_jtop()) as meter:
        idle_mw = {rail.label: rail.idle_mw for rail in tree.rails}
        before = wait_for_rails(meter, idle_mw)
        set_temperature(ROOT, tree, 61.5, throttled=False)
        begin_s = time.monotonic()
        shown_mw = set_rails(ROOT, tree, {r.label: r.idle_mw + 5000 for r in tree.rails})
        wait_for_rails(meter, shown_mw)
        change_s = time.monotonic() - begin_s
        wait_for(lambda: getattr(meter.latest(), "temperature_c", None) == 61.5)
        after = wait_for_rails(meter, shown_mw)
    with jtop(interval=0.2) as client:
        client.ok()
        jtop_temperatures_c = [zone["temp"] for zone in client.temperature.values()]
    return {
        "board": board.id,
        "before_w": before.rails_w,
        "after_w": after.rails_w,
        "shown_w": {rail: mw / 1000 for rail, mw in shown_mw.items()},
        "total_w": after.total_w,
        "change_s": change_s,
        "jtop_temperatures_c": jtop_temperatures_c,
    }


def chosen(folder: str) -> dict[str, Any]:
    """The sensor of a container that can read the board's type, but not its power monitors."""
    write_board(Path(folder), board_of(ROOT).name, monitors=False)
    os.environ["EDGE_TRAIN_SYSFS"] = folder
    choice = choose_sensor(load_board(None))
    assert choice.sensor is not None
    choice.sensor.close()
    return {"sensor": choice.sensor.name, "refused": choice.refused}


def killed() -> dict[str, Any]:
    """The service is killed within a window, and starts again."""
    events: list[SensorEvent] = []
    board = load_board(None)
    with (
        Meter(open_jtop(), on_event=events.append) as meter,
        meter.window("whole") as window,
    ):
        time.sleep(2.0)
        before_j = meter.spent_j()
        kill_service()
        wait_for(lambda: [event.kind for event in events] == ["lost"])
        in_gap = meter.latest()
        set_rails(ROOT, board_of(ROOT), {"VDD_IN": 9000})
        wait_for(lambda: [event.kind for event in events] == ["lost", "back"])
        time.sleep(2.0)
        after_w = getattr(meter.latest(), "total_w", None)
    energy = window.energy
    return {
        "board": board.id,
        "events": [[event.kind, event.reason, event.gap_s] for event in events],
        "before_j": before_j,
        "gap_total_w": in_gap.total_w if in_gap else 0.0,
        "after_w": after_w,
        "gross_j": energy.gross_j,
        "duration_s": energy.duration_s,
        "gap_s": energy.gap_s,
    }


def killed_in_run(folder: str) -> dict[str, Any]:
    """The service is killed during `edge-train run`, and starts again."""
    tree, run = Path(folder) / "sys", Path(folder) / "run"
    write_board(tree, board_of(ROOT).name, monitors=False)
    words = [sys.executable, "-m", "edge_runtime.cli.main", "run", str(PACKAGE), "digits"]
    process = subprocess.Popen(
        [*words, "-o", str(run), "--epochs", "100000", "--json"],
        env={**os.environ, "EDGE_TRAIN_SYSFS": str(tree)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    events = (json.loads(line) for line in process.stdout)
    skip_to(events, "step")
    time.sleep(2.0)
    kill_service()
    lost, back = skip_to(events, "sensor_lost"), skip_to(events, "sensor_back")
    after = skip_to(events, "step")
    time.sleep(1.0)
    process.send_signal(signal.SIGTERM)
    skip_to(events, "interrupted")
    power = [json.loads(line) for line in (run / "power.jsonl").read_text().splitlines()]
    return {
        "code": process.wait(),
        "sensor": json.loads((run / "run.json").read_text())["sensor"],
        "lost": lost,
        "back": back,
        "step_after": after["step"],
        "times_s": [record["t_s"] for record in power if record["total_w"] is not None],
    }


def skip_to(events: Iterator[dict[str, Any]], kind: str) -> dict[str, Any]:
    """The next event of a kind."""
    return next(event for event in events if event["event"] == kind)


def open_jtop() -> PowerSensor:
    sensor = open_sensor(load_board(None), prefer="jtop")
    assert sensor is not None
    return sensor


def kill_service() -> None:
    os.killpg(int(GROUP_FILE.read_text()), signal.SIGKILL)


def wait_for_rails(meter: Meter, expected_mw: dict[str, float]) -> PowerSample:
    """The first sample with this power; one may be wrong if the thread was delayed."""
    samples: list[PowerSample] = []

    def has_expected_power() -> bool:
        sample = meter.latest()
        samples[:] = [sample] if sample and all(map(is_near, sample.rails_w.items())) else []
        return bool(samples)

    def is_near(rail: tuple[str, float | None]) -> bool:
        label, value_w = rail
        expected_w = expected_mw[label] / 1000
        return value_w is not None and math.isclose(value_w, expected_w, rel_tol=0.001)

    wait_for(has_expected_power)
    return samples[0]


def wait_for(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + LONGEST_S
    while not condition():
        if time.monotonic() > deadline_s:
            raise TimeoutError(condition)
        time.sleep(0.02)


if __name__ == "__main__":
    scenarios: dict[str, Callable[..., dict[str, Any]]]
    scenarios = {
        "rails": rails,
        "chosen": chosen,
        "killed": killed,
        "killed_in_run": killed_in_run,
    }
    print(json.dumps(scenarios[sys.argv[1]](*sys.argv[2:])))
