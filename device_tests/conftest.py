"""Fixtures: a real board that is named, and jetson-stats as `make test-system` installs it."""

import argparse
import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

import pytest

from device_tests.real_board.results import PLUGIN, BoardResults, require_board
from edge_runtime.cli.quantities import duration_s
from edge_runtime.device import Board, load_board

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "device_tests/emulated_board/run_jtop_service.sh"
VARIABLE = "EDGE_TRAIN_TEST_JTOP"


# Tests of something else than the board that they run on, which `--board` leaves out.
_EMULATED = "it tests emulated boards"
_NAMESPACES = "it needs namespaces or control groups, and tests the same on every machine"
ELSEWHERE = {
    "test_board_results": "it tests this report",
    "test_cgroup": _NAMESPACES,
    "test_commands_in_cgroup": _NAMESPACES,
    "test_decoding": "it tests the libraries for pictures with a limit of memory",
    "test_emulated_board": _EMULATED,
    "test_fuzzing": "damaged files are the same on every machine",
    "test_jtop": _EMULATED,
    "test_panel_in_tmux": "it needs tmux",
    "test_power_modes": _EMULATED,
    "test_report_page": "it needs Chromium",
    "test_sysfs": _EMULATED,
    "test_tensorrt_bindings": "it reads the bindings of other versions of TensorRT",
    "test_webgpu": "it tests a GPU in software; test_board_engines.py has the real ones",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    """The board under test: what needs a real one fails there instead of being skipped."""
    group = parser.getgroup("real board")
    group.addoption("--board", metavar="NAME", help="the real board that the tests run on")
    group.addoption(
        "--board-results",
        metavar="FILE",
        default="board-results.json",
        type=lambda text: Path(text).absolute(),
        help="what to write about a named board; default: board-results.json",
    )
    group.addoption(
        "--endurance",
        metavar="TIME",
        type=_endurance_s,
        help="also train on a named board for that long, such as 2h; at least 60s",
    )


def _endurance_s(text: str) -> float:
    if (given := duration_s(text)) < 60:
        raise argparse.ArgumentTypeError(f"{text}: a growth is not seen in less than 60s")
    return given


@pytest.fixture(scope="session")
def board(request: pytest.FixtureRequest) -> str:
    """The name of the real board."""
    name: str | None = request.config.getoption("--board")
    if name is None:
        pytest.skip("needs a real board: name it with --board NAME")
    return name


@pytest.fixture(scope="session")
def profile(board: str) -> Board:
    """What edge-train knows about the board."""
    return load_board(None)


@pytest.fixture(scope="session")
def facts(board: str, request: pytest.FixtureRequest) -> dict[str, Any]:
    """What `edge-train doctor --json` says on the board."""
    plugin: BoardResults = request.config.pluginmanager.getplugin(PLUGIN)
    assert "problem" not in plugin.facts, plugin.facts["problem"]
    return plugin.facts


@pytest.fixture(scope="session")
def pictures(board: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of seeded noise."""
    from device_tests.real_board.training import write_noise

    return write_noise(tmp_path_factory.mktemp("noise") / "pictures")


def pytest_configure(config: pytest.Config) -> None:
    """Handle signals as at a terminal, also in the background of a shell; name the board."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    name: str | None = config.getoption("--board")
    if name is None:
        return
    require_board(name)
    if config.getoption("numprocesses", None):
        raise pytest.UsageError("--board measures: leave out -n, one test runs at a time")
    path: Path = config.getoption("--board-results")
    if not path.parent.is_dir():
        raise pytest.UsageError(f"--board-results {path}: there is no folder {path.parent}")
    folder = Path(__file__).parent
    elsewhere = {folder / f"{stem}.py": reason for stem, reason in ELSEWHERE.items()}
    results = BoardResults(name, path, elsewhere, config.invocation_params.args)
    config.pluginmanager.register(results, PLUGIN)


class OnBoard(Protocol):
    def __call__(
        self, board: str, command: Sequence[str], *options: str
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command on an emulated board beside the real jtop service; it must succeed."""


@pytest.fixture
def on_board() -> OnBoard:
    folder = os.environ.get(VARIABLE)
    if not folder:
        pytest.fail(
            f"{VARIABLE} is not an environment with jetson-stats: use make test-system"
        )
    venv = Path(folder).absolute()
    (packages,) = venv.glob("lib/python*/site-packages")

    def run(
        board: str, command: Sequence[str], *options: str
    ) -> "subprocess.CompletedProcess[str]":
        words = [str(SCRIPT), "-b", board, "-p", str(venv / "bin/python"), *options, "--"]
        # The client also uses this environment; the service has only jetson-stats.
        path = os.pathsep.join([str(ROOT), str(packages)])
        done = subprocess.run(
            [*words, "env", f"PYTHONPATH={path}", *command],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done

    return run
