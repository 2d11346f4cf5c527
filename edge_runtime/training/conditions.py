"""What a step's cost depends on besides its package: board, engine, threads, power mode."""

from functools import cached_property
from pathlib import Path

from edge_runtime.device import Board, PowerSensor, load_board, open_sensor, power_mode
from edge_runtime.engines import create_engine
from edge_runtime.facts import CostProfile
from edge_runtime.package import Package
from edge_runtime.planning import check_fits, load_profile
from edge_runtime.planning.cache import cached_profile_path


class Conditions:
    """The board with its power sensor, and the engine that is asked for."""

    def __init__(
        self, engine: str = "auto", *, threads: int | None = None, board_file: Path | None
    ) -> None:
        """Recognise the board; its sensor is not touched yet.

        Raises:
            ConfigError: the board file is wrong.
            DeviceError: the board is unknown.
            EngineError: the engine is not installed.
        """
        chosen = create_engine(engine, threads=threads)
        self.engine, self.runtime, self.threads = chosen.name, chosen.runtime, threads
        self.board_file = board_file
        self.board: Board = load_board(board_file)
        self.power_mode = power_mode()

    @cached_property
    def sensor(self) -> PowerSensor | None:
        """The board's best power sensor, opened when first asked for.

        It is for one meter, which closes it.
        """
        return open_sensor(self.board)

    @property
    def power_is_estimate(self) -> bool:
        """Whether joules are computed from something that is no power."""
        return self.sensor is not None and self.sensor.is_estimate

    def cached_profile_path(self, package: Package) -> Path:
        """Where a profile measured under these conditions is kept."""
        return cached_profile_path(
            package.digest,
            self.board.id,
            self.power_mode,
            f"{self.engine} {self.runtime}",
            self.threads,
        )

    def profile(self, package: Package, path: Path) -> CostProfile:
        """A profile that holds here.

        Raises:
            DeviceError: there is none, or it was measured under other conditions.
            RecordsError: it is damaged.
        """
        profile = load_profile(path)
        check_fits(
            profile,
            package_digest=package.digest,
            board=self.board.id,
            power_mode=self.power_mode,
            engine=self.engine,
            runtime=self.runtime,
            threads=self.threads,
        )
        return profile
