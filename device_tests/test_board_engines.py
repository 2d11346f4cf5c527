"""Every engine and device of a real board trains the package inside edge-train.

`pytest device_tests --board NAME`. Packages of another machine are trained, too, if
EDGE_TRAIN_TEST_PACKAGES names the folder that `python tests/handed_over.py` wrote there.
"""

import os
import re
import statistics
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pytest

from device_tests.real_board.results import ROOT, RecordProperty, not_run
from edge_runtime.engines import ENGINES, create_engine
from edge_runtime.engines.devices import installed_devices
from edge_runtime.facts.devices import CPU
from edge_runtime.package.curves import hyper_parameters
from edge_runtime.selftest import example_batch, open_selftest, read_expected

PACKAGES = "EDGE_TRAIN_TEST_PACKAGES"
STEPS = 20
# Devices add up in another order, and every step builds on the one before.
LOSS_TOLERANCE = 1e-3


@pytest.mark.parametrize("name", ENGINES)
def test_an_installed_engine_gives_the_known_numbers(
    name: str, facts: dict[str, Any], record_property: RecordProperty
) -> None:
    (finding,) = [each for each in facts["engines"] if each["part"] == name]
    runtimes = [each for each in facts["versions"] if each.startswith("onnxruntime-training")]
    if name == "ort-training" and not runtimes:
        not_run(f"{name} is not installed: {finding['problem']}")
    record_property("did", finding["did"])
    assert finding["works"], finding["problem"]


def test_every_installed_device_gives_the_known_numbers(
    facts: dict[str, Any], record_property: RecordProperty
) -> None:
    record_property("gpus", facts["gpus"])
    if not facts["devices"]:
        not_run("no runtime for a GPU is installed: docs/gpu.md")
    for finding in facts["devices"]:
        record_property(finding["part"], finding["did"] or finding["problem"])
    assert [each["problem"] for each in facts["devices"] if not each["works"]] == []


def losses_on(device: str) -> tuple[list[float], float]:
    """Losses of some steps on one batch of noise, and the median time of a step."""
    package, rung = open_selftest(), read_expected().rung
    batch = example_batch(package, package.rung(rung))
    losses, times_s = [], []
    with create_engine("ort", device=device) as engine:
        engine.open(package, package.initial_state())
        for step in range(1, STEPS + 1):
            hyper = hyper_parameters(
                package.manifest.hyper_parameters, step, steps_per_epoch=1, total_steps=STEPS
            )
            begin_s = time.monotonic()
            losses.append(engine.step(rung, batch, hyper).metrics["loss"])
            times_s.append(time.monotonic() - begin_s)
    return losses, statistics.median(times_s)


def test_every_device_trains_like_the_processor(
    board: str, record_property: RecordProperty
) -> None:
    expected, step_s = losses_on(CPU)
    record_property("losses on cpu", expected)
    record_property("step_s on cpu", step_s)
    assert losses_on(CPU)[0] == expected  # the same bits
    assert np.isfinite(expected).all()
    assert min(expected[STEPS // 2 :]) < expected[0]
    for device in installed_devices():
        losses, step_s = losses_on(device)
        record_property(f"losses on {device}", losses)
        record_property(f"step_s on {device}", step_s)
        assert losses == pytest.approx(expected, rel=LOSS_TOLERANCE), device


def test_pictures_are_decoded(facts: dict[str, Any], record_property: RecordProperty) -> None:
    record_property("did", facts["pictures"]["did"])
    assert facts["pictures"]["works"], facts["pictures"]["problem"]


@pytest.mark.parametrize("suite", ["tests/test_engines.py", "tests/test_handed_over.py"])
def test_packages_of_another_machine_are_trained(
    suite: str, board: str, record_property: RecordProperty
) -> None:
    """The contract of engines, and the losses of every method and token policy."""
    if not os.environ.get(PACKAGES):
        not_run(f"{PACKAGES} names no packages of `python tests/handed_over.py` on a PC")
    for device in [CPU, *installed_devices()]:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", suite],
            env={**os.environ, "EDGE_TRAIN_TEST_DEVICE": device},
            capture_output=True,
            text=True,
            cwd=ROOT,
        )
        assert done.returncode == 0, f"{device}: {done.stdout}"
        passed = re.search(r"(\d+) passed", done.stdout)
        assert passed, done.stdout
        record_property(f"passed on {device}", int(passed[1]))
