"""`edge-train run` as a process: signals, closed outputs, its priority."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from test_cli_run import words

from edge_runtime.records import open_run

__all__ = ["words"]  # the fixture

TESTS = Path(__file__).parent

IMPATIENT = """
import os, signal, sys
import edge_runtime.within_budget
from edge_runtime.cli.main import main
from training_fakes import FakeEngine

class Signalled(FakeEngine):
    def step(self, rung_id, batch, hyper, following=None):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("still alive")

edge_runtime.within_budget.create_engine = lambda *_, **__: Signalled()
sys.exit(main(sys.argv[1:]))
"""


def test_a_second_signal_ends_the_process_at_once(words) -> None:
    done = subprocess.run(
        [sys.executable, "-c", IMPATIENT, *words],
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
        env={"PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
    )
    assert done.returncode == -signal.SIGINT
    assert "Traceback" not in done.stderr


CUT_OFF = """
import os, sys
import edge_runtime.within_budget
from edge_runtime.cli.main import main
from training_fakes import FakeEngine

class Slow(FakeEngine):
    def step(self, rung_id, batch, hyper, following=None):
        if hyper["step"] == 3:
            os.write(2, b"third")
            sys.stdin.read()
        return super().step(rung_id, batch, hyper)

edge_runtime.within_budget.create_engine = lambda *_, **__: Slow()
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_run_with_a_closed_output_saves(words, tmp_path, flags) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", CUT_OFF, *words, *flags],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=TESTS.parent,
        env={"PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
    )
    assert run.stdin
    assert run.stdout
    assert run.stderr
    assert run.stderr.read(5) == "third"
    run.stdout.close()
    run.stdin.close()
    stderr = run.stderr.read()
    run.stderr.close()
    assert run.wait() == 141
    assert "Traceback" not in stderr
    assert "BrokenPipe" not in stderr
    newest = open_run(tmp_path / "run").newest_checkpoint().info.step
    assert 3 <= newest <= 10
    assert "continue with the same command and --resume" in stderr


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_a_run_with_a_full_output_saves(words, tmp_path, flags) -> None:
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-c", CUT_OFF, *words, *flags],
            stdin=subprocess.DEVNULL,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=TESTS.parent,
            env={"PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
        )
    assert done.returncode == 9
    assert "cannot write the output: No space left" in done.stderr
    assert "continue with the same command and --resume" in done.stderr
    assert open_run(tmp_path / "run").newest_checkpoint().info.step < 10


def test_nice_lets_other_programs_go_first(words) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", CUT_OFF, *words, "--nice", "7"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        cwd=TESTS.parent,
        env={"PYTHONPATH": f"{TESTS}:{TESTS.parent}"},
    ) as run:
        assert run.stderr
        assert run.stderr.read(5) == b"third"
        assert os.getpriority(os.PRIO_PROCESS, run.pid) == min(19, 7 + os.nice(0))
        run.communicate()
    assert run.returncode == 0
