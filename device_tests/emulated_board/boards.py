"""The boards that can be emulated: power rails, clocks, temperatures. Facts only.

Units are in the names. Labels, addresses and file names are those of real boards; idle power
and power per load are plausible values, not measurements.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rail:
    """One channel of a power monitor."""

    label: str
    mv: int  # bus voltage; 0 = channel not connected
    idle_mw: float  # power with an idle CPU
    k_mw: float  # added at 100 % utilisation of all CPUs


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One type of board."""

    name: str
    model: str  # of its device tree
    compatible: tuple[str, ...]  # of its device tree
    l4t: str
    monitors: dict[str, tuple[Rail, ...]]  # I2C address of each INA3221 -> its channels
    total: tuple[str, ...]  # the rails whose sum is the input power of the module
    modes: tuple[str, ...]  # nvpmodel names, by ID
    cpu_khz: tuple[int, int]  # lowest, highest
    gpu: str  # name of the platform device
    gpu_hz: tuple[int, int]
    emc_hz: tuple[int, int]
    zones: tuple[str, ...]  # thermal
    iio: bool  # the ina3221x layout of JetPack 4 instead of hwmon

    @property
    def rails(self) -> list[Rail]:
        """The rails that are connected."""
        return [rail for rails in self.monitors.values() for rail in rails if rail.mv]

    @property
    def inputs(self) -> list[Rail]:
        """The rails that form the total."""
        return [rail for rail in self.rails if rail.label in self.total]


_NOT_CONNECTED = Rail("NC", 0, 0, 0)
_ORIN_ZONES = ("cpu-thermal", "gpu-thermal", "soc0-thermal", "tj-thermal")

ORIN_NX = Board(
    name="orin_nx",
    model="NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
    compatible=("nvidia,p3768-0000+p3767-0000", "nvidia,p3767-0000", "nvidia,tegra234"),
    l4t="36.4.3",
    monitors={
        "1-0040": (
            Rail("VDD_IN", 5000, 4500, 12000),
            Rail("VDD_CPU_GPU_CV", 5000, 700, 8500),
            Rail("VDD_SOC", 5000, 1400, 1800),
        )
    },
    total=("VDD_IN",),
    modes=("MAXN", "10W", "15W", "25W"),
    cpu_khz=(115_200, 1_984_000),
    gpu="17000000.gpu",
    gpu_hz=(306_000_000, 918_000_000),
    emc_hz=(204_000_000, 3_199_000_000),
    zones=_ORIN_ZONES,
    iio=False,
)

AGX_ORIN = Board(
    name="agx_orin",
    model="NVIDIA Jetson AGX Orin Developer Kit",
    compatible=("nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"),
    l4t="36.4.3",
    monitors={
        "1-0040": (
            Rail("VDD_GPU_SOC", 19000, 3800, 3000),
            Rail("VDD_CPU_CV", 19000, 1140, 18000),
            Rail("VIN_SYS_5V0", 5000, 3500, 2500),
        ),
        "1-0041": (_NOT_CONNECTED, Rail("VDDQ_VDD2_1V8AO", 5000, 450, 700), _NOT_CONNECTED),
    },
    total=("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    modes=("MAXN", "MODE_15W", "MODE_30W", "MODE_50W"),
    cpu_khz=(115_200, 2_201_600),
    gpu="17000000.gpu",
    gpu_hz=(306_000_000, 1_300_500_000),
    emc_hz=(204_000_000, 3_199_000_000),
    zones=_ORIN_ZONES,
    iio=False,
)

NANO = Board(
    name="nano",
    model="NVIDIA Jetson Nano Developer Kit",
    compatible=(
        "nvidia,p3449-0000-b00+p3448-0000-b00",
        "nvidia,jetson-nano",
        "nvidia,tegra210",
    ),
    l4t="32.7.4",
    monitors={
        "6-0040": (
            Rail("POM_5V_IN", 5000, 1500, 4500),
            Rail("POM_5V_GPU", 5000, 40, 300),
            Rail("POM_5V_CPU", 5000, 300, 3300),
        )
    },
    total=("POM_5V_IN",),
    modes=("MAXN", "5W"),
    cpu_khz=(102_000, 1_479_000),
    gpu="57000000.gpu",
    gpu_hz=(76_800_000, 921_600_000),
    emc_hz=(204_000_000, 1_600_000_000),
    zones=("CPU-therm", "GPU-therm"),
    iio=True,
)

BOARDS = {board.name: board for board in (ORIN_NX, AGX_ORIN, NANO)}
