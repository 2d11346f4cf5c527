"""Power modes of a real board are listed, set and put back.

`pytest device_tests --board NAME`. Only root may set one. That is taken as the permission to
do it; no board is restarted.
"""

import os

import pytest

from device_tests.real_board import kernel
from device_tests.real_board.results import RecordProperty, not_run
from edge_runtime.device import Board, PowerModes, mode_put_back, power_mode, power_modes
from edge_runtime.errors import ModeError


@pytest.fixture
def modes(profile: Board) -> PowerModes:
    modes = power_modes()
    if modes is None and profile.id.startswith("generic-"):
        not_run("neither nvpmodel nor cpufreq lists a power mode of this machine")
    assert modes is not None
    return modes


def test_power_modes_are_listed(
    modes: PowerModes, profile: Board, record_property: RecordProperty
) -> None:
    record_property("kind", modes.kind)
    record_property("names", modes.names())
    record_property("current", modes.current())
    assert power_mode() == modes.current() in modes.names()
    if profile.power.modes:  # newer versions of the system may have others, too
        assert modes.kind == "nvpmodel"
        assert set(modes.names()) & set(profile.power.modes)


def test_power_modes_are_set_and_put_back(
    modes: PowerModes, record_property: RecordProperty
) -> None:
    if os.geteuid() != 0:
        not_run("only root may set a power mode: run it with sudo")
    told: list[str] = []
    refused: dict[str, str] = {}
    settings: dict[str, dict[str, str]] = {}
    before = kernel.clock_settings(), kernel.nvpmodel_answer()
    with mode_put_back(modes, told.append):
        for name in modes.names():
            try:
                modes.set(name)
            except ModeError as error:
                refused[name] = str(error)
                continue
            assert modes.current() == name
            settings[name] = kernel.clock_settings()
    after = kernel.clock_settings(), kernel.nvpmodel_answer()
    record_property("refused", refused)
    record_property("settings", settings)
    record_property("told", told)
    assert after == before
    assert all("restart" in why for why in refused.values()), refused
    # The kernel has seen each of them, whatever nvpmodel says
    different = {tuple(sorted(each.items())) for each in settings.values()}
    assert len(different) == len(settings) > 0
