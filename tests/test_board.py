import platform
from pathlib import Path

import pytest

from edge_runtime.device import Board, BoardSigns, detect_board, known_boards, load_board
from edge_runtime.errors import ConfigError, DeviceError

OWN = Board(id="shed", name="Shed camera", recognise=BoardSigns(machine=("armv8",)))
OWN_TOML = 'id = "shed"\nname = "Shed camera"\n[recognise]\nmachine = ["armv8"]\n'


def test_this_machine_has_a_board() -> None:
    assert platform.machine() in load_board(None).recognise.machine


@pytest.mark.parametrize(
    ("machine", "board"), [("x86_64", "generic-x86_64"), ("aarch64", "generic-aarch64")]
)
def test_a_board_is_recognised_by_its_machine(machine: str, board: str) -> None:
    assert detect_board(machine).id == board


def test_a_file_wins_over_the_machine(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(OWN_TOML)
    assert load_board(path) == OWN


def test_profiles_are_called_as_their_board() -> None:
    folder = Path(__file__).parents[1] / "profiles"
    assert [board.id for board in known_boards()] == sorted(
        p.stem for p in folder.glob("*.toml")
    )


def test_no_two_profiles_claim_one_machine() -> None:
    claimed = [machine for board in known_boards() for machine in board.recognise.machine]
    assert len(claimed) == len(set(claimed))


def test_every_key_of_a_profile_is_explained() -> None:
    readme = (Path(__file__).parents[1] / "profiles" / "README.md").read_text()
    keys = [name for name in Board.__dataclass_fields__ if name != "recognise"]
    keys += [f"recognise.{name}" for name in BoardSigns.__dataclass_fields__]
    assert [key for key in keys if f"| `{key}` |" not in readme] == []


def test_an_unknown_machine_is_told_what_to_write() -> None:
    with pytest.raises(
        DeviceError, match=r"(?s)'riscv64'.*generic-aarch64 \(aarch64\).*--board"
    ):
        detect_board("riscv64")


def test_all_problems_of_a_file_are_told_at_once(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text('name = 7\ncolour = "red"\n[recognise]\nmachine = ["armv8", 5]\n')
    with pytest.raises(ConfigError) as caught:
        load_board(path)
    message = str(caught.value)
    assert message.startswith(f"board profile {path}: 4 problem(s)")
    for part in (
        "missing key 'id'",
        "name: want a string, got 7",
        "colour",
        "recognise.machine[1]: want a string, got 5",
    ):
        assert part in message


@pytest.mark.parametrize("content", [b"id = ", b"\xff\xfe"], ids=["cut short", "binary"])
def test_a_file_that_is_no_toml_is_named(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"mine\.toml is no TOML"):
        load_board(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none\.toml cannot be read \(No such file"):
        load_board(tmp_path / "none.toml")
