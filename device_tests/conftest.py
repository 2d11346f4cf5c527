"""Fixtures: the environment with jetson-stats that `make test-system` creates."""

import os
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = ROOT / "device_tests/emulated_board/run_jtop_service.sh"
VARIABLE = "EDGE_TRAIN_TEST_JTOP"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The board under test: what needs a real one fails there instead of being skipped."""
    parser.addoption("--board", metavar="NAME", help="the real board that the tests run on")


@pytest.fixture
def board(request: pytest.FixtureRequest) -> str:
    """The name of the real board."""
    name: str | None = request.config.getoption("--board")
    if name is None:
        pytest.skip("needs a real board: name it with --board NAME")
    return name


def pytest_configure() -> None:
    """Handle signals as at a terminal, also in the background of a shell."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


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
