"""Runs in processes that are killed at seeded moments, compared with an uninterrupted one."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

from edge_runtime.records import open_run

TESTS = Path(__file__).parent


def train_in_processes(factory: str, folder: Path, run: str, seed: str) -> list[str]:
    """Train to the end; returns the operations in which processes were killed."""
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


def train_and_kill(factory: str, folder: Path, seeds: list[int]) -> list[str]:
    """Compare killed runs with an uninterrupted one; returns where they were killed."""
    assert train_in_processes(factory, folder, "whole", "never") == []
    killed_in = []
    for seed in seeds:
        killed_in += train_in_processes(factory, folder, f"killed-{seed}", str(seed))
        assert_same_result(folder / "whole", folder / f"killed-{seed}")
    return killed_in


def assert_same_result(whole: Path, killed: Path) -> None:
    left, right = open_run(whole), open_run(killed)
    pairs = list(zip(left.steps(), right.steps(), strict=True))
    assert len(pairs) == 40
    for first, second in pairs:
        assert replace(second, measured=first.measured) == first
    file = "checkpoints/40/state.safetensors"
    assert (whole / file).read_bytes() == (killed / file).read_bytes()
    assert {record.rung for record in right.steps()} == {"k100", "k050"}
