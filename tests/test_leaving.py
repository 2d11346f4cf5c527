"""A program ends at once when everything is written, with its output and exit code."""

import subprocess
import sys

PROGRAM = """
import atexit, sys, time
atexit.register(time.sleep, 60)  # as the libraries of a runtime, which take their time
sys.argv = ["edge-train", *sys.argv[1:]]
from edge_runtime.cli.main import main
sys.exit(main())
"""


def test_the_program_leaves_at_once() -> None:
    command = [sys.executable, "-c", PROGRAM, "inspect", "/no/package"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert done.returncode == 3
    assert "edge-train: /no/package" in done.stderr


def test_output_that_is_buffered_is_not_lost() -> None:
    program = "from edge_runtime.leaving import leave; print('all', end=''); leave(7)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (7, "all")


def test_an_output_that_is_closed_does_not_change_the_code() -> None:
    program = (
        "import sys; from edge_runtime.leaving import leave; print('x'); "
        "sys.stdout.close(); leave(7)"
    )
    assert subprocess.run([sys.executable, "-c", program]).returncode == 7
