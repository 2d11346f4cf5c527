"""The boards that can be emulated: power rails, clocks, temperatures. Facts only.

Units are in the names. Labels, addresses and file names are those of real boards; idle power
and power per load are plausible values, not measurements, and so are clock rates of the Thor
and of boards without nvpmodel. profiles/ has the sources.
"""

from dataclasses import dataclass, field, replace


@dataclass(frozen=True, slots=True)
class Rail:
    """One channel of a power monitor."""

    label: str
    mv: int  # bus voltage; 0 = channel not connected
    idle_mw: float  # power with an idle CPU
    k_mw: float  # added at 100 % utilisation of all CPUs


@dataclass(frozen=True, slots=True)
class Mode:
    """A power mode of nvpmodel."""

    name: str
    max_khz: int | None = None  # of the CPUs; None: no limit
    gates: int = 0  # parts of the GPU that are off; other ones need a restart


@dataclass(frozen=True, slots=True, kw_only=True)
class Jetson:
    """What only Jetsons have."""

    l4t: str
    modes: tuple[Mode, ...] = ()  # by ID; none: nvpmodel is not emulated
    gpu: str = "17000000.gpu"  # name of the platform device
    gpu_hz: tuple[int, int] = (306_000_000, 918_000_000)
    emc_hz: tuple[int, int] = (204_000_000, 3_199_000_000)
    iio: bool = False  # the ina3221x layout of JetPack 4 instead of hwmon


@dataclass(frozen=True, slots=True, kw_only=True)
class Board:
    """One type of board."""

    name: str
    profile: str  # id of its board profile
    model: str  # of its device tree
    compatible: tuple[str, ...]  # of its device tree
    clocks_khz: tuple[tuple[int, ...], ...]  # of each kind of CPU, the lowest first
    monitors: dict[str, tuple[Rail, ...]] = field(default_factory=dict)  # INA3221, by address
    ina238: Rail | None = None
    pmic: tuple[Rail, ...] = ()  # of a Raspberry Pi's power management chip
    total: tuple[str, ...] = ()  # the rails whose sum is the input power; empty: no sensor
    zones: tuple[str, ...] = ("cpu-thermal",)
    jetson: Jetson | None = None

    @property
    def sensor(self) -> str | None:
        """The power sensor that edge-train should choose."""
        if self.ina238 is not None:
            return "ina238"
        if self.pmic:
            return "rpi-pmic"
        return "ina3221" if self.monitors else None

    @property
    def rails(self) -> list[Rail]:
        """The rails that are connected."""
        of_monitors = [rail for rails in self.monitors.values() for rail in rails if rail.mv]
        return [*([self.ina238] if self.ina238 else []), *of_monitors, *self.pmic]

    @property
    def inputs(self) -> list[Rail]:
        """The rails that form the total."""
        return [rail for rail in self.rails if rail.label in self.total]


_NOT_CONNECTED = Rail("NC", 0, 0, 0)
_ORIN_ZONES = ("cpu-thermal", "gpu-thermal", "soc0-thermal", "tj-thermal")
_ORIN_KHZ = ((115_200, 729_600, 960_000, 1_190_400, 1_497_600, 1_728_000, 1_984_000),)

ORIN_NX = Board(
    name="orin_nx",
    profile="jetson-orin-nx-16gb",
    model="NVIDIA Jetson Orin NX Engineering Reference Developer Kit",
    compatible=("nvidia,p3768-0000+p3767-0000", "nvidia,p3767-0000", "nvidia,tegra234"),
    monitors={
        "1-0040": (
            Rail("VDD_IN", 5000, 4500, 12000),
            Rail("VDD_CPU_GPU_CV", 5000, 700, 8500),
            Rail("VDD_SOC", 5000, 1400, 1800),
        )
    },
    total=("VDD_IN",),
    clocks_khz=_ORIN_KHZ,
    zones=_ORIN_ZONES,
    jetson=Jetson(
        l4t="36.4.3",
        modes=(
            Mode("MAXN", None, 240),
            Mode("10W", 1_190_400, 252),
            Mode("15W", 1_420_800, 252),
            Mode("25W", 1_497_600, 240),
        ),
    ),
)
ORIN_NX_8 = replace(
    ORIN_NX,
    name="orin_nx_8",
    profile="jetson-orin-nx-8gb",
    compatible=("nvidia,p3768-0000+p3767-0001", "nvidia,p3767-0001", "nvidia,tegra234"),
    jetson=Jetson(
        l4t="36.4.3",
        modes=(Mode("MAXN_SUPER", None, 240), Mode("20W", 1_497_600, 240)),
    ),
)
ORIN_NANO_8 = replace(
    ORIN_NX,
    name="orin_nano_8",
    profile="jetson-orin-nano-8gb",
    model="NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
    compatible=("nvidia,p3768-0000+p3767-0005-super", "nvidia,p3767-0005", "nvidia,tegra234"),
    jetson=Jetson(
        l4t="36.4.7",
        modes=(
            Mode("15W", 1_497_600, 240),
            Mode("25W", 1_344_000, 240),
            Mode("MAXN_SUPER", None, 240),
            Mode("7W", 960_000, 252),
        ),
    ),
)
ORIN_NANO_4 = replace(
    ORIN_NANO_8,
    name="orin_nano_4",
    profile="jetson-orin-nano-4gb",
    compatible=("nvidia,p3768-0000+p3767-0004", "nvidia,p3767-0004", "nvidia,tegra234"),
    jetson=Jetson(
        l4t="36.4.7",
        modes=(Mode("10W", 1_497_600, 252), Mode("MAXN_SUPER", None, 252)),
    ),
)

AGX_ORIN = Board(
    name="agx_orin",
    profile="jetson-agx-orin-64gb",
    model="NVIDIA Jetson AGX Orin Developer Kit",
    compatible=("nvidia,p3737-0000+p3701-0005", "nvidia,p3701-0005", "nvidia,tegra234"),
    monitors={
        "1-0040": (
            Rail("VDD_GPU_SOC", 19000, 3800, 3000),
            Rail("VDD_CPU_CV", 19000, 1140, 18000),
            Rail("VIN_SYS_5V0", 5000, 3500, 2500),
        ),
        "1-0041": (_NOT_CONNECTED, Rail("VDDQ_VDD2_1V8AO", 5000, 450, 700), _NOT_CONNECTED),
    },
    total=("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0"),
    clocks_khz=((115_200, 729_600, 1_113_600, 1_497_600, 1_728_000, 2_201_600),),
    zones=_ORIN_ZONES,
    jetson=Jetson(
        l4t="36.4.3",
        modes=(
            Mode("MAXN", None, 0),
            Mode("MODE_15W", 1_113_600, 248),
            Mode("MODE_30W", 1_728_000, 240),
            Mode("MODE_50W", 1_497_600, 0),
        ),
        gpu_hz=(306_000_000, 1_300_500_000),
    ),
)
AGX_ORIN_32 = replace(
    AGX_ORIN,
    name="agx_orin_32",
    profile="jetson-agx-orin-32gb",
    compatible=("nvidia,p3737-0000+p3701-0004", "nvidia,p3701-0004", "nvidia,tegra234"),
    jetson=Jetson(
        l4t="36.4.3",
        modes=(Mode("MAXN", None, 128), Mode("MODE_40W", 1_497_600, 128)),
    ),
)
IGX_ORIN = replace(
    AGX_ORIN,
    name="igx_orin",
    profile="igx-orin",
    model="NVIDIA IGX Orin Development Kit",
    compatible=("nvidia,p3740-0002+p3701-0008", "nvidia,p3701-0008", "nvidia,tegra234"),
    jetson=Jetson(l4t="36.4.3"),
)

AGX_XAVIER = Board(
    name="agx_xavier",
    profile="jetson-agx-xavier",
    model="Jetson-AGX",
    compatible=("nvidia,p2822-0000+p2888-0004", "nvidia,tegra194"),
    monitors={
        "1-0040": (
            Rail("GPU", 19000, 500, 500),
            Rail("CPU", 19000, 900, 14000),
            Rail("SOC", 19000, 1800, 1500),
        ),
        "1-0041": (
            Rail("CV", 19000, 100, 0),
            Rail("VDDRQ", 19000, 400, 1500),
            Rail("SYS5V", 19000, 2900, 600),
        ),
    },
    total=("GPU", "CPU", "SOC", "CV", "VDDRQ", "SYS5V"),
    clocks_khz=((115_200, 1_190_400, 1_420_800, 1_780_000, 2_265_600),),
    zones=("CPU-therm", "GPU-therm"),
    jetson=Jetson(
        l4t="35.4.1",
        modes=(
            Mode("MAXN", None, 0),
            Mode("MODE_10W", 1_200_000, 5),
            Mode("MODE_15W", 1_200_000, 0),
            Mode("MODE_30W_ALL", 1_200_000, 0),
        ),
        gpu="17000000.gv11b",
    ),
)
XAVIER_NX = replace(
    ORIN_NX,
    name="xavier_nx",
    profile="jetson-xavier-nx",
    model="NVIDIA Jetson Xavier NX Developer Kit",
    compatible=("nvidia,p3509-0000+p3668-0000", "nvidia,tegra194"),
    clocks_khz=((115_200, 1_190_400, 1_420_800, 1_907_200),),
    zones=("CPU-therm", "GPU-therm"),
    jetson=Jetson(
        l4t="35.4.1",
        modes=(
            Mode("MODE_15W_2CORE", 1_907_200, 1),
            Mode("MODE_15W_6CORE", 1_420_800, 1),
            Mode("MODE_10W_4CORE", 1_190_400, 1),
        ),
        gpu="17000000.gv11b",
    ),
)

TX2 = Board(
    name="tx2",
    profile="jetson-tx2",
    model="quill",
    compatible=("nvidia,p2597-0000+p3310-1000", "nvidia,tegra186"),
    monitors={
        "0-0040": (
            Rail("VDD_SYS_GPU", 19000, 180, 300),
            Rail("VDD_SYS_SOC", 19000, 730, 400),
            Rail("VDD_4V0_WIFI", 4800, 40, 0),
        ),
        "0-0041": (
            Rail("VDD_IN", 19000, 3000, 9000),
            Rail("VDD_SYS_CPU", 19000, 400, 6500),
            Rail("VDD_SYS_DDR", 19000, 700, 900),
        ),
    },
    total=("VDD_IN",),
    clocks_khz=((345_600, 806_400, 1_200_000, 1_400_000, 2_035_200),),
    zones=("BCPU-therm", "GPU-therm"),
    jetson=Jetson(
        l4t="32.7.4",
        modes=(
            Mode("MAXN"),
            Mode("MAXQ", 1_200_000),
            Mode("MAXP_CORE_ALL", 1_400_000),
            Mode("MAXP_CORE_ARM", 2_000_000),
        ),
        gpu="17000000.gp10b",
        iio=True,
    ),
)

NANO = Board(
    name="nano",
    profile="jetson-nano",
    model="NVIDIA Jetson Nano Developer Kit",
    compatible=(
        "nvidia,p3449-0000-b00+p3448-0000-b00",
        "nvidia,jetson-nano",
        "nvidia,tegra210",
    ),
    monitors={
        "6-0040": (
            Rail("POM_5V_IN", 5000, 1500, 4500),
            Rail("POM_5V_GPU", 5000, 40, 300),
            Rail("POM_5V_CPU", 5000, 300, 3300),
        )
    },
    total=("POM_5V_IN",),
    clocks_khz=((102_000, 518_400, 918_000, 1_224_000, 1_479_000),),
    zones=("CPU-therm", "GPU-therm"),
    jetson=Jetson(
        l4t="32.7.4",
        modes=(Mode("MAXN"), Mode("5W", 918_000)),
        gpu="57000000.gpu",
        gpu_hz=(76_800_000, 921_600_000),
        emc_hz=(204_000_000, 1_600_000_000),
        iio=True,
    ),
)
NANO_2GB = replace(  # with the monitor of the other one, which is not known
    NANO,
    name="nano_2gb",
    profile="jetson-nano-2gb",
    model="NVIDIA Jetson Nano 2GB Developer Kit",
    compatible=("nvidia,p3542-0000+p3448-0003", "nvidia,jetson-nano", "nvidia,tegra210"),
)

THOR = Board(
    name="thor",
    profile="jetson-thor",
    model="NVIDIA Jetson AGX Thor Developer Kit",
    compatible=("nvidia,p4071-0000+p3834-0008", "nvidia,p3834-0008", "nvidia,tegra264"),
    monitors={
        "2-0040": (
            Rail("VDD_GPU", 19000, 2400, 3000),
            Rail("VDD_CPU_SOC_MSS", 19000, 5000, 30000),
            Rail("VIN_SYS_5V0", 5000, 6000, 3000),
        )
    },
    ina238=Rail("VIN", 19000, 23000, 45000),
    total=("VIN",),
    clocks_khz=((972_000, 1_296_000, 1_998_000, 2_601_000),),
    zones=("cpu-thermal", "tj-thermal"),
    jetson=Jetson(
        l4t="38.2.1",
        modes=(
            Mode("MAXN", None, 64),
            Mode("120W", 1_998_000, 64),
            Mode("90W", 1_998_000, 15873),
        ),
    ),
)

PI_5 = Board(
    name="pi_5",
    profile="raspberry-pi-5",
    model="Raspberry Pi 5 Model B Rev 1.0",
    compatible=("raspberrypi,5-model-b", "brcm,bcm2712"),
    pmic=(
        Rail("3V3_SYS", 3310, 300, 200),
        Rail("1V8_SYS", 1800, 350, 100),
        Rail("DDR_VDD2", 1110, 150, 400),
        Rail("VDD_CORE", 800, 1200, 4500),
    ),
    total=("3V3_SYS", "1V8_SYS", "DDR_VDD2", "VDD_CORE"),
    clocks_khz=((1_500_000, 1_800_000, 2_100_000, 2_400_000),),
)
CM5 = replace(
    PI_5,
    name="cm5",
    model="Raspberry Pi Compute Module 5 Rev 1.0",
    compatible=("raspberrypi,5-compute-module", "brcm,bcm2712"),
)
PI_4 = Board(
    name="pi_4",
    profile="raspberry-pi-4",
    model="Raspberry Pi 4 Model B Rev 1.4",
    compatible=("raspberrypi,4-model-b", "brcm,bcm2711"),
    clocks_khz=((600_000, 900_000, 1_200_000, 1_500_000, 1_800_000),),
)
CM4 = replace(
    PI_4,
    name="cm4",
    model="Raspberry Pi Compute Module 4 Rev 1.1",
    compatible=("raspberrypi,4-compute-module", "brcm,bcm2711"),
)
PI_3 = Board(
    name="pi_3",
    profile="raspberry-pi-3",
    model="Raspberry Pi 3 Model B Plus Rev 1.3",
    compatible=("raspberrypi,3-model-b-plus", "brcm,bcm2837"),
    clocks_khz=((600_000, 1_400_000),),
)
_RK3588_KHZ = ((408_000, 1_008_000, 1_416_000, 1_800_000), (408_000, 1_200_000, 2_256_000))
ORANGE_PI_5 = Board(
    name="orange_pi_5",
    profile="orange-pi-5",
    model="Xunlong Orange Pi 5",
    compatible=("xunlong,orangepi-5", "rockchip,rk3588s"),
    clocks_khz=_RK3588_KHZ,
    zones=("package-thermal", "bigcore0-thermal"),
)
ROCK_5B = replace(
    ORANGE_PI_5,
    name="rock_5b",
    profile="rock-5b",
    model="Radxa ROCK 5 Model B",
    compatible=("radxa,rock-5b", "rockchip,rk3588"),
)

_ALL = (
    *(ORIN_NX, ORIN_NX_8, ORIN_NANO_8, ORIN_NANO_4, AGX_ORIN, AGX_ORIN_32, IGX_ORIN),
    *(AGX_XAVIER, XAVIER_NX, TX2, NANO, NANO_2GB, THOR),
    *(PI_3, PI_4, CM4, PI_5, CM5, ORANGE_PI_5, ROCK_5B),
)
BOARDS = {board.name: board for board in _ALL}
MEASURED = {name: board for name, board in BOARDS.items() if board.total}
JTOP_BOARDS = {board.name: board for board in (ORIN_NX, AGX_ORIN, NANO)}  # with its service
