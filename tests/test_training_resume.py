"""40 steps in one process, and in processes killed at seeded moments: the same bits."""

import shutil

import pytest
from handed_over import handed_over
from killed_runs import train_and_kill

from edge_runtime.engines import create_engine
from edge_runtime.errors import EngineError

FAKE = "training_fakes:fake_job"  # `module:function` of tests/, see resume_worker.py
SEEDS = [2, 4, 5]
REAL = {"ort": "real_jobs:ort_job", "ort-training": "real_jobs:ort_training_job"}


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
