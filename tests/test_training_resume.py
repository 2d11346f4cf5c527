"""40 steps in one process, and in processes killed at seeded moments: the same bits."""

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from handed_over import handed_over

from edge_runtime.engines import create_engine
from edge_runtime.errors import EngineError
from edge_runtime.records import open_run

TESTS = Path(__file__).parent
FAKE = "training_fakes:fake_job"  # `module:function` of tests/, see resume_worker.py
SEEDS = [2, 4, 5]
REAL = {"ort": "real_jobs:ort_job", "ort-training": "real_jobs:ort_training_job"}


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


def test_a_killed_and_resumed_run_ends_with_the_same_bits(tmp_path) -> None:
    killed_in = train_and_kill(FAKE, tmp_path, SEEDS)
    # Also during saves: within the state, and between the state and its place.
    assert {"write", "state_chunks", "fsync", "rename"} <= set(killed_in)


@pytest.mark.parametrize("engine", REAL)
def test_real_engines_resume_bit_for_bit(request, tmp_path, engine) -> None:
    try:
        create_engine(engine)
    except EngineError as error:
        pytest.skip(str(error))
    given = {path.name: path for path in handed_over()}
    if not given:
        given["mocov3-simprune"] = request.getfixturevalue("small_package")(
            "mocov3", "simprune"
        ).path
    shutil.copytree(given["mocov3-simprune"], tmp_path / "package")
    killed_in = train_and_kill(REAL[engine], tmp_path, [4])
    assert {"write", "state_chunks"} <= set(killed_in)  # in a record, and in a save


def assert_same_result(whole: Path, killed: Path) -> None:
    left, right = open_run(whole), open_run(killed)
    pairs = list(zip(left.steps(), right.steps(), strict=True))
    assert len(pairs) == 40
    for first, second in pairs:
        assert replace(second, measured=first.measured) == first
    file = "checkpoints/40/state.safetensors"
    assert (whole / file).read_bytes() == (killed / file).read_bytes()
    assert {record.rung for record in right.steps()} == {"k100", "k050"}
