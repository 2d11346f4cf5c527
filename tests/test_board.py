"""Board profiles: how a board is recognised, and errors of wrong files."""

from pathlib import Path

import fake_board
import pytest

from edge_runtime.device import (
    Board,
    BoardSigns,
    Calibration,
    ModeClocks,
    PowerFacts,
    detect_board,
    known_boards,
    load_board,
)
from edge_runtime.errors import ConfigError, DeviceError

OWN = Board(id="shed", name="Shed camera", recognise=BoardSigns(machine=("armv8",)))
OWN_TOML = 'id = "shed"\nname = "Shed camera"\n[recognise]\nmachine = ["armv8"]\n'


def test_this_machine_has_a_board() -> None:
    assert load_board(None) in known_boards()


@pytest.mark.parametrize(
    ("machine", "board"), [("x86_64", "generic-x86_64"), ("aarch64", "generic-aarch64")]
)
def test_a_board_is_recognised_by_its_machine(
    tmp_path: Path, machine: str, board: str
) -> None:
    assert detect_board(machine, root=tmp_path).id == board


def memory(root: Path, gib: float) -> Path:
    fake_board.put(root / "proc/meminfo", f"MemTotal: {round(gib * 2**20)} kB")
    return root


@pytest.mark.parametrize(
    ("compatible", "board"),
    [
        (("nvidia,p3768-0000+p3767-0004-super", "nvidia,tegra234"), "jetson-orin-nano-4gb"),
        (("nvidia,p3768-0000+p3767-0005", "nvidia,p3767-0005"), "jetson-orin-nano-8gb"),
        (("nvidia,p3509-0000+p3767-0003", "nvidia,tegra234"), "jetson-orin-nano-8gb"),
        (("nvidia,p3768-0000+p3767-0001", "nvidia,tegra234"), "jetson-orin-nx-8gb"),
        (("nvidia,p3768-0000+p3767-0000", "nvidia,tegra234"), "jetson-orin-nx-16gb"),
        (("nvidia,p3737-0000+p3701-0004", "nvidia,tegra234"), "jetson-agx-orin-32gb"),
        (("nvidia,p3737-0000+p3701-0005", "nvidia,tegra234"), "jetson-agx-orin-64gb"),
        (("nvidia,p2822-0000+p2888-0001", "nvidia,tegra194"), "jetson-agx-xavier"),
        (("nvidia,p3509-0000+p3668-0000", "nvidia,tegra194"), "jetson-xavier-nx"),
        (("nvidia,p3449-0000-b00+p3448-0000-b00", "nvidia,tegra210"), "jetson-nano"),
        (("nvidia,p4071-0000+p3834-0008", "nvidia,tegra264"), "jetson-thor"),
        (("raspberrypi,4-model-b", "brcm,bcm2711"), "raspberry-pi-4"),
        (("raspberrypi,5-model-b", "brcm,bcm2712"), "raspberry-pi-5"),
        (("raspberrypi,3-model-b-plus", "brcm,bcm2837"), "raspberry-pi-3"),
        (("raspberrypi,3-compute-module", "brcm,bcm2837"), "raspberry-pi-3"),
        (("raspberrypi,4-compute-module", "brcm,bcm2711"), "raspberry-pi-4"),
        (("raspberrypi,5-compute-module", "brcm,bcm2712"), "raspberry-pi-5"),
        (("nvidia,p3542-0000+p3448-0003", "nvidia,tegra210"), "jetson-nano-2gb"),
        (("nvidia,p3449-0000-b00+p3448-0002-b00", "nvidia,tegra210"), "jetson-nano"),
        (("nvidia,p2597-0000+p3310-1000", "nvidia,tegra186"), "jetson-tx2"),
        (("nvidia,p3310", "nvidia,tegra186"), "jetson-tx2"),
        (("nvidia,p2597-0000+p3489-0888", "nvidia,tegra186"), "jetson-tx2-4gb"),
        (("nvidia,p3740-0002+p3701-0008", "nvidia,p3701-0008"), "igx-orin"),
        (("nvidia,p3737-0000+p3701-0008", "nvidia,p3701-0008"), "jetson-agx-orin-64gb"),
        (("xunlong,orangepi-5", "rockchip,rk3588s"), "orange-pi-5"),
        (("rockchip,rk3588s-orangepi-5", "rockchip,rk3588"), "orange-pi-5"),
        (("radxa,rock-5b", "rockchip,rk3588"), "rock-5b"),
        (("radxa,rock-4c-plus", "rockchip,rk3399"), "generic-aarch64"),
    ],
)
def test_the_device_trees_compatible_list_names_the_board(
    tmp_path: Path, compatible: tuple[str, ...], board: str
) -> None:
    # A carrier board of another maker may have any model name.
    fake_board.device_tree(tmp_path, model="Custom carrier", compatible=compatible)
    assert detect_board("aarch64", root=memory(tmp_path, 3.5)).id == board


@pytest.mark.parametrize(
    ("model", "gib", "board"),
    [
        (
            "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
            7.4,
            "orin-nano-8gb",
        ),
        ("NVIDIA Jetson Orin Nano Developer Kit", 3.3, "orin-nano-4gb"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", 7.4, "orin-nx-8gb"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", 15.3, "orin-nx-16gb"),
        ("NVIDIA Jetson Orin NX Engineering Reference Developer Kit", 23.5, "orin-nx-16gb"),
        ("NVIDIA Jetson AGX Orin Developer Kit", 30.0, "agx-orin-32gb"),
        ("NVIDIA Jetson AGX Orin Developer Kit", 61.4, "agx-orin-64gb"),
        ("Jetson-AGX", 31.0, "agx-xavier"),
        ("NVIDIA Jetson Xavier NX Developer Kit", 6.7, "xavier-nx"),
        ("NVIDIA Jetson Nano Developer Kit", 3.9, "nano"),
        ("NVIDIA Jetson Nano 2GB Developer Kit", 1.9, "nano-2gb"),
        ("NVIDIA Jetson AGX Thor Developer Kit", 122.0, "thor"),
    ],
)
@pytest.mark.parametrize("source", ["device tree", "DMI"])
def test_a_models_name_and_the_memory_decide(
    tmp_path: Path, model: str, gib: float, board: str, source: str
) -> None:
    if source == "DMI":
        fake_board.put(tmp_path / "sys/devices/virtual/dmi/id/product_name", model)
    else:
        fake_board.device_tree(tmp_path, model=model)
    # Also on x86, where boards are emulated.
    assert detect_board("x86_64", root=memory(tmp_path, gib)).id == f"jetson-{board}"


def test_the_most_specific_match_decides(tmp_path: Path) -> None:
    fake_board.put(tmp_path / "sys/devices/virtual/dmi/id/product_name", "Jetson AGX Thor")
    assert detect_board("aarch64", root=tmp_path).id == "jetson-thor"
    fake_board.device_tree(tmp_path, model="NVIDIA Jetson Nano Developer Kit")
    assert detect_board("aarch64", root=tmp_path).id == "jetson-nano"
    fake_board.device_tree(
        tmp_path, compatible=("raspberrypi,5-model-b",), model="Jetson Nano"
    )
    assert detect_board("aarch64", root=tmp_path).id == "raspberry-pi-5"


def test_memory_distinguishes_boards_with_one_module_number(tmp_path: Path) -> None:
    fake_board.device_tree(tmp_path, compatible=("nvidia,p3737-0000+p3701-0000",))
    assert detect_board(root=memory(tmp_path, 30.0)).id == "jetson-agx-orin-32gb"
    assert detect_board(root=memory(tmp_path, 61.0)).id == "jetson-agx-orin-64gb"


def test_a_file_wins_over_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN_TOML)
    assert load_board(path) == OWN


def test_profiles_are_called_as_their_board() -> None:
    folder = Path(__file__).parents[1] / "profiles"
    files = sorted(folder.glob("*.toml"))
    assert [board.id for board in known_boards()] == [file.stem for file in files]


def test_no_two_profiles_claim_one_machine() -> None:
    claimed = [machine for board in known_boards() for machine in board.recognise.machine]
    assert len(claimed) == len(set(claimed))


def test_every_profile_has_what_its_board_needs() -> None:
    for board in known_boards():
        is_generic = board.id.startswith("generic")
        is_jetson = board.id.startswith("jetson")
        assert bool(board.recognise.machine) == is_generic
        assert bool(board.recognise.compatible) == bool(board.recognise.model) != is_generic
        assert bool(board.power.total) == (is_jetson or board.id == "igx-orin")
        assert not (is_generic and board.power.idle_w)  # no figure fits every PC
        assert bool(board.power.modes) == is_jetson


def test_a_mode_has_no_more_cores_and_higher_clocks_than_its_board() -> None:
    for board in known_boards():
        most = board.power.modes.get("MAXN") or board.power.modes.get("MAXN_SUPER")
        for mode in board.power.modes.values():
            assert mode.cpus is None or most is None or mode.cpus <= (most.cpus or 0)
            assert mode.cpu_mhz is None or 800 <= mode.cpu_mhz <= 2300
            assert mode.gpu_mhz is None or 300 <= mode.gpu_mhz <= 1300


def test_the_agx_orins_total_is_its_three_inputs() -> None:
    boards = {board.id: board for board in known_boards()}
    for size in ("32gb", "64gb"):
        power = boards[f"jetson-agx-orin-{size}"].power
        assert power.total == ("VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0")
        assert set(power.rails) - set(power.total) == {"VDDQ_VDD2_1V8AO"}


def test_boards_whose_python_is_too_old_have_a_note() -> None:
    boards = [board.id for board in known_boards() if "too old" in (board.note or "")]
    assert boards == [
        "jetson-agx-xavier",
        "jetson-nano-2gb",
        "jetson-nano",
        "jetson-tx2-4gb",
        "jetson-tx2",
        "jetson-xavier-nx",
    ]


def test_values_that_were_not_measured_are_marked() -> None:
    for path in (Path(__file__).parents[1] / "profiles").glob("*.toml"):
        text = path.read_text()
        assert ("idle_w" in text) == ("plausible figures, not measured" in text)


def test_every_key_of_a_profile_is_explained() -> None:
    readme = (Path(__file__).parents[1] / "profiles" / "README.md").read_text()
    tables = {
        "recognise": BoardSigns,
        "power": PowerFacts,
        "power.modes.MODE": ModeClocks,
        "calibration.RAIL": Calibration,
    }
    keys = [
        name
        for name in Board.__dataclass_fields__
        if not any(t.startswith(name) for t in tables)
    ]
    keys += [
        f"{name}.{key}" for name, kind in tables.items() for key in kind.__dataclass_fields__
    ]
    assert [key for key in keys if f"| `{key}` |" not in readme] == []


def test_the_error_for_an_unknown_machine_explains_board_files(tmp_path: Path) -> None:
    with pytest.raises(
        DeviceError, match=r"(?s)'riscv64'.*generic-aarch64 \(aarch64\).*--board"
    ):
        detect_board("riscv64", root=tmp_path)


def test_all_problems_of_a_file_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = 7\ncolour = "red"\n[recognise]\nmachine = ["armv8", 5]\n')
    with pytest.raises(ConfigError) as caught:
        load_board(path)
    message = str(caught.value)
    assert message.startswith(f"board profile {path}: 4 problem(s)")
    for part in (
        "missing key 'id'",
        "name: expected a string, got 7",
        "colour",
        "recognise.machine[1]: expected a string, got 5",
    ):
        assert part in message


@pytest.mark.parametrize("content", [b"id = ", b"\xff\xfe"], ids=["cut short", "binary"])
def test_a_file_that_is_not_valid_toml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"mine\.toml is not valid TOML"):
        load_board(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read \(No such file"):
        load_board(tmp_path / "none.toml")


GOOD_POWER = """
id = "shed"
name = "Shed camera"
[power]
rails = ["VDD_IN", "VDD_SOC"]
total = ["VDD_IN"]
idle_w = 4
full_w = 9.5
[calibration.VDD_IN]
gain = 1.08
"""


def test_the_example_of_the_readme_is_a_board(tmp_path: Path) -> None:
    readme = (Path(__file__).parents[1] / "profiles" / "README.md").read_text()
    path = tmp_path / "mine.toml"
    path.write_text(readme.partition("```toml\n")[2].partition("```")[0])
    board = load_board(path)
    assert (board.id, board.power.total) == ("my-orin-nx", ("VDD_IN",))
    assert board.recognise == BoardSigns()


def test_a_file_may_have_powers_and_calibrations(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD_POWER)
    board = load_board(path)
    assert (board.power.idle_w, board.power.full_w) == (4.0, 9.5)
    assert board.calibration == {"VDD_IN": Calibration(gain=1.08, offset_w=0.0)}


@pytest.mark.parametrize(
    ("good", "bad", "problem"),
    [
        ('total = ["VDD_IN"]', 'total = ["VIN"]',
         "power.total: unknown rail 'VIN'; power.rails are VDD_IN, VDD_SOC"),
        ('total = ["VDD_IN"]', 'total = ["VDD_IN", "VDD_IN"]',
         "power.total: a rail occurs twice in VDD_IN, VDD_IN"),
        ('total = ["VDD_IN"]', 'total = "VDD_IN"',
         "power.total: expected a list, got 'VDD_IN'"),
        ("idle_w = 4", "", "power: give idle_w and full_w, or neither"),
        ("idle_w = 4", "idle_w = -1", "power.idle_w: expected a number in [0, 10000], got -1"),
        ("idle_w = 4", "idle_w = nan", "power.idle_w: expected a finite number, got nan"),
        ("full_w = 9.5", "full_w = 4", "power.full_w: expected more than power.idle_w, got 4"),
        ("gain = 1.08", "gain = 0",
         "calibration['VDD_IN'].gain: expected a number in (0, 10000], got 0"),
        ("gain = 1.08", "offset_w = inf",
         "calibration['VDD_IN'].offset_w: expected a finite number, got inf"),
        ("gain = 1.08", "factor = 2", "unknown key factor; known are gain, offset_w"),
        ("[calibration.VDD_IN]", "[calibration.VIN]", "calibration: unknown rail 'VIN'"),
        ("[power]", "memory_gib = 0\n[power]", "memory_gib: expected a number in (0, 1000"),
    ],
)  # fmt: skip
def test_a_contradiction_is_named(tmp_path: Path, good: str, bad: str, problem: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD_POWER.replace(good, bad))
    with pytest.raises(ConfigError) as caught:
        load_board(path)
    assert problem in str(caught.value)
    assert "1 problem(s)" in str(caught.value)


def test_wrong_types_and_contradictions_are_reported_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(
        'id = 7\n[recognise]\nmodel = "Orin"\n'
        '[power]\nrails = ["VDD_IN", 3]\ntotal = ["VIN"]\nidle_w = "4 W"\nfull_w = -2\n'
        "[calibration]\nVIN = 1.1\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_board(path)
    message = str(caught.value)
    assert message.startswith(f"board profile {path}: 9 problem(s)\n")
    for problem in (
        "id: expected a string, got 7",
        "missing key 'name'",
        "recognise.model: expected a list, got 'Orin'",
        "power.rails[1]: expected a string, got 3",
        "power.idle_w: expected a number, got '4 W'",
        "power.total: unknown rail 'VIN'; power.rails are VDD_IN",
        "calibration: unknown rail 'VIN'; power.rails are VDD_IN",
        "power.full_w: expected a number in (0, 10000], got -2",
        "calibration['VIN']: expected a table, got 1.1",
    ):
        assert problem in message


def test_a_total_without_rails_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD_POWER.replace('rails = ["VDD_IN", "VDD_SOC"]', ""))
    with pytest.raises(ConfigError, match=r"unknown rail 'VDD_IN'; power\.rails are none"):
        load_board(path)


@pytest.mark.parametrize("table", ["power = 3", "calibration = [1]", "recognise = false"])
def test_a_value_instead_of_a_table_is_one_problem(tmp_path: Path, table: str) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(f'id = "shed"\nname = "Shed"\n{table}\n')
    with pytest.raises(ConfigError, match=r"1 problem\(s\)\n  \w+: expected a table"):
        load_board(path)
