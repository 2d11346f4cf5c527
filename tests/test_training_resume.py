"""40 steps in one go, and in processes killed at seeded moments: the same bits."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from edge_runtime.records import open_run

TESTS = Path(__file__).parent
FACTORIES = ["training_fakes:fake_job"]  # `module:function` of tests/, see resume_worker.py
SEEDS = [2, 4, 5]


def train_in_processes(factory: str, folder: Path, run: str, seed: str) -> list[str]:
    """Train to the end; gives what the killed processes were doing."""
    worker = TESTS / "resume_worker.py"
    done = subprocess.run(
        [sys.executable, str(worker), factory, str(folder), str(folder / run), seed],
        capture_output=True,
        text=True,
        cwd=TESTS.parent,
        env={"PYTHONPATH": f"{TESTS}:{TESTS.parent}", "OPENBLAS_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    killed_in: list[str] = json.loads(done.stdout)
    return killed_in


@pytest.mark.parametrize("factory", FACTORIES)
def test_a_killed_and_resumed_run_ends_with_the_same_bits(tmp_path, factory) -> None:
    assert train_in_processes(factory, tmp_path, "whole", "never") == []
    killed_in = []
    for seed in SEEDS:
        killed_in += train_in_processes(factory, tmp_path, f"killed-{seed}", str(seed))
        assert_same_result(tmp_path / "whole", tmp_path / f"killed-{seed}")
    # Also during saves: within the state, and between the state and its place.
    assert {"write", "write_bytes", "fsync", "rename"} <= set(killed_in)


def assert_same_result(whole: Path, killed: Path) -> None:
    left, right = open_run(whole), open_run(killed)
    pairs = list(zip(left.steps(), right.steps(), strict=True))
    assert len(pairs) == 40
    for first, second in pairs:
        assert replace(second, measured=first.measured) == first
    file = "checkpoints/40/state.safetensors"
    assert (whole / file).read_bytes() == (killed / file).read_bytes()
    assert {record.rung for record in right.steps()} == {"k100", "k050"}
