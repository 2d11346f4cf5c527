"""Limits that OpenCV reads from the environment: it ends the process if it cannot."""

import subprocess
import sys

import pytest

from edge_runtime.data.header import MAX_PIXELS
from edge_runtime.data.opencv_limits import limits_of
from edge_runtime.errors import ConfigError

PIXELS = "OPENCV_IO_MAX_IMAGE_PIXELS"


def test_the_limit_on_pixels_is_set_unless_it_is_set() -> None:
    assert limits_of({"HOME": "/root"}) == {PIXELS: str(MAX_PIXELS)}
    for value in ("1000", "20MB", "20kb"):
        assert limits_of({PIXELS: value}) == {PIXELS: value}


@pytest.mark.parametrize("name", [PIXELS, "OPENCV_IO_MAX_IMAGE_WIDTH"])
@pytest.mark.parametrize("value", ["", "junk", "-1", "1e9", "\u0663", "9" * 20, "1 ", "10kB"])
def test_a_limit_that_opencv_cannot_read_is_refused(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"^{name} is .*; OpenCV reads a whole number"):
        limits_of({name: value})


def test_a_command_names_the_variable(tmp_path) -> None:
    run = str(tmp_path / "run")
    command = [sys.executable, "-m", "edge_runtime", "run", str(tmp_path), "digits", "-o", run]
    env = {PIXELS: "junk", "PYTHONPATH": ":".join(filter(None, sys.path))}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"edge-train: {PIXELS} is 'junk'; OpenCV reads")
