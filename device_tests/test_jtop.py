"""edge-train and the real jtop service of jetson-stats on emulated boards."""

import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from device_tests.conftest import OnBoard
from device_tests.emulated_board.boards import JTOP_BOARDS


def worker(on_board: OnBoard, board: str, *words: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "device_tests.worker_jtop", *words]
    result: dict[str, Any] = json.loads(on_board(board, command).stdout.splitlines()[-1])
    return result


@pytest.mark.parametrize("name", JTOP_BOARDS)
def test_jtop_shows_rails_totals_and_changes(on_board: OnBoard, name: str) -> None:
    result, board = worker(on_board, name, "rails"), JTOP_BOARDS[name]
    assert result["board"] == board.profile
    idle_w = {rail.label: rail.idle_mw / 1000 for rail in board.rails}
    # Power is the energy counted over a tenth of a second of this machine's clock.
    assert result["before_w"] == pytest.approx(idle_w, rel=0.001)
    assert result["after_w"] == pytest.approx(result["shown_w"], rel=0.001)
    true_w = sum(result["shown_w"][label] for label in board.total)
    assert result["total_w"] == pytest.approx(true_w, rel=0.001)
    assert result["change_s"] < 3.0  # the service reads five times per second, if it can
    assert max(result["jtop_temperatures_c"]) == 61.5
    assert len(result["jtop_temperatures_c"]) == len(board.zones)


def test_jtop_is_chosen_if_the_monitors_cannot_be_read(
    on_board: OnBoard, tmp_path: Path
) -> None:
    result = worker(on_board, "orin_nx", "chosen", str(tmp_path / "sys"))
    assert result["sensor"] == "jtop"
    assert "no ina3221 power monitor" in result["refused"]["ina3221"]


def test_a_killed_service_leaves_a_gap_and_is_reconnected(on_board: OnBoard) -> None:
    result = worker(on_board, "orin_nx", "killed")
    (lost, why, _), (back, _, gap_s) = result["events"]
    assert (lost, back) == ("lost", "back")
    assert "jtop" in why
    assert result["before_j"] == pytest.approx(4.5 * 2.0, rel=0.05)
    assert result["gap_total_w"] is None
    assert result["after_w"] == pytest.approx(9.0, rel=0.02)  # the thread may be delayed
    # The energy in the gap is between those of the powers at its two ends.
    assert 1.0 < result["gap_s"] == pytest.approx(gap_s, abs=0.5)
    known_j = 4.5 * 2.0 + 9.0 * (result["duration_s"] - result["gap_s"] - 2.0)
    in_gap_w = (result["gross_j"] - known_j) / result["gap_s"]
    assert 4.4 <= in_gap_w <= 9.1  # the times of kill and restart are not known exactly


def test_a_run_continues_while_the_service_is_gone(on_board: OnBoard, tmp_path: Path) -> None:
    result = worker(on_board, "orin_nx", "killed_in_run", str(tmp_path))
    assert result["code"] == 130
    assert result["sensor"] == "jtop"
    assert "jtop" in result["lost"]["reason"]
    assert result["lost"]["step"] < result["back"]["step"] < result["step_after"]
    assert result["back"]["gap_s"] > 1.0
    gaps_s = [after - before for before, after in itertools.pairwise(result["times_s"])]
    assert max(gaps_s) == pytest.approx(result["back"]["gap_s"], abs=0.5)
