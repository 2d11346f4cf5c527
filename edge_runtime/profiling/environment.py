"""The environment of a run: board, power sensor, power mode, engine and device."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from edge_runtime.device import (
    Board,
    PowerSensor,
    load_board,
    open_sensor,
    power_mode,
    usable_cpus,
)
from edge_runtime.engines import ORT, engine_device, engine_name, engine_runtime, gpu_text
from edge_runtime.engines.forward import TENSORRT, nvidia_gpu
from edge_runtime.errors import DeviceError, RecordsError
from edge_runtime.facts import CostProfile
from edge_runtime.facts.devices import CPU
from edge_runtime.package import Package
from edge_runtime.profiling.cache import (
    EnvironmentKey,
    cached_profile_path,
    check_fits,
    check_package,
    check_sensor_fits,
    load_profile,
)
from edge_runtime.training.metering import calibration_of


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Everything except the package that the cost of a step depends on."""

    board: Board
    board_file: Path | None  # board file; None: it was recognised
    power_mode: str | None  # of the board, where it has modes
    engine: str
    forward_engine: str = ORT  # of the encoders before the package's steps
    runtime: str  # of both, with versions
    device: str  # on which the engine runs
    # With its driver: behind the device, or the forward engine's; None: the CPU, or unknown
    gpu: str | None
    threads: int | None  # of the engine; None: one per processor
    cpus: float  # that this process may use, such as 2 or 0.5
    open_already: PowerSensor | None = None  # the sensor of a meter that already runs

    @classmethod
    def detect(
        cls,
        engine: str = "auto",
        *,
        device: str = CPU,
        threads: int | None = None,
        forward_engine: str = ORT,
        board_file: Path | None = None,
        open_already: PowerSensor | None = None,
    ) -> "Environment":
        """This machine with that engine. Opens neither the engine nor the sensor.

        Raises:
            ConfigError: the board file is wrong, or the engine or its device unknown.
            DeviceError: the board is unknown.
            EngineError: no runtime is installed.
        """
        device = engine_device(engine, device)
        return cls(
            board=load_board(board_file),
            board_file=board_file,
            power_mode=power_mode(),
            engine=engine_name(engine),
            forward_engine=forward_engine,
            runtime=engine_runtime(engine, device, forward_engine),
            device=device,
            gpu=gpu_text(_gpu_device(device, forward_engine)),
            threads=threads,
            cpus=usable_cpus(),
            open_already=open_already,
        )

    @cached_property
    def sensor(self) -> PowerSensor | None:
        """The board's best power sensor, opened at the first use.

        One meter uses it and closes it.
        """
        return self.open_already or open_sensor(self.board)

    @property
    def power_is_estimate(self) -> bool:
        """Whether joules are derived, not read as power."""
        return self.sensor is not None and self.sensor.is_estimate

    @property
    def key(self) -> EnvironmentKey:
        """What a cost profile has to match."""
        return EnvironmentKey(
            board=self.board.id,
            power_mode=self.power_mode,
            engine=self.engine,
            runtime=self.runtime,
            device=self.device,
            gpu=self.gpu,
            threads=self.threads,
            cpus=self.cpus,
        )

    def cached_profile_path(self, package: Package) -> Path:
        """Path of the cached profile of this package in this environment."""
        return cached_profile_path(package.digest, self.key)

    def load_profile(self, package: Package, path: Path) -> CostProfile:
        """A profile that is valid here.

        Raises:
            DeviceError: it does not exist, or was measured in another environment.
            RecordsError: it is damaged, or contradicts the package.
        """
        profile = load_profile(path)
        rungs = [rung.id for rung in package.manifest.rungs]
        check_fits(profile, package.digest, self.key, rungs=rungs)
        check_package(profile, package, f"cost profile {path}")
        return profile

    def cached_profile(
        self, package: Package, report: Callable[[str], None]
    ) -> CostProfile | None:
        """The profile in the cache; `None` if there is none, or none that can be used.

        Args:
            package: the package to train.
            report: called with a line of text if it cannot be used.
        """
        path = self.cached_profile_path(package)
        if not os.path.exists(path):  # also where the cache is no folder
            return None
        try:
            return self.load_profile(package, path)
        except (DeviceError, RecordsError) as error:
            reason = " ".join(str(error).split())
            report(f"the cached costs cannot be used, and are measured again: {reason}")
            return None

    def check_energy(self, profile: CostProfile) -> None:
        """Refuse a profile whose joules another sensor has measured.

        Raises:
            DeviceError: the sensor or its calibration differs.
        """
        sensor = self.sensor
        check_sensor_fits(
            profile,
            sensor=None if sensor is None else sensor.name,
            calibration=calibration_of(sensor, self.board),
        )


def _gpu_device(device: str, forward_engine: str) -> str:
    """The device whose GPU decides what a step costs: on the CPU, the forward engine's."""
    return nvidia_gpu(device) if (device, forward_engine) == (CPU, TENSORRT) else device
