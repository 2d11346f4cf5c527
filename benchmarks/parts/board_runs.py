"""Runs on one emulated board with one cost profile, optionally disturbed half-way.

Times are those of `time.monotonic`.
"""

import math
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from device_tests.emulated_board.driving import DriveOptions, HeatModel
from device_tests.emulated_board.running import RunningBoard, running_board
from edge_runtime.facts import CostProfile
from edge_runtime.package import open_package
from edge_runtime.profiling import load_profile
from parts.common import edge_train, edge_train_command, say, worker_environment
from parts.other_programs import other_programs

BOARD = "orin_nx"
DATA, PICTURES = "digits", 1415
LEAST_STEPS, LEAST_S = 200, 60.0  # of a run that is not refused
# Two virtual processors may be one core or two, alternately: a step then takes 0.21 or 0.30 s
# for minutes, which no schedule could have known.
ONE_THREAD = ("--threads", "1")
# Warm enough to be limited, and within a minute.
HEAT = HeatModel(ambient_c=30.0, k_per_w=3.0, time_constant_s=15.0)
BUSY, BUSY_PROGRAMS = "busy", 2
COOL_S = 2 * HEAT.time_constant_s


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """The common part of all trials."""

    package: Path
    profile_file: Path
    profile: CostProfile
    board: RunningBoard
    epochs: int
    images: int  # per epoch
    steps: int


class Ended(NamedTuple):
    """A run whose process has ended: its exit code, start and end."""

    code: int
    start_s: float
    end_s: float

    @property
    def duration_s(self) -> float:
        """From process start to exit."""
        return self.end_s - self.start_s


@contextmanager
def place_for(package: Path) -> Iterator[Place]:
    """A driven board, and the package's cost profile on it."""
    options = DriveOptions(heat=HEAT)
    batch_size = open_package(package).manifest.batch_size
    epochs = math.ceil(LEAST_STEPS / (PICTURES // batch_size))
    per_epoch = math.ceil(LEAST_STEPS / epochs)
    with tempfile.TemporaryDirectory() as folder, running_board(BOARD, options) as board:
        file = Path(folder) / "profile.json"
        say("profiling")
        words = ["profile", str(package), "-o", str(file), *ONE_THREAD]
        environment = {**board.environment, "EDGE_TRAIN_CACHE": folder}
        edge_train(words, show=True, environment=environment)
        yield Place(
            package=package,
            profile_file=file,
            profile=load_profile(file),
            board=board,
            epochs=epochs,
            images=per_epoch * batch_size,
            steps=epochs * per_epoch,
        )


def run_disturbed(
    place: Place, run_dir: Path, limit: Sequence[str], disturbance: str | None
) -> Ended:
    """Train within a limit, disturbed all the time or half a minute after the first step."""
    words = ["run", str(place.package), DATA, "-o", str(run_dir), *limit, *ONE_THREAD]
    words += ["--epochs", str(place.epochs), "--images", str(place.images)]
    words += ["--profile", str(place.profile_file)]
    environment = {**worker_environment(), **place.board.environment}
    half_s = place.profile.startup_s + LEAST_S / 2
    with other_programs(BUSY_PROGRAMS if disturbance == BUSY else 0):
        start_s = time.monotonic()
        process = subprocess.Popen(
            edge_train_command(words), env=environment, stdout=subprocess.DEVNULL
        )
        timer = threading.Timer(half_s, disturb, [disturbance, place.board, process])
        timer.start()
        code = process.wait()
        end_s = time.monotonic()
        timer.cancel()
        timer.join()  # it may be running at this moment
    place.board.set_factor(1.0)
    return Ended(code, start_s, end_s)


def disturb(kind: str | None, board: RunningBoard, process: "subprocess.Popen[bytes]") -> None:
    """Until the run ends: more power for the same work, or one processor less."""
    if kind == "jump":
        board.set_factor(1.5)
    if kind == "load":
        with other_programs(1):
            process.wait()
